/**
 * While somebody unpacks into an upper, what is dirty is written out all along: the commit, which must wait for the data, then
 * finds little left. (containerd commits within its own write transaction: everybody waits.)
 */
import { toLayerdError } from '../core/errors.js';
import type { SnapshotName } from '../core/snapshots.js';
import type { StoreContext } from './context.js';

/** Dirty bytes of the machine that are left alone. */
const DIRTY_LIMIT = 16 * 1024 * 1024;
/** Who has unpacked so long is not believed to be at it any more. */
const LONGEST_MS = 15 * 60_000;

export class WriteBehind {
  private readonly context: StoreContext;
  private readonly unpacking = new Map<string, NodeJS.Timeout>();
  private ending: AbortController | null = null;

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** Somebody begins to unpack. */
  begin(name: SnapshotName): void {
    this.unpacking.set(
      idOf(name),
      setTimeout(() => this.end(name), LONGEST_MS),
    );
    this.unpacking.get(idOf(name))?.unref();
    // the thread that will sync at the commit: nobody is to wait for its start then
    this.context.pool.prepare('unmount');
    if (this.ending === null) void this.run();
  }

  /** Nobody unpacks into it any more; it may be one that nobody did. */
  end(name: SnapshotName): void {
    clearTimeout(this.unpacking.get(idOf(name)));
    this.unpacking.delete(idOf(name));
    if (this.unpacking.size === 0) this.ending?.abort();
  }

  close(): void {
    for (const timer of this.unpacking.values()) clearTimeout(timer);
    this.unpacking.clear();
    this.ending?.abort();
  }

  private async run(): Promise<void> {
    const ending = new AbortController();
    this.ending = ending;
    try {
      await this.context.pool.run('bulk', 'store.writeBehind', { limit: DIRTY_LIMIT }, { signal: ending.signal });
    } catch (thrown) {
      // The commit syncs all the same.
      if (!ending.signal.aborted) {
        this.context.log.warn({ error: toLayerdError(thrown).toBody() }, 'writing behind ended');
      }
    }
    this.ending = null;
    if (ending.signal.aborted && this.unpacking.size > 0) void this.run();
  }
}

function idOf({ space, key }: SnapshotName): string {
  return `${space}\n${key}`;
}
