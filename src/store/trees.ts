/** Trees of chains: a cache below t/ of drivers that need one. What no container lies on goes with a collection. */
import type { Lower, StoredLayer } from '../../drivers/driver.js';
import type { DriverName } from '../core/words.js';
import { stackOf, type StoreContext } from './context.js';

interface TreeUser {
  driver: DriverName;
  stack: readonly Lower[];
}

export class Trees {
  private readonly context: StoreContext;
  /** Stacks that a snapshot is being made on: it has no row yet, and reads their tree. */
  private readonly users = new Set<TreeUser>();
  /** While trees are being taken away, nobody begins to use one: two short jobs. */
  private removing: Promise<unknown> = Promise.resolve();

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** Runs `work`, which makes a snapshot on this stack, while its tree stays. */
  async using<T>(user: TreeUser, work: () => Promise<T>): Promise<T> {
    await this.removing;
    this.users.add(user);
    try {
      return await work();
    } finally {
      this.users.delete(user);
    }
  }

  /** The stored layers that snapshots lie on, each once. */
  layersInUse(): Set<StoredLayer> {
    const layers = this.needed().flatMap(({ stack }) => stack.filter((lower) => lower.driver !== 'upper'));
    return new Set(new Map(layers.map((layer) => [layer.dir, layer])).values());
  }

  /** What a collection would take, and how much it holds. */
  async unneeded(): Promise<{ name: string; bytes: number }[]> {
    const { pool, places } = this.context;
    const names = await pool.run('short', 'trees.unneeded', { stacks: this.needed() });
    const measures = await pool.run('stream', 'store.measure', { paths: names.map((name) => places.tree(name)) });
    return names.map((name, index) => ({ name, bytes: measures[index]?.disk ?? 0 }));
  }

  /** Moves into the trash those of `names` that still nobody needs; returns them. */
  async remove(names: readonly string[]): Promise<string[]> {
    if (names.length === 0) return [];
    const removal = this.removeNow(new Set(names));
    this.removing = removal.catch(() => undefined);
    return removal;
  }

  private async removeNow(names: ReadonlySet<string>): Promise<string[]> {
    const { pool } = this.context;
    const unneeded = await pool.run('short', 'trees.unneeded', { stacks: this.needed() });
    const trees = unneeded.filter((name) => names.has(name));
    await pool.run('short', 'trash.move', { layers: [], snapshots: [], trees, blobs: [] });
    return trees;
  }

  private needed(): TreeUser[] {
    const { reader } = this.context;
    const rows = reader.snapshotStacks();
    const users = rows.map(({ driver, stack_id }) => ({ driver, stack: stackOf(reader, stack_id).stack }));
    return [...this.users, ...users];
  }
}
