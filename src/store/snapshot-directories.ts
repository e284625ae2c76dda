/** The directories of new snapshots: out of the stock where it has one, made where not. */
import type { SnapshotSpec } from '../../drivers/driver.js';
import type { DriverName } from '../core/words.js';
import type { SnapshotArgs } from '../workers/snapshot-jobs.js';
import { driverFor, newDir, stackOf, type StoreContext } from './context.js';
import type { Discards } from './discards.js';
import type { Stock } from './stock.js';
import type { Trees } from './trees.js';

/** What a snapshot is to be. */
export interface WantedSnapshot extends Pick<SnapshotSpec, 'readOnly' | 'sizeLimit' | 'volatile'> {
  stackId: number | null;
  /** Who owns the root, where that is not as it lies below. */
  rootOwner?: { uid: number; gid: number };
}

/** Where it came to lie. */
export interface SnapshotPlacement {
  dir: string;
  driver: DriverName;
}

export class SnapshotDirectories {
  private readonly context: StoreContext;
  private readonly trees: Trees;
  private readonly discards: Discards;
  private readonly stock: Stock;

  constructor(context: StoreContext, parts: { trees: Trees; discards: Discards; stock: Stock }) {
    this.context = context;
    this.trees = parts.trees;
    this.discards = parts.discards;
    this.stock = parts.stock;
  }

  /**
   * Runs `addRow` for a directory that is there, durable, and not garbage before it has its row. Where that fails, the
   * directory is given up.
   */
  async provide<T>(wanted: WantedSnapshot, addRow: (place: SnapshotPlacement) => Promise<T>): Promise<T> {
    const { staging } = this.context;
    const args = this.describe(wanted);
    const { driver, spec } = args;
    const shelf = shelfOf(wanted, driver);
    const ready = shelf === null ? null : this.stock.take(shelf);
    const snapshot: SnapshotArgs = ready === null ? args : { driver, spec: { ...spec, dir: ready } };
    const { dir } = snapshot.spec;
    staging.add(dir);
    try {
      const made = await this.trees.using({ driver, stack: spec.stack }, async () => {
        if (ready === null) await this.make(snapshot);
        return addRow({ dir, driver });
      });
      if (shelf !== null) this.stock.refill(shelf, snapshot);
      return made;
    } catch (thrown) {
      this.discards.begin(snapshot);
      throw thrown;
    } finally {
      staging.delete(dir);
    }
  }

  /** Where it takes as long as its image is large, it does not stand in the way of short calls. */
  private async make(snapshot: SnapshotArgs): Promise<void> {
    const { pool } = this.context;
    if (await pool.run('short', 'snapshot.createSoon', snapshot)) return;
    await pool.run('bulk', 'snapshot.create', snapshot);
  }

  private describe({ stackId, rootOwner, ...rest }: WantedSnapshot): SnapshotArgs {
    const { stack, root } = stackOf(this.context.reader, stackId);
    return {
      driver: driverFor(this.context, stack),
      spec: { dir: newDir(), stack, root: { ...root, ...rootOwner }, ...rest },
    };
  }
}

/** Snapshots of one kind differ in their directory only; null: of which nothing is made ahead. */
function shelfOf(wanted: WantedSnapshot, driver: DriverName): string | null {
  if (wanted.rootOwner !== undefined) return null;
  return [driver, wanted.stackId, wanted.readOnly, wanted.sizeLimit, wanted.volatile].join(' ');
}
