/** Trees of chains: a cache below t/ of drivers that need one. What no container lies on goes with a collection. */
import type { Lower } from '../../drivers/driver.js';
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
  /** What stacks of snapshots need, by driver and row: stacks never change, so each is asked about once. */
  private names = new Map<string, readonly string[]>();
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

  /** What a collection would take, and how much it holds. */
  async unneeded(): Promise<{ name: string; bytes: number }[]> {
    const { pool, places } = this.context;
    const names = await this.unneededNow();
    if (names.length === 0) return [];
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
    const unneeded = await this.unneededNow();
    const trees = unneeded.filter((name) => names.has(name));
    await pool.run('short', 'trash.move', { layers: [], snapshots: [], trees, blobs: [] });
    return trees;
  }

  /** Names below t/, half-made ones (`NAME.…`) among them, that nobody needs. */
  private async unneededNow(): Promise<string[]> {
    const there = await this.context.pool.run('short', 'trees.there', undefined);
    if (there.length === 0) return [];
    const needed = await this.needed();
    return there.filter((name) => !needed.has(name.replace(/\..*/, '')));
  }

  private async needed(): Promise<Set<string>> {
    const { reader, pool } = this.context;
    const users = [...this.users];
    const rows = reader.snapshotStacks();
    const unknown = rows.filter((row) => !this.names.has(keyOf(row)));
    const stacks = unknown.map(({ driver, stack_id }) => ({ driver, stack: stackOf(reader, stack_id).stack }));
    const found = await pool.run('short', 'trees.names', { stacks: [...users, ...stacks] });
    for (const [index, row] of unknown.entries()) this.names.set(keyOf(row), found[users.length + index] ?? []);
    // those that no snapshot lies on any more are forgotten
    this.names = new Map(rows.map((row) => [keyOf(row), this.names.get(keyOf(row)) ?? []]));
    return new Set([...found.slice(0, users.length), ...this.names.values()].flat());
  }
}

function keyOf({ driver, stack_id: stack }: { driver: DriverName; stack_id: number }): string {
  return `${driver} ${stack}`;
}
