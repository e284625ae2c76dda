/**
 * Committed uppers become layers, in the background, parents before children. What lies on an upper keeps it, since its
 * recipe names it; what is prepared from then on gets the layer; the upper goes with its last user. Rows alone say what is
 * still to be done, so that a start goes on where a crash left off.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { LayerdError, toLayerdError } from '../core/errors.js';
import type { ConversionsApi, FindOriginal, OriginalLayer } from '../core/snapshots.js';
import { elapsedMs } from '../core/units.js';
import type { Usage } from '../core/words.js';
import type { ChainRow, LayerRow } from '../metadata/rows.js';
import type { NamedSnapshotRow } from '../metadata/snapshot-reader.js';
import type { SnapshotArgs } from '../workers/snapshot-jobs.js';
import type { Chains } from './chains.js';
import { driverFor, stackOf, type StoreContext } from './context.js';
import type { Layers } from './layers.js';
import type { Leases } from './leases.js';

interface ConversionParts {
  chains: Chains;
  layers: Layers;
  leases: Leases;
  /** An upper lost its snapshot's row. */
  removed: () => void;
}

export class Conversions implements ConversionsApi {
  private readonly context: StoreContext;
  private readonly parts: ConversionParts;
  private readonly closing = new AbortController();
  /** Whose uppers become layers, and how the door finds the bytes that one was unpacked from. */
  private wanted: { spacePrefix: string; original: FindOriginal; delayMs: number } | null = null;
  private running: Promise<void> | null = null;
  /** Something was committed while it ran. */
  private again = false;
  /** Rows that could not be converted: not tried again before the next start. */
  private readonly stuck = new Set<number>();

  constructor(context: StoreContext, parts: ConversionParts) {
    this.context = context;
    this.parts = parts;
  }

  enable(spacePrefix: string, original: FindOriginal, delayMs = 0): void {
    this.wanted = { spacePrefix, original, delayMs };
    this.begin();
  }

  /** There may be something to do. */
  begin(): void {
    if (this.wanted === null || this.closing.signal.aborted) return;
    this.again = true;
    this.running ??= this.run().finally(() => (this.running = null));
  }

  /** Waits until nothing is left to do. */
  async settled(): Promise<void> {
    while (this.running !== null) await this.running;
  }

  async close(): Promise<void> {
    this.closing.abort();
    await this.settled();
  }

  /** The chain that a committed snapshot is; its upper is made a layer first where it is none. Null for nothing. */
  async chainOf(row: NamedSnapshotRow | null): Promise<ChainRow | null> {
    if (row === null) return null;
    const { reader } = this.context;
    const present = reader.snapshots.byId(row.id);
    if (present === undefined) throw new LayerdError('SNAPSHOT_NOT_FOUND', `snapshot ${row.key} was removed meanwhile`);
    if (present.stack_id === null) return present.chain_id === null ? null : (reader.chain(present.chain_id) ?? null);
    await this.convert(present);
    return this.chainOf(row);
  }

  /** The snapshot that a committed upper was. */
  upperOf(stackId: number): SnapshotArgs {
    const { reader } = this.context;
    const upper = reader.snapshots.upperOn(stackId);
    if (upper === undefined) throw new LayerdError('INTERNAL', 'a committed snapshot has neither a layer nor an upper');
    const { stack, root } = stackOf(reader, upper.below_id);
    const spec = { dir: upper.dir, stack, root, readOnly: false, sizeLimit: null, volatile: false };
    return {
      driver: driverFor(this.context, [...stack, { driver: 'upper', dir: upper.dir, opaqueRoot: false }]),
      spec,
    };
  }

  /** How much a committed upper holds: measured once. */
  async measure(stackId: number): Promise<Usage> {
    const { reader, writer, pool } = this.context;
    const upper = reader.snapshots.upperOn(stackId);
    if (upper === undefined) return { bytes: 0, inodes: 0 };
    if (upper.inodes > 0) return { bytes: upper.disk, inodes: upper.inodes };
    const { bytes, inodes } = await pool.run('stream', 'snapshot.usage', this.upperOf(stackId));
    await writer.run('measureUpper', { dir: upper.dir, disk: bytes, inodes });
    return { bytes, inodes };
  }

  /** What was written into a snapshot as a layer, under a lease; null where nothing was. */
  async layerOf(snapshot: SnapshotArgs, leaseId: string): Promise<LayerRow | null> {
    const { pool, driver } = this.context;
    const arrival = await this.parts.layers.adoptChanges(leaseId, driver, (dir) =>
      pool.run(
        'bulk',
        'snapshot.commit',
        { ...snapshot, layerDriver: driver, dir, pauseCgroup: null },
        { signal: this.closing.signal },
      ),
    );
    return arrival?.layer ?? null;
  }

  private async run(): Promise<void> {
    while (this.again && this.wanted !== null) {
      this.again = false;
      await this.pause(this.wanted.delayMs);
      for (const { id } of this.context.reader.snapshots.unconverted(this.wanted.spacePrefix)) {
        if (this.closing.signal.aborted) return;
        const row = this.context.reader.snapshots.byId(id);
        if (row !== undefined && !this.stuck.has(id)) await this.tryConvert(row);
      }
    }
  }

  private async pause(delayMs: number): Promise<void> {
    const { signal } = this.closing;
    await sleep(delayMs, undefined, { signal, ref: false }).catch((thrown: unknown) => {
      if (!signal.aborted) throw thrown;
    });
  }

  private async tryConvert(row: NamedSnapshotRow): Promise<void> {
    try {
      await this.convert(row);
    } catch (thrown) {
      if (this.closing.signal.aborted) return;
      this.stuck.add(row.id);
      this.context.log.warn({ snapshot: row.key, error: toLayerdError(thrown).toBody() }, 'an upper stays one');
    }
  }

  private async convert(row: NamedSnapshotRow): Promise<void> {
    const { writer, reader, log } = this.context;
    const { stack_id: stackId } = row;
    if (stackId === null) return;
    const below = await this.chainOf(row.parent_id === null ? null : (reader.snapshots.byId(row.parent_id) ?? null));
    await this.measure(stackId);
    const began = performance.now();
    await this.parts.leases.during('convert', async (leaseId) => {
      const layer = await this.layerFor(row, stackId, below, leaseId);
      const step = layer === null ? null : await this.parts.chains.step(layer, below);
      await writer.run('convertSnapshot', { id: row.id, parentChain: below?.id ?? null, step });
      log.debug({ snapshot: row.key, diffId: layer?.diff_id, duration_ms: elapsedMs(began) }, 'upper is a layer');
    });
    this.parts.removed();
  }

  /** The bytes that it was unpacked from, where they are found; else what lies in the upper. */
  private async layerFor(
    row: NamedSnapshotRow,
    stackId: number,
    below: ChainRow | null,
    leaseId: string,
  ): Promise<LayerRow | null> {
    await this.refuseChanged(row, stackId);
    const original = await this.original(row, below);
    if (original !== null) return this.takeOriginal(original, leaseId);
    const layer = await this.layerOf(this.upperOf(stackId), leaseId);
    // what was read must be what was committed
    await this.refuseChanged(row, stackId);
    return layer;
  }

  private async original(row: NamedSnapshotRow, below: ChainRow | null): Promise<OriginalLayer | null> {
    if (this.wanted === null) return null;
    const labels = JSON.parse(row.labels) as Record<string, string>;
    try {
      return await this.wanted.original({ key: row.key, labels, parentChain: below?.chain_id ?? null });
    } catch (thrown) {
      this.context.log.warn({ snapshot: row.key, error: toLayerdError(thrown).toBody() }, 'no original blob');
      return null;
    }
  }

  private async takeOriginal(original: OriginalLayer, leaseId: string): Promise<LayerRow> {
    const { layers } = this.parts;
    const { diffId, blobDigest } = original;
    const expect = { diffId, blobDigest };
    const there = await layers.present(expect, leaseId);
    if (there !== null) return there;
    const { signal } = this.closing;
    const { layer } = await layers.ingest({
      source: { stream: original.open(signal) },
      expect,
      leaseId,
      signal,
      progress: ignore,
    });
    return layer;
  }

  /** An upper that is still mounted somewhere may be written to: that is told, and never becomes a layer. */
  private async refuseChanged(row: NamedSnapshotRow, stackId: number): Promise<void> {
    const { pool, writer, reader } = this.context;
    const upper = reader.snapshots.upperOn(stackId);
    const args = { ...this.upperOf(stackId), micros: row.created };
    if (upper === undefined || !(await pool.run('bulk', 'snapshot.changedSince', args))) return;
    await writer.run('markDamaged', { dir: upper.dir, damaged: true });
    await writer.run('recordEvent', { type: 'snapshot.changed', subject: row.key, data: { dir: upper.dir } });
    throw new LayerdError('SNAPSHOT_PRECONDITION', `snapshot ${row.key} was written to after its commit`, {
      details: { key: row.key, dir: upper.dir },
      hint: 'Somebody still has it mounted writable. Remove the snapshot and pull the image again.',
    });
  }
}

function ignore(): void {
  // Nobody watches.
}
