/** Directories of removed snapshots on their way into the trash. */
import { toLayerdError } from '../core/errors.js';
import type { SnapshotArgs } from '../workers/snapshot-jobs.js';
import type { StoreContext } from './context.js';

/**
 * A removal is answered when its row is gone; moving the directory follows at once. What a crash leaves in between has no
 * row: the next start moves it.
 */
export class Discards {
  private readonly context: StoreContext;
  private waiting: SnapshotArgs[] = [];
  private running: Promise<void> | null = null;

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** Moves the directory of a snapshot without a row into the trash; those that gather meanwhile go in one call. */
  begin(snapshot: SnapshotArgs): void {
    this.context.staging.add(snapshot.spec.dir);
    this.waiting.push(snapshot);
    this.running ??= this.run();
  }

  /** Waits for all that has begun. */
  async settled(): Promise<void> {
    while (this.running !== null) await this.running;
  }

  private async run(): Promise<void> {
    while (this.waiting.length > 0) {
      const snapshots = this.waiting;
      this.waiting = [];
      await this.move(snapshots);
      for (const { spec } of snapshots) this.context.staging.delete(spec.dir);
    }
    this.running = null;
  }

  private async move(snapshots: SnapshotArgs[]): Promise<void> {
    const { pool, leftovers, log } = this.context;
    const failed = await pool
      .run('short', 'snapshot.discard', { snapshots })
      .catch((thrown: unknown) =>
        snapshots.map(({ spec }) => ({ dir: spec.dir, error: toLayerdError(thrown).toBody() })),
      );
    for (const { dir, error } of failed) {
      leftovers.add(dir);
      log.warn({ dir, error }, 'directory stays until the next collection');
    }
  }
}
