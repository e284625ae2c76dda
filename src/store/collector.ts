/** Garbage collection: rows first, then a rename into the trash; unlinking goes on in the background. */
import { setTimeout as sleep } from 'node:timers/promises';
import { digestHex } from '../core/digest.js';
import { toLayerdError } from '../core/errors.js';
import type { GcOptions, GcReport } from '../core/words.js';
import type { Collected } from '../metadata/operations/collect.js';
import { stackOf, type StoreContext } from './context.js';

export interface CollectorSettings {
  intervalMs: number;
  graceMs: number;
  /** Events that are kept. */
  maxEvents: number;
}

/** After a deletion the collector runs this much later, so that a row of deletions is one pass. */
const SOON_MS = 2_000;

export class Collector {
  private readonly context: StoreContext;
  private settings: CollectorSettings;
  private timer: NodeJS.Timeout | null = null;
  private running: Promise<GcReport> | null = null;
  private sweeping: Promise<void> | null = null;
  private closed = false;

  constructor(context: StoreContext, settings: CollectorSettings) {
    this.context = context;
    this.settings = settings;
  }

  /** Begins to run on the timer. */
  start(): void {
    this.schedule(this.settings.intervalMs);
    void this.sweep();
  }

  /** Takes new settings at run time. */
  reconfigure(settings: CollectorSettings): void {
    this.settings = settings;
    this.schedule(settings.intervalMs);
  }

  /** Something was removed: collect soon, rather than at the next interval. */
  soon(): void {
    this.schedule(SOON_MS + this.settings.graceMs);
  }

  async close(): Promise<void> {
    this.closed = true;
    if (this.timer !== null) clearTimeout(this.timer);
    await this.running?.catch(() => undefined);
    await this.sweeping;
  }

  /** Collects now. Passes run one after the other. */
  async run(options: GcOptions = {}): Promise<GcReport> {
    await this.running?.catch(() => undefined);
    this.running = this.pass(options);
    const report = await this.running;
    if (options.dryRun === true) return report;
    const swept = this.sweep();
    if (options.wait !== true) return report;
    await swept;
    return { ...report, freed: report.bytes - report.pinned };
  }

  private async pass(options: GcOptions): Promise<GcReport> {
    const started = performance.now();
    const dryRun = options.dryRun ?? false;
    const { writer, log } = this.context;
    const collected = await writer.run('collect', { graceMs: options.grace ?? this.settings.graceMs, dryRun });
    const trees = dryRun ? [] : await this.unneededTrees();
    const removed = rowsOf(collected);
    const bytes = removed.reduce((sum, row) => sum + row.bytes, 0);
    let pinned = 0;
    if (!dryRun) {
      pinned = await this.toTrash(collected, trees);
      if (removed.length > 0) {
        await writer.run('recordEvent', { type: 'gc.run', subject: '', data: { removed: removed.length, bytes } });
        log.info({ removed: removed.length, bytes, durationMs: performance.now() - started }, 'garbage collected');
      }
      await writer.run('trimEvents', { keep: this.settings.maxEvents });
    }
    return { dryRun, removed, bytes, freed: 0, pinned, durationMs: performance.now() - started };
  }

  /** Renames what lost its row; returns the bytes that mounts elsewhere still hold. */
  private async toTrash(collected: Collected, trees: string[]): Promise<number> {
    const { pool } = this.context;
    const { pinned } = await pool.run('unmount', 'trash.layers', {
      layers: collected.layers.map(({ diffId, dir, driver, bytes }) => ({ diffId, dir, driver, bytes })),
    });
    await pool.run('short', 'trash.move', {
      layers: collected.layers.map((layer) => layer.dir),
      snapshots: [],
      trees,
      blobs: collected.blobs.map((blob) => digestHex(blob.digest)),
    });
    return pinned;
  }

  /** Trees of chains (a cache) that no snapshot needs. */
  private async unneededTrees(): Promise<string[]> {
    const { reader, pool } = this.context;
    const stacks = reader
      .snapshotStacks()
      .map((row) => ({ driver: row.driver, stack: stackOf(reader, row.stack_id).stack }));
    return pool.run('short', 'trees.unneeded', { stacks });
  }

  /** Unlinks what is in the trash, in the background, one sweep at a time. */
  private sweep(): Promise<void> {
    this.sweeping ??= this.sweepOnce().finally(() => (this.sweeping = null));
    return this.sweeping;
  }

  private async sweepOnce(): Promise<void> {
    const { pool, log } = this.context;
    try {
      for (;;) {
        const { remaining, removed, bytes, held } = await pool.run('sweep', 'trash.empty', { entries: 32 });
        if (removed > 0) log.info({ removed, bytes }, 'trash emptied');
        for (const problem of held) log.warn({ problem }, 'trash is held');
        if (remaining === 0 || removed === 0 || this.closed) return;
        await sleep(1);
      }
    } catch (thrown) {
      log.error({ error: toLayerdError(thrown).toBody() }, 'emptying the trash failed');
    }
  }

  private schedule(delayMs: number): void {
    if (this.closed) return;
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.onTimer(), delayMs).unref();
  }

  private async onTimer(): Promise<void> {
    try {
      await this.run();
    } catch (thrown) {
      this.context.log.error({ error: toLayerdError(thrown).toBody() }, 'garbage collection failed');
    }
    this.schedule(this.settings.intervalMs);
  }
}

function rowsOf(collected: Collected): GcReport['removed'] {
  return [
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
  ];
}
