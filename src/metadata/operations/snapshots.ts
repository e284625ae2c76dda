/** Snapshots that doors name. Rows of directories that are there and durable; what they lie on is pinned. */
import { LayerdError } from '../../core/errors.js';
import type { SnapshotKind } from '../../core/snapshots.js';
import type { DriverName } from '../../core/words.js';
import { noSnapshot } from '../snapshot-reader.js';
import type { ChainRow, SnapshotRow } from '../rows.js';
import { extendChain, stackOn, type ChainStep } from './chains.js';
import type { Transaction } from './transaction.js';

interface Named {
  space: string;
  key: string;
}

export interface NewSnapshot extends Named {
  kind: Exclude<SnapshotKind, 'committed'>;
  /** The row of its parent. */
  parentId: number | null;
  dir: string;
  driver: DriverName;
  stackId: number | null;
  volatile: boolean;
  sizeLimit: number | null;
  labels: Record<string, string>;
  /** Microseconds. */
  now: number;
}

/** Makes a snapshot known whose directory is there. */
export function addSnapshot(tx: Transaction, snapshot: NewSnapshot): void {
  refuseTaken(tx, snapshot);
  tx.sql.run(
    `INSERT INTO snapshot (space, key, kind, parent_id, dir, driver, stack_id, read_only, volatile, size_limit, labels,
                           created, updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    snapshot.space,
    snapshot.key,
    snapshot.kind,
    snapshot.parentId,
    snapshot.dir,
    snapshot.driver,
    snapshot.stackId,
    snapshot.kind === 'view' ? 1 : 0,
    snapshot.volatile ? 1 : 0,
    snapshot.sizeLimit,
    JSON.stringify(snapshot.labels),
    snapshot.now,
    snapshot.now,
  );
}

/** A committed snapshot of layers that are here: rows, and no directory. */
export function addCommittedSnapshot(
  tx: Transaction,
  args: Named & {
    parentId: number | null;
    parentChain: number | null;
    step: ChainStep;
    labels: Record<string, string>;
    now: number;
  },
): void {
  refuseTaken(tx, args);
  tx.sql.run(
    `INSERT INTO snapshot (space, key, kind, parent_id, chain_id, read_only, volatile, labels, created, updated)
     VALUES (?, ?, 'committed', ?, ?, 1, 0, ?, ?, ?)`,
    args.space,
    args.key,
    args.parentId,
    chainOf(tx, args),
    JSON.stringify(args.labels),
    args.now,
    args.now,
  );
}

/** The active snapshot is to be this layer, which a lease holds until now. */
export function noteApplied(tx: Transaction, args: Named & { layerId: number }): void {
  const row = requireActive(tx, args);
  tx.sql.run('UPDATE snapshot SET layer_id = ? WHERE id = ?', args.layerId, row.id);
}

/** What a snapshot is from its commit on. */
export type CommittedContent =
  /** A layer upon the chain of its parent (`step` null: nothing but that chain). */
  | { parentChain: number | null; step: ChainStep | null }
  /** Its upper, as it lies there. `root`: JSON of the attributes of its root. */
  | { root: string; opaqueRoot: boolean; driver: 'upper' };

export interface Commit extends Named {
  name: string;
  /** The row of the parent; `rebased`: it had none until now. */
  parentId: number | null;
  rebased: boolean;
  content: CommittedContent;
  labels: Record<string, string>;
  now: number;
}

/** Makes an active snapshot a committed one; returns its directory where that is garbage from now on. */
export function commitSnapshot(tx: Transaction, commit: Commit): { dir: string | null } {
  const row = requireActive(tx, commit);
  if (commit.name !== commit.key) refuseTaken(tx, { space: commit.space, key: commit.name });
  const upper = 'driver' in commit.content ? commit.content : null;
  const chainId = 'step' in commit.content ? chainOf(tx, commit.content) : null;
  const below = commit.rebased ? presentStack(tx, commit.parentId) : row.stack_id;
  const stackId = upper === null ? null : stackUpper(tx, { dir: row.dir, below, ...upper });
  tx.sql.run(
    `UPDATE snapshot SET key = ?, kind = 'committed', parent_id = ?, dir = NULL, driver = NULL, chain_id = ?, stack_id = ?,
       layer_id = NULL, read_only = 1, labels = ?, created = ?, updated = ? WHERE id = ?`,
    commit.name,
    commit.parentId,
    chainId,
    stackId,
    JSON.stringify(commit.labels),
    commit.now,
    commit.now,
    row.id,
  );
  return { dir: upper === null ? row.dir : null };
}

function chainOf(tx: Transaction, content: { parentChain: number | null; step: ChainStep | null }): number | null {
  if (content.step === null) return content.parentChain;
  return extendChain(tx, { parent: content.parentChain, steps: [content.step] })?.id ?? null;
}

/** The stack with a committed upper on top. */
function stackUpper(
  tx: Transaction,
  upper: { dir: string | null; below: number | null; root: string; opaqueRoot: boolean },
): number {
  const stored = tx.sql.insert(
    `INSERT INTO stored_layer (layer_id, driver, dir, inherited, disk, inodes, upper_root, upper_opaque)
     VALUES (NULL, 'upper', ?, '', 0, 0, ?, ?)`,
    upper.dir,
    upper.root,
    upper.opaqueRoot ? 1 : 0,
  );
  const depth = tx.sql.get<{ depth: number }>('SELECT depth FROM stack WHERE id = ?', upper.below)?.depth ?? 0;
  return stackOn(tx, upper.below, stored, depth + 1);
}

/** The stack that a child of a committed snapshot comes to lie on now. */
function presentStack(tx: Transaction, id: number | null): number | null {
  if (id === null) return null;
  const row = tx.sql.get<SnapshotRow>('SELECT * FROM snapshot WHERE id = ?', id);
  if (row === undefined) throw new LayerdError('SNAPSHOT_NOT_FOUND', 'the parent was removed meanwhile');
  if (row.chain_id === null) return row.stack_id;
  return tx.sql.get<ChainRow>('SELECT * FROM chain WHERE id = ?', row.chain_id)?.stack_id ?? null;
}

/** What was written into a committed upper is a layer on this chain now (null: nothing was). Idempotent. */
export function convertSnapshot(
  tx: Transaction,
  args: { id: number; parentChain: number | null; step: ChainStep | null },
): void {
  tx.sql.run(
    "UPDATE snapshot SET chain_id = ?, stack_id = NULL WHERE id = ? AND kind = 'committed' AND chain_id IS NULL",
    chainOf(tx, args),
    args.id,
  );
}

/** How much a committed upper holds. */
export function measureUpper(tx: Transaction, args: { dir: string; disk: number; inodes: number }): void {
  tx.sql.run(
    "UPDATE stored_layer SET disk = ?, inodes = ? WHERE dir = ? AND driver = 'upper'",
    args.disk,
    args.inodes,
    args.dir,
  );
}

/** Replaces the labels, unless they are not those that the new ones were made from: then false. */
export function relabelSnapshot(
  tx: Transaction,
  args: Named & { before: Record<string, string>; labels: Record<string, string>; now: number },
): boolean {
  const row = requireSnapshot(tx, args);
  if (row.labels !== JSON.stringify(args.before)) return false;
  tx.sql.run('UPDATE snapshot SET labels = ?, updated = ? WHERE id = ?', JSON.stringify(args.labels), args.now, row.id);
  return true;
}

/** Removes one that nothing lies on; returns its directory, which is garbage from now on. */
export function removeSnapshot(tx: Transaction, args: Named): { dir: string | null } {
  const row = requireSnapshot(tx, args);
  const child = tx.sql.get<{ key: string }>('SELECT key FROM snapshot WHERE parent_id = ? LIMIT 1', row.id);
  if (child !== undefined) {
    throw new LayerdError(
      'SNAPSHOT_PRECONDITION',
      `cannot remove snapshot with child: ${child.key} lies on ${row.key}`,
      {
        details: { key: row.key, child: child.key },
        hint: 'Remove what lies on it first.',
      },
    );
  }
  tx.sql.run('DELETE FROM snapshot WHERE id = ?', row.id);
  return { dir: row.dir };
}

function requireActive(tx: Transaction, name: Named): SnapshotRow {
  const row = requireSnapshot(tx, name);
  if (row.kind === 'active') return row;
  throw new LayerdError('SNAPSHOT_PRECONDITION', `snapshot ${name.key} is not active: it is ${row.kind}`, {
    details: { key: name.key, kind: row.kind },
  });
}

function requireSnapshot(tx: Transaction, name: Named): SnapshotRow {
  const row = tx.sql.get<SnapshotRow>('SELECT * FROM snapshot WHERE space = ? AND key = ?', name.space, name.key);
  if (row === undefined) throw noSnapshot(name.key);
  return row;
}

function refuseTaken(tx: Transaction, { space, key }: Named): void {
  if (tx.sql.get('SELECT 1 FROM snapshot WHERE space = ? AND key = ?', space, key) === undefined) return;
  throw new LayerdError('SNAPSHOT_EXISTS', `a snapshot ${key} exists`, { details: { key } });
}
