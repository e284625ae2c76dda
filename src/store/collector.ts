/** Garbage collection: rows first, then a rename into the trash; unlinking goes on in the background. */
import { readdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Digest } from '../core/digest.js';
import { toLayerdError } from '../core/errors.js';
import { elapsedMs } from '../core/units.js';
import type { GcOptions, GcReport } from '../core/words.js';
import type { TrashList } from '../disk/trash.js';
import type { Collected } from '../metadata/operations/collect.js';
import { storedLayer, type StoreContext } from './context.js';
import type { Discards } from './discards.js';
import type { ImageFiles } from './image-files.js';
import { clearLeftovers, endOverdue, moveToTrash, noteLeftovers } from './leftovers.js';
import { partialName } from './partials.js';
import type { Stock } from './stock.js';
import type { Trees } from './trees.js';

export interface CollectorSettings {
  /** 0: never on its own. */
  intervalMs: number;
  graceMs: number;
  buildCache: { maxAgeMs: number; maxBytes: number };
  /** Events that are kept. */
  maxEvents: number;
}

/** After a deletion the collector runs this much later, so that a row of deletions is one pass. */
const SOON_MS = 2_000;

/** Layers in use of which memory is given back in one short job. */
const SETTLED_AT_ONCE = 64;

/** Whose background work a collection takes along. */
interface CollectorParts {
  imageFiles: ImageFiles;
  trees: Trees;
  discards: Discards;
  stock: Stock;
}

export class Collector {
  private readonly context: StoreContext;
  private readonly imageFiles: ImageFiles;
  private readonly trees: Trees;
  private readonly discards: Discards;
  private readonly stock: Stock;
  private settings: CollectorSettings;
  private timer: { handle: NodeJS.Timeout; at: number } | null = null;
  private running: Promise<unknown> = Promise.resolve();
  private sweeping: Promise<void> | null = null;
  private settled = performance.now();
  private readonly closing = new AbortController();

  constructor(context: StoreContext, parts: CollectorParts, settings: CollectorSettings) {
    this.context = context;
    this.imageFiles = parts.imageFiles;
    this.trees = parts.trees;
    this.discards = parts.discards;
    this.stock = parts.stock;
    this.settings = settings;
  }

  /** Begins to run on the timer. */
  start(): void {
    this.next();
    void this.sweep();
  }

  /** Takes new settings at run time. */
  reconfigure(settings: CollectorSettings): void {
    this.settings = settings;
    this.stop();
    this.next();
  }

  /** Something was removed: collect soon, rather than at the next interval; not later for what is removed meanwhile. */
  soon(): void {
    if (this.settings.intervalMs > 0) this.schedule(SOON_MS + this.settings.graceMs);
  }

  async close(): Promise<void> {
    this.closing.abort();
    this.stop();
    await this.running;
    await this.sweeping;
    await this.discards.settled();
    await this.stock.clear();
  }

  /** Collects now, and tells what is left for later. */
  async run(options: GcOptions = {}): Promise<GcReport> {
    const report = await this.collect(options);
    return { ...report, waiting: await this.waiting(report) };
  }

  /** Bytes that a collection without a grace period would take. */
  async unneeded(): Promise<number> {
    const { bytes } = await this.pass({ dryRun: true, grace: 0 });
    return bytes;
  }

  /** Passes run one after the other. */
  private async collect(options: GcOptions): Promise<Collection> {
    const pass = this.running.then(() => this.pass(options));
    this.running = pass.catch(() => undefined);
    const report = await pass;
    if (options.dryRun === true) return report;
    await this.discards.settled();
    await (options.wait === true ? this.stock.clear() : this.stock.tidy());
    await clearLeftovers(this.context);
    const swept = this.sweep();
    if (options.wait !== true) return report;
    await swept;
    return { ...report, freed: report.bytes - report.pinned };
  }

  private async pass(options: GcOptions): Promise<Collection> {
    const started = performance.now();
    const dryRun = options.dryRun ?? false;
    const { writer, log } = this.context;
    const { graceMs, buildCache } = this.settings;
    await endOverdue(this.context);
    const collected = await writer.run('collect', { graceMs: options.grace ?? graceMs, dryRun, buildCache });
    const trash = trashOf(collected);
    // Their rows are gone: whatever fails from here on, nothing else remembers them.
    if (!dryRun) noteLeftovers(this.context, trash);
    const trees = await this.trees.unneeded();
    const partials = await this.measured(collected.partials);
    const removed = [...rowsOf(collected, trees), ...partials];
    const bytes = bytesOf(removed);
    let pinned = 0;
    if (!dryRun) {
      pinned = await this.toTrash(collected, trash);
      await this.imageFiles.tidy(collected.images);
      await this.trees.remove(trees.map((tree) => tree.name));
      if (removed.length > 0) {
        await writer.run('recordEvent', { type: 'gc.run', subject: '', data: { removed: removed.length, bytes } });
        log.info({ removed: removed.length, bytes, duration_ms: elapsedMs(started) }, 'garbage collected');
      }
      await writer.run('trimEvents', { keep: this.settings.maxEvents });
    }
    return { dryRun, removed, bytes, freed: 0, pinned, durationMs: elapsedMs(started) };
  }

  /** What a collection without a grace period would take beyond the one that is reported. */
  private async waiting({ dryRun, removed }: Collection): Promise<GcReport['waiting']> {
    const { writer, reader } = this.context;
    if (reader.counts().candidates === 0) return { things: 0, bytes: 0 };
    const { buildCache } = this.settings;
    const collected = await writer.run('collect', { graceMs: 0, dryRun: true, buildCache });
    const all = rowsOf(collected, []).concat(await this.measured(collected.partials));
    const told = new Set(dryRun ? removed.map(keyOf) : []);
    const later = all.filter((row) => !told.has(keyOf(row)));
    return { things: later.length, bytes: bytesOf(later) };
  }

  /** Beginnings of blobs grow without their rows being told: what they occupy is looked up. */
  private async measured(digests: readonly Digest[]): Promise<GcReport['removed']> {
    if (digests.length === 0) return [];
    const { pool, places } = this.context;
    const paths = digests.map((digest) => places.blob(partialName(digest)));
    const measures = await pool.run('stream', 'store.measure', { paths });
    return digests.map((id, index) => ({
      kind: 'partial',
      id,
      bytes: measures[index]?.disk ?? 0,
      why: 'the pull that it is of was given up',
    }));
  }

  /** Renames what lost its row; returns the bytes that mounts elsewhere still hold. */
  private async toTrash({ layers }: Collected, trash: TrashList): Promise<number> {
    if (Object.values(trash).every((names: readonly string[]) => names.length === 0)) return 0;
    const { pinned } = await this.context.pool.run('unmount', 'trash.layers', {
      layers: layers.map(({ diffId, dir, driver, bytes }) => ({ diffId, dir, driver, bytes })),
    });
    await moveToTrash(this.context, trash);
    return pinned;
  }

  /** Unlinks what is in the trash, in the background, one sweep at a time. */
  private sweep(): Promise<void> {
    this.sweeping ??= this.sweepOnce().finally(() => (this.sweeping = null));
    return this.sweeping;
  }

  private async sweepOnce(): Promise<void> {
    const { pool, log, places } = this.context;
    const { signal } = this.closing;
    try {
      // mostly there is nothing, and no thread need start to find that out
      if ((await readdir(places.trash)).length === 0) return;
      const began = performance.now();
      const total = { removed: 0, bytes: 0 };
      for (;;) {
        const { remaining, removed, bytes, held } = await pool.run('sweep', 'trash.empty', { entries: 32 }, { signal });
        total.removed += removed;
        total.bytes += bytes;
        for (const problem of held) log.warn({ problem }, 'trash is held');
        if (remaining === 0 || removed === 0) break;
        await sleep(1);
      }
      if (total.removed > 0) log.info({ ...total, duration_ms: elapsedMs(began) }, 'trash emptied');
    } catch (thrown) {
      // What is left waits for the next start.
      if (signal.aborted) return;
      log.error({ error: toLayerdError(thrown).toBody() }, 'emptying the trash failed');
    }
  }

  /** Once in an interval: what containers read through the mount of a layer need not lie in memory a second time. */
  private async settle(): Promise<void> {
    if (performance.now() - this.settled < this.settings.intervalMs) return;
    this.settled = performance.now();
    const layers = this.context.reader.storedLayersUnderSnapshots().map(storedLayer);
    for (let at = 0; at < layers.length && !this.closing.signal.aborted; at += SETTLED_AT_ONCE) {
      await this.context.pool.run('short', 'layers.settle', { layers: layers.slice(at, at + SETTLED_AT_ONCE) });
    }
  }

  private next(): void {
    if (this.settings.intervalMs > 0) this.schedule(this.settings.intervalMs);
  }

  /** Sets the timer, unless it goes off before that anyway. */
  private schedule(delayMs: number): void {
    if (this.closing.signal.aborted) return;
    const at = performance.now() + delayMs;
    if (this.timer !== null && this.timer.at <= at) return;
    this.stop();
    this.timer = { handle: setTimeout(() => void this.onTimer(), delayMs).unref(), at };
  }

  private stop(): void {
    if (this.timer !== null) clearTimeout(this.timer.handle);
    this.timer = null;
  }

  private async onTimer(): Promise<void> {
    this.timer = null;
    try {
      await this.collect({});
      await this.settle();
    } catch (thrown) {
      this.context.log.error({ error: toLayerdError(thrown).toBody() }, 'garbage collection failed');
    }
    // What waits for the end of its grace period is looked at again when that is over.
    if (this.context.reader.hasCandidates()) this.soon();
    this.next();
  }
}

/** What there is to tell of a collection, before anybody has looked at what it left. */
type Collection = Omit<GcReport, 'waiting'>;

function keyOf({ kind, id, bytes }: GcReport['removed'][number]): string {
  return `${kind} ${id} ${bytes}`;
}

function bytesOf(rows: GcReport['removed']): number {
  return rows.reduce((sum, row) => sum + row.bytes, 0);
}

/** What lost its row, by the names that it has on disk. */
function trashOf({ layers, blobs, partials, uppers }: Collected): TrashList {
  return {
    layers: layers.map((layer) => layer.dir),
    snapshots: uppers.map((upper) => upper.dir),
    trees: [],
    blobs: [...blobs.map((blob) => blob.file), ...partials.map(partialName)],
  };
}

function rowsOf(collected: Collected, trees: readonly { name: string; bytes: number }[]): GcReport['removed'] {
  return [
    ...collected.buildCache.map(({ id, why }) => ({ kind: 'build-cache' as const, id, bytes: 0, why })),
    ...collected.leases.map((id) => ({ kind: 'lease' as const, id, bytes: 0, why: 'it has expired' })),
    ...collected.images.map((id) => ({
      kind: 'image' as const,
      id,
      bytes: 0,
      why: 'no ref, container or lease needs it',
    })),
    ...collected.blobs.map(({ digest, bytes }) => ({
      kind: 'blob' as const,
      id: digest,
      bytes,
      why: 'no image has it in its manifest',
    })),
    ...collected.layers.map(({ diffId, bytes, why }) => ({ kind: 'layer' as const, id: diffId, bytes, why })),
    ...collected.uppers.map(({ dir, bytes }) => ({
      kind: 'snapshot' as const,
      id: dir,
      bytes,
      why: 'no snapshot lies on the committed upper',
    })),
    ...trees.map(({ name, bytes }) => ({ kind: 'tree' as const, id: name, bytes, why: 'no container lies on it' })),
  ];
}
