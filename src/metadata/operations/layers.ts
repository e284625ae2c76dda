import type { Digest } from '../../core/digest.js';
import type { DriverName } from '../../core/words.js';
import { LayerdError } from '../../core/errors.js';
import type { LayerRow, StoredLayerRow } from '../rows.js';
import type { Transaction } from './transaction.js';

export interface NewStoredLayer {
  leaseId: string;
  diffId: Digest;
  size: number;
  entries: number;
  opaqueRoot: boolean;
  implied: boolean;
  /** JSON of the root's attributes where the tar lists its root. */
  root: string | null;
  driver: DriverName;
  dir: string;
  disk: number;
  inodes: number;
  blob: { digest: Digest; size: number; compression: string; kept: boolean; disk: number } | null;
}

/** What became of a stored layer that was to be made known. */
export interface StoredLayerOutcome {
  layerId: number;
  /**
   * added: it has a row now. present: the driver has a whole copy (another load was faster), the directory is garbage.
   * heals: the driver's copies are damaged; the directory is to be exchanged with the first of them.
   */
  outcome: 'added' | 'present' | 'heals';
}

/** Makes a layer that is complete and durable in l/DIR known, under a lease. */
export function addStoredLayer(tx: Transaction, layer: NewStoredLayer): StoredLayerOutcome {
  const layerId = layerOf(tx, layer);
  const copies = tx.sql.all<StoredLayerRow>(
    'SELECT * FROM stored_layer WHERE layer_id = ? AND driver = ?',
    layerId,
    layer.driver,
  );
  if (layer.blob !== null) addBlob(tx, layerId, layer.blob);
  holdLayer(tx, layer.leaseId, layerId);
  if (copies.some((copy) => copy.damaged === 0)) return { layerId, outcome: 'present' };
  if (copies.length > 0) return { layerId, outcome: 'heals' };
  insertStoredLayer(tx, layerId, layer);
  tx.event('layer.create', layer.diffId, { size: layer.size, entries: layer.entries, driver: layer.driver });
  return { layerId, outcome: 'added' };
}

/** Makes one more copy of a known layer known, whose implied directories have other attributes than those there are. */
export function addVariant(
  tx: Transaction,
  args: { layerId: number; driver: DriverName; dir: string; inherited: string; disk: number; inodes: number },
): number {
  return insertStoredLayer(tx, args.layerId, args);
}

function insertStoredLayer(
  tx: Transaction,
  layerId: number,
  copy: { driver: DriverName; dir: string; disk: number; inodes: number; implied?: boolean; inherited?: string },
): number {
  return tx.sql.insert(
    'INSERT INTO stored_layer (layer_id, driver, dir, inherited, disk, inodes) VALUES (?, ?, ?, ?, ?, ?)',
    layerId,
    copy.driver,
    copy.dir,
    copy.inherited ?? (copy.implied === true ? 'open' : ''),
    copy.disk,
    copy.inodes,
  );
}

function layerOf(tx: Transaction, layer: NewStoredLayer): number {
  const there = tx.sql.get<LayerRow>('SELECT * FROM layer WHERE diff_id = ?', layer.diffId);
  if (there !== undefined) return there.id;
  return tx.sql.insert(
    'INSERT INTO layer (diff_id, size, entries, opaque_root, implied, root, created) VALUES (?, ?, ?, ?, ?, ?, ?)',
    layer.diffId,
    layer.size,
    layer.entries,
    layer.opaqueRoot ? 1 : 0,
    layer.implied ? 1 : 0,
    layer.root,
    tx.now,
  );
}

/** Remembers which compressed blob was verified to hold which layer; a kept one also lies in b/HEX. */
function addBlob(tx: Transaction, layerId: number, blob: NonNullable<NewStoredLayer['blob']>): void {
  tx.sql.run(
    `INSERT INTO blob (digest, layer_id, size, compression, kept, disk) VALUES (?, ?, ?, ?, ?, ?)
     ON CONFLICT (digest) DO UPDATE SET kept = max(kept, excluded.kept), disk = max(disk, excluded.disk)`,
    blob.digest,
    layerId,
    blob.size,
    blob.compression,
    blob.kept ? 1 : 0,
    blob.disk,
  );
}

function holdLayer(tx: Transaction, leaseId: string, layerId: number): void {
  requireLease(tx, leaseId);
  tx.sql.run('INSERT OR IGNORE INTO lease_layer (lease_id, layer_id) VALUES (?, ?)', leaseId, layerId);
}

export function requireLease(tx: Transaction, leaseId: string): void {
  if (tx.sql.get('SELECT 1 FROM lease WHERE id = ?', leaseId) === undefined) {
    throw new LayerdError('LEASE_NOT_FOUND', `lease ${leaseId} does not exist or has expired`, {
      details: { lease: leaseId },
      hint: 'Make a new lease, or give it a longer time to live.',
    });
  }
}

/** Protects a layer that is there already. False if it is not (any more): it must be loaded. */
export function holdPresentLayer(
  tx: Transaction,
  args: { leaseId: string; diffId: Digest; blob: NewStoredLayer['blob'] },
): boolean {
  const layer = tx.sql.get<LayerRow>(
    `SELECT * FROM layer WHERE diff_id = ?
     AND EXISTS (SELECT 1 FROM stored_layer WHERE layer_id = layer.id AND damaged = 0)`,
    args.diffId,
  );
  if (layer === undefined) return false;
  holdLayer(tx, args.leaseId, layer.id);
  if (args.blob !== null) addBlob(tx, layer.id, args.blob);
  return true;
}

/** The kept blob is not what its name says: it is kept no more. */
export function dropBlob(tx: Transaction, args: { digest: Digest }): void {
  tx.sql.run('UPDATE blob SET kept = 0, disk = 0 WHERE digest = ?', args.digest);
}

/** `check` or recovery found the bytes wrong: the copy is not taken for present any more. */
export function markDamaged(tx: Transaction, args: { dir: string; damaged: boolean }): void {
  tx.sql.run('UPDATE stored_layer SET damaged = ? WHERE dir = ?', args.damaged ? 1 : 0, args.dir);
}

/** The directory of a damaged copy holds whole bytes again: it was exchanged with a fresh one. */
export function healStoredLayer(tx: Transaction, args: { dir: string; disk: number; inodes: number }): void {
  tx.sql.run(
    'UPDATE stored_layer SET damaged = 0, disk = ?, inodes = ? WHERE dir = ?',
    args.disk,
    args.inodes,
    args.dir,
  );
  const row = tx.sql.get<{ diff_id: Digest }>(
    'SELECT diff_id FROM layer JOIN stored_layer ON layer.id = layer_id WHERE dir = ?',
    args.dir,
  );
  if (row !== undefined) tx.event('layer.heal', row.diff_id, { dir: args.dir });
}

/** Fixes the inherited attributes of a copy that no chain uses yet. */
export function fixInherited(
  tx: Transaction,
  args: { dir: string; inherited: string; disk: number; inodes: number },
): void {
  tx.sql.run(
    'UPDATE stored_layer SET inherited = ?, disk = ?, inodes = ? WHERE dir = ?',
    args.inherited,
    args.disk,
    args.inodes,
    args.dir,
  );
}
