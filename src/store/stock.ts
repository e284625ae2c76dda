/** Directories of snapshots made ahead: a container that takes one costs a row. */
import { toLayerdError } from '../core/errors.js';
import type { SnapshotArgs } from '../workers/snapshot-jobs.js';
import { newDir, type StoreContext } from './context.js';
import { moveToTrash } from './leftovers.js';

/** Ready directories of one kind. */
interface Shelf {
  dirs: string[];
  /** How many are made at a time: more when it was found empty, so that it follows the demand. */
  batch: number;
  filling: Promise<void> | null;
  /** False where the driver makes each snapshot for itself. */
  possible: boolean;
  /** Since the last {@link Stock.tidy}. */
  used: boolean;
}

const FIRST_BATCH = 4;
const LARGEST_BATCH = 64;
/** Kinds that are stocked at a time: images that containers are being made of. */
const SHELVES = 8;

/**
 * A directory in stock is on disk and durable, has no row, and is noted in `context.stock`, so that it is no garbage. It is
 * given up by {@link clear}; what a crash leaves is garbage, and the next start moves it into the trash.
 */
export class Stock {
  private readonly context: StoreContext;
  private readonly shelves = new Map<string, Shelf>();

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** A ready directory for a snapshot of this kind, which is the caller's from now on; null where there is none. */
  take(kind: string): string | null {
    const dir = this.shelves.get(kind)?.dirs.pop() ?? null;
    if (dir !== null) this.context.stock.delete(dir);
    return dir;
  }

  /** A snapshot of this kind was made, and more may come: makes directories ahead, in the background. */
  refill(kind: string, like: SnapshotArgs): void {
    const shelf = this.shelf(kind);
    shelf.used = true;
    if (!shelf.possible || shelf.filling !== null || shelf.dirs.length > shelf.batch / 2) return;
    if (shelf.dirs.length === 0) shelf.batch = Math.min(shelf.batch * 2, LARGEST_BATCH);
    shelf.filling = this.fill(kind, shelf, like).finally(() => (shelf.filling = null));
  }

  /** Gives up the kinds that nobody took from since this was last called. */
  async tidy(): Promise<void> {
    for (const [kind, shelf] of this.shelves) {
      if (!shelf.used) await this.drop(kind, shelf);
      shelf.used = false;
    }
  }

  /** Gives up all that is in stock. */
  async clear(): Promise<void> {
    await Promise.all([...this.shelves].map(([kind, shelf]) => this.drop(kind, shelf)));
  }

  private shelf(kind: string): Shelf {
    const shelf = this.shelves.get(kind) ?? {
      dirs: [],
      batch: FIRST_BATCH / 2,
      filling: null,
      possible: true,
      used: true,
    };
    // the one that was used last is the last to go
    this.shelves.delete(kind);
    this.shelves.set(kind, shelf);
    const [oldest] = this.shelves;
    if (this.shelves.size > SHELVES && oldest !== undefined) void this.drop(...oldest);
    return shelf;
  }

  private async drop(kind: string, shelf: Shelf): Promise<void> {
    this.shelves.delete(kind);
    await shelf.filling;
    await this.discard(shelf.dirs.splice(0));
  }

  private async fill(kind: string, shelf: Shelf, like: SnapshotArgs): Promise<void> {
    const { pool, stock, log } = this.context;
    const dirs = Array.from({ length: shelf.batch }, newDir);
    for (const dir of dirs) stock.add(dir);
    try {
      shelf.possible = await pool.run('short', 'snapshot.ahead', { ...like, dirs });
      if (!shelf.possible) for (const dir of dirs) stock.delete(dir);
      else if (this.shelves.get(kind) === shelf) shelf.dirs.push(...dirs);
      else await this.discard(dirs);
    } catch (thrown) {
      log.warn({ error: toLayerdError(thrown).toBody() }, 'directories were not made ahead');
      await this.discard(dirs);
    }
  }

  private async discard(dirs: readonly string[]): Promise<void> {
    if (dirs.length === 0) return;
    await moveToTrash(this.context, { layers: [], snapshots: dirs, trees: [], blobs: [] });
    for (const dir of dirs) this.context.stock.delete(dir);
  }
}
