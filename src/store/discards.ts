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
  private readonly running = new Set<Promise<void>>();

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** Moves the directory of a snapshot without a row into the trash. */
  begin(snapshot: SnapshotArgs): void {
    const { dir } = snapshot.spec;
    this.context.staging.add(dir);
    const moving = this.move(snapshot).finally(() => {
      this.context.staging.delete(dir);
      this.running.delete(moving);
    });
    this.running.add(moving);
  }

  /** Waits for all that has begun. */
  async settled(): Promise<void> {
    await Promise.all(this.running);
  }

  private async move(snapshot: SnapshotArgs): Promise<void> {
    try {
      await this.context.pool.run('short', 'snapshot.discard', snapshot);
    } catch (thrown) {
      const { dir } = snapshot.spec;
      this.context.leftovers.add(dir);
      this.context.log.warn(
        { dir, error: toLayerdError(thrown).toBody() },
        'directory stays until the next collection',
      );
    }
  }
}
