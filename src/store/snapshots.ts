/** Snapshots that doors name (core/snapshots.ts): their rows, their directories, and what becomes of them at a commit. */
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { wallClockMicros } from '../core/clock.js';
import { chainId, isDigest, type Digest } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import type {
  AdoptOptions,
  AppliedLayer,
  LayerBytes,
  OnSnapshotProgress,
  PrepareOptions,
  SnapshotCommit,
  SnapshotInfo,
  SnapshotName,
  SnapshotsApi,
} from '../core/snapshots.js';
import type { Change, MountInstruction, Usage } from '../core/words.js';
import type { ChainStep } from '../metadata/operations/chains.js';
import type { CommittedContent } from '../metadata/operations/snapshots.js';
import type { ChainRow, LayerRow, LiveSnapshotRow } from '../metadata/rows.js';
import { noSnapshot, type NamedSnapshotRow } from '../metadata/snapshot-reader.js';
import type { SnapshotArgs } from '../workers/snapshot-jobs.js';
import type { Chains } from './chains.js';
import { newDir, snapshotOf, stackOf, type StoreContext } from './context.js';
import type { Conversions } from './conversions.js';
import type { Discards } from './discards.js';
import type { Layers } from './layers.js';
import type { Leases } from './leases.js';
import type { SnapshotDirectories } from './snapshot-directories.js';
import type { SnapshotBytes } from './snapshot-bytes.js';
import type { WriteBehind } from './write-behind.js';

interface SnapshotParts {
  writeBehind: WriteBehind;
  bytes: SnapshotBytes;
  directories: SnapshotDirectories;
  discards: Discards;
  layers: Layers;
  chains: Chains;
  leases: Leases;
  conversions: Conversions;
  /** Something was removed: what it lay on may be garbage. */
  removed: () => void;
  /** Collects what is garbage by now. */
  collect: () => Promise<void>;
}

/** Layers whose chains are computed before others get their turn. */
const LOOKED_AT_A_TIME = 200;

/** The kernel stamps changes with a clock that ticks at least so often. */
const TICK_MS = 10;

export class Snapshots implements SnapshotsApi {
  private readonly context: StoreContext;
  private readonly parts: SnapshotParts;

  constructor(context: StoreContext, parts: SnapshotParts) {
    this.context = context;
    this.parts = parts;
  }

  async prepare(name: SnapshotName, options: PrepareOptions): Promise<SnapshotInfo> {
    const { reader } = this.context;
    if (reader.snapshots.find(name) !== undefined) throw exists(name.key);
    const parent = this.parent(name.space, options.parent, 'INVALID_ARGUMENT');
    const stackId = this.presentStack(parent);
    try {
      const made = await this.make(name, { ...options, parentRow: parent, stackId });
      if (options.unpack === true) this.parts.writeBehind.begin(name);
      return made;
    } catch (thrown) {
      // Its parent became a layer, or was migrated, meanwhile: what it was to lie on may be gone.
      if (this.presentStack(parent === null ? null : (reader.snapshots.byId(parent.id) ?? parent)) === stackId) {
        throw thrown;
      }
      return this.prepare(name, options);
    }
  }

  private async make(
    { space, key }: SnapshotName,
    wanted: PrepareOptions & { parentRow: NamedSnapshotRow | null; stackId: number | null },
  ): Promise<SnapshotInfo> {
    const kind = wanted.view === true ? 'view' : 'active';
    const { stackId, parentRow, rootOwner, labels = {}, sizeLimit = null, volatile = false } = wanted;
    const readOnly = kind === 'view';
    const place = { stackId, readOnly, sizeLimit, volatile, ...(rootOwner === undefined ? {} : { rootOwner }) };
    return this.parts.directories.provide(place, async ({ dir, driver }) => {
      const now = wallClockMicros();
      const parentId = parentRow?.id ?? null;
      const row = { space, key, kind, parentId, dir, driver, stackId, volatile, sizeLimit, labels, now } as const;
      await this.context.writer.run('addSnapshot', row);
      return { key, kind, parent: parentRow?.key ?? null, labels, created: now, updated: now };
    });
  }

  async instructions(name: SnapshotName): Promise<MountInstruction[]> {
    return this.context.pool.run('short', 'snapshot.instructions', this.described(name));
  }

  async mount(name: SnapshotName): Promise<string> {
    return this.context.pool.run('short', 'snapshot.mount', this.described(name));
  }

  async unmount(name: SnapshotName, { force }: { force: boolean }): Promise<void> {
    return this.context.pool.run('unmount', 'snapshot.unmount', { ...this.described(name), force });
  }

  async apply(
    name: SnapshotName,
    { stream, ...expect }: LayerBytes,
    signal: AbortSignal,
    progress: OnSnapshotProgress = ignore,
  ): Promise<AppliedLayer> {
    const { layers, leases } = this.parts;
    this.active(name);
    return leases.during('apply', async (leaseId) => {
      const there = await layers.present(expect, leaseId);
      const arrival =
        there === null
          ? await layers.ingest({
              source: { stream },
              expect,
              leaseId,
              signal,
              progress: ({ bytesOut }) => progress({ phase: 'layer', subject: name.key, done: bytesOut, total: null }),
            })
          : { layer: there, present: true };
      const { layer, present } = arrival;
      await this.context.writer.run('noteApplied', { ...name, layerId: layer.id });
      this.parts.writeBehind.end(name);
      return { diffId: layer.diff_id, size: layer.size, present };
    });
  }

  async commit(name: SnapshotName, commit: SnapshotCommit): Promise<SnapshotInfo> {
    const { reader, writer } = this.context;
    const began = wallClockMicros();
    const row = this.active(name);
    if (commit.name !== name.key && reader.snapshots.find({ space: name.space, key: commit.name }) !== undefined) {
      throw exists(commit.name);
    }
    const { parent, rebased } = this.rebase(row, commit.parent ?? null);
    const labels = commit.labels ?? {};
    const finish = async (content: CommittedContent): Promise<SnapshotInfo> => {
      const parentId = parent?.id ?? null;
      const args = { ...name, name: commit.name, parentId, rebased, content, labels, now: began };
      const { dir } = await writer.run('commitSnapshot', args);
      this.parts.writeBehind.end(name);
      if (dir !== null) this.parts.discards.begin(snapshotOf(reader, row));
      const times = { created: began, updated: began };
      return { key: commit.name, kind: 'committed', parent: parent?.key ?? null, labels, ...times };
    };
    if (row.layer_id !== null) return finish(await this.appliedLayer(row.layer_id, parent));
    const upper = await this.seal(row, { parent, rebased, sync: commit.sync ?? true });
    if (upper === null) return this.commitTree(row, parent, finish);
    // A change after the commit must bear a later time than the commit.
    const elapsed = (wallClockMicros() - began) / 1000;
    if (elapsed < TICK_MS) await sleep(TICK_MS - elapsed);
    const committed = await finish(upper);
    this.parts.conversions.begin();
    return committed;
  }

  /** What a snapshot lies on after its commit, and whether that is new to it. */
  private rebase(row: NamedSnapshotRow, asked: string | null): { parent: NamedSnapshotRow | null; rebased: boolean } {
    if (asked !== null && row.parent_key !== null && asked !== row.parent_key) {
      throw new LayerdError('INVALID_ARGUMENT', `snapshot ${row.key} lies on ${row.parent_key}, not on ${asked}`, {
        details: { key: row.key, expected: asked, found: row.parent_key },
      });
    }
    const parent = this.parent(row.space, asked ?? row.parent_key, 'SNAPSHOT_PRECONDITION');
    return { parent, rebased: parent !== null && row.parent_key === null };
  }

  private async appliedLayer(layerId: number, parent: NamedSnapshotRow | null): Promise<CommittedContent> {
    const layer = this.context.reader.layerByRow(layerId);
    if (layer === undefined) throw new LayerdError('INTERNAL', 'an applied layer has no row');
    const chain = await this.parts.conversions.chainOf(parent);
    return { parentChain: chain?.id ?? null, step: await this.parts.chains.step(layer, chain) };
  }

  /** Null where the driver's snapshots are no uppers. */
  private async seal(
    row: LiveNamed,
    options: { parent: NamedSnapshotRow | null; rebased: boolean; sync: boolean },
  ): Promise<CommittedContent | null> {
    const { reader, pool } = this.context;
    const below = options.rebased ? stackOf(reader, this.presentStack(options.parent)).root : null;
    const sync = options.sync && row.volatile === 0;
    const sealed = await pool.run('unmount', 'snapshot.seal', { ...snapshotOf(reader, row), sync, root: below });
    return sealed === null
      ? null
      : { driver: 'upper', root: JSON.stringify(sealed.root), opaqueRoot: sealed.opaqueRoot };
  }

  /** Of a tree that is no upper, the layer is made before the commit is answered. */
  private commitTree(
    row: LiveNamed,
    parent: NamedSnapshotRow | null,
    finish: (content: CommittedContent) => Promise<SnapshotInfo>,
  ): Promise<SnapshotInfo> {
    const { leases, conversions } = this.parts;
    return leases.during('commit', async (leaseId) => {
      const chain = await conversions.chainOf(parent);
      const layer = await conversions.layerOf(snapshotOf(this.context.reader, row), leaseId);
      return finish({ parentChain: chain?.id ?? null, step: await this.stepOf(layer, chain) });
    });
  }

  private async stepOf(layer: LayerRow | null, chain: ChainRow | null): Promise<ChainStep | null> {
    return layer === null ? null : this.parts.chains.step(layer, chain);
  }

  async adopt(
    space: string,
    { chainId: wanted, parent: key, labels, same, blobDigest }: AdoptOptions,
  ): Promise<SnapshotInfo | null> {
    const { reader, writer } = this.context;
    const parent = this.parent(space, key, 'INVALID_ARGUMENT');
    const there = reader.snapshots.labelled(space, parent?.id ?? null, same, wanted);
    if (there !== undefined) return info(there);
    // An upper that is no layer yet says nothing about chains.
    if (parent !== null && parent.chain_id === null) return null;
    const below = parent?.chain_id === undefined ? null : this.chainRow(parent.chain_id);
    const layer = await this.layerMaking(wanted, below, blobDigest);
    if (layer === null) return null;
    const { layers, leases, chains } = this.parts;
    return leases.during('adopt', async (leaseId) => {
      if ((await layers.present({ diffId: layer.diff_id }, leaseId)) === null) return null;
      const name = { space, key: `${newDir()}/${wanted}` };
      const step = await chains.step(layer, below);
      const now = wallClockMicros();
      const row = { ...name, parentId: parent?.id ?? null, parentChain: below?.id ?? null, step, labels, now };
      await writer.run('addCommittedSnapshot', row);
      return this.stat(name);
    });
  }

  /** The layer that makes this chain upon that one; null where it is not here. */
  private async layerMaking(
    wanted: string,
    below: ChainRow | null,
    blobDigest: Digest | undefined,
  ): Promise<LayerRow | null> {
    const { reader } = this.context;
    const makesIt = (diffId: Digest): boolean => chainId(below?.chain_id ?? null, diffId) === wanted;
    if (isDigest(wanted)) {
      const chain = reader.chainById(wanted);
      if (chain !== undefined) return chain.parent_id === (below?.id ?? null) ? this.layerRow(chain.layer_id) : null;
      if (below === null) return reader.layer(wanted) ?? null;
    }
    if (blobDigest !== undefined) {
      const diffId = reader.blob(blobDigest)?.diff_id ?? blobDigest;
      return makesIt(diffId) ? (reader.layer(diffId) ?? null) : null;
    }
    // It may be here upon another chain, which only its own diff ID tells; others come between.
    let looked = 0;
    for (const { id, diff_id } of reader.diffIds()) {
      if (makesIt(diff_id)) return this.layerRow(id);
      looked += 1;
      if (looked % LOOKED_AT_A_TIME === 0) await nextTurn();
    }
    return null;
  }

  private layerRow(id: number): LayerRow | null {
    return this.context.reader.layerByRow(id) ?? null;
  }

  async remove(name: SnapshotName): Promise<void> {
    const { reader, writer } = this.context;
    const row = this.require(name);
    const { dir } = await writer.run('removeSnapshot', { space: name.space, key: name.key });
    this.parts.writeBehind.end(name);
    if (dir !== null && isLive(row)) this.parts.discards.begin(snapshotOf(reader, row));
    this.parts.removed();
  }

  stat(name: SnapshotName): SnapshotInfo {
    return info(this.require(name));
  }

  *list(space: string): Generator<SnapshotInfo> {
    for (const row of this.context.reader.snapshots.list(space)) yield info(row);
  }

  committed(space: string): number {
    return this.context.reader.snapshots.committed(space);
  }

  async relabel(
    name: SnapshotName,
    change: (labels: Record<string, string>) => Record<string, string>,
  ): Promise<SnapshotInfo> {
    for (;;) {
      const before = this.stat(name).labels;
      const args = { ...name, before, labels: change(before), now: wallClockMicros() };
      if (await this.context.writer.run('relabelSnapshot', args)) return this.stat(name);
    }
  }

  async usage(name: SnapshotName): Promise<Usage> {
    const row = this.require(name);
    if (isLive(row)) return this.context.pool.run('short', 'snapshot.usage', snapshotOf(this.context.reader, row));
    if (row.stack_id !== null) return this.parts.conversions.measure(row.stack_id);
    const layer = this.ownLayer(row);
    const copy = layer === null ? undefined : this.context.reader.storedLayers(layer.id)[0];
    return { bytes: copy?.disk ?? 0, inodes: copy?.inodes ?? 0 };
  }

  diff(name: SnapshotName, signal: AbortSignal): AsyncIterable<Buffer> {
    const row = this.require(name);
    const layer = this.ownLayer(row);
    if (layer !== null) return this.parts.bytes.layer(layer, signal);
    return this.parts.bytes.diff(this.written(row), signal);
  }

  changes(name: SnapshotName, signal: AbortSignal): AsyncIterable<Change[]> {
    return this.parts.bytes.changes(this.written(this.require(name)), signal);
  }

  layer(name: SnapshotName): Digest | null {
    return this.ownLayer(this.require(name))?.diff_id ?? null;
  }

  owner(path: string): SnapshotName | null {
    const { places, reader } = this.context;
    if (!path.startsWith(`${places.snapshots}/`)) return null;
    const [dir = ''] = path.slice(places.snapshots.length + 1).split('/');
    const row = reader.snapshots.byDir(dir);
    return row === undefined ? null : { space: row.space, key: row.key };
  }

  cleanup(): Promise<void> {
    return this.parts.collect();
  }

  /** The upper that holds what was written: a live snapshot's, or a committed one that is no layer yet. */
  private written(row: NamedSnapshotRow): SnapshotArgs {
    if (isLive(row)) return snapshotOf(this.context.reader, row);
    if (row.stack_id !== null) return this.parts.conversions.upperOf(row.stack_id);
    throw precondition(row.key, 'it is a layer, or nothing: only what was written can be compared');
  }

  /** The layer that was applied to it, or that it is; null for what is none, or lies on its parent's chain without more. */
  private ownLayer(row: NamedSnapshotRow): LayerRow | null {
    const { reader } = this.context;
    if (row.layer_id !== null) return reader.layerByRow(row.layer_id) ?? null;
    if (row.chain_id === null || row.kind !== 'committed') return null;
    const parent = row.parent_id === null ? undefined : reader.snapshots.byId(row.parent_id);
    if (parent?.chain_id === row.chain_id) return null;
    return reader.layerByRow(this.chainRow(row.chain_id)?.layer_id ?? 0) ?? null;
  }

  private chainRow(id: number | null): ChainRow | null {
    return id === null ? null : (this.context.reader.chain(id) ?? null);
  }

  /** What a child of it comes to lie on now. */
  private presentStack(row: NamedSnapshotRow | null): number | null {
    if (row === null) return null;
    return row.chain_id === null ? row.stack_id : (this.chainRow(row.chain_id)?.stack_id ?? null);
  }

  private parent(space: string, key: string | null, wrongKind: 'INVALID_ARGUMENT' | 'SNAPSHOT_PRECONDITION') {
    if (key === null) return null;
    const row = this.require({ space, key });
    if (row.kind === 'committed') return row;
    throw new LayerdError(wrongKind, `the parent ${key} is not committed: it is ${row.kind}`, {
      details: { parent: key, kind: row.kind },
    });
  }

  private require(name: SnapshotName): NamedSnapshotRow {
    const row = this.context.reader.snapshots.find(name);
    if (row === undefined) throw noSnapshot(name.key);
    return row;
  }

  private active(name: SnapshotName): LiveNamed {
    const row = this.require(name);
    if (row.kind === 'active' && isLive(row)) return row;
    throw precondition(name.key, `it is ${row.kind}, not active`);
  }

  private described(name: SnapshotName): SnapshotArgs {
    const row = this.require(name);
    if (isLive(row)) return snapshotOf(this.context.reader, row);
    throw precondition(name.key, 'it is committed, and is mounted through what lies on it');
  }
}

type LiveNamed = NamedSnapshotRow & LiveSnapshotRow;

function isLive(row: NamedSnapshotRow): row is LiveNamed {
  return row.dir !== null && row.driver !== null;
}

function info(row: NamedSnapshotRow): SnapshotInfo {
  const { key, kind, parent_key: parent, created, updated } = row;
  return { key, kind, parent, labels: JSON.parse(row.labels) as Record<string, string>, created, updated };
}

function exists(key: string): LayerdError {
  return new LayerdError('SNAPSHOT_EXISTS', `a snapshot ${key} exists`, { details: { key } });
}

function precondition(key: string, why: string): LayerdError {
  return new LayerdError('SNAPSHOT_PRECONDITION', `snapshot ${key}: ${why}`, { details: { key } });
}

function ignore(): void {
  // Nobody watches.
}
