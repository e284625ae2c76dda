import { createHash, randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { catalogFile, catalogTree } from '../../src/content/catalog-file.js';
import type { LayerTree } from '../../src/content/layer-tree.js';
import { mergeTrees, type MergedNode } from '../../src/content/merge.js';
import type { ByteSource } from '../../src/content/source.js';
import { isErrno } from '../../src/core/errors.js';
import type { DriverName } from '../../src/core/words.js';
import { onlyLayers, type DriverContext, type Lower, type StoredLayer, type TreeKeeper } from '../driver.js';
import type { TreeTools } from './tools.js';

/**
 * One tree per stack that a container lies on, t/NAME/t, named by the driver and the diff IDs of the stack. A cache:
 * what no container needs may go, and is made again from the layers' tars.
 */
export abstract class ChainTrees implements TreeKeeper {
  protected readonly context: DriverContext;
  protected readonly tools: TreeTools;
  private readonly driver: DriverName;

  constructor(driver: DriverName, context: DriverContext, tools: TreeTools) {
    this.driver = driver;
    this.context = context;
    this.tools = tools;
  }

  /** Makes the tree of the stack at `path`, which is not there. What it leaves behind on failure is removed. */
  protected abstract make(path: string, stack: readonly StoredLayer[]): Promise<void>;

  async ensure(stack: readonly StoredLayer[]): Promise<string> {
    const name = this.nameOf(stack);
    if (!this.isThere(stack)) await this.publish(name, stack);
    return name;
  }

  isThere(stack: readonly StoredLayer[]): boolean {
    return existsSync(this.rootOf(stack));
  }

  /** As {@link ensure}; the path of the tree's root. */
  async root(stack: readonly StoredLayer[]): Promise<string> {
    await this.ensure(stack);
    return this.rootOf(stack);
  }

  names(stacks: readonly (readonly Lower[])[]): Set<string> {
    return new Set(stacks.map((stack) => this.nameOf(onlyLayers(stack))));
  }

  release(): void {
    // Nothing is mounted below t/.
  }

  /** What the stack means, from the catalogs of its layers. */
  async merged(stack: readonly StoredLayer[]): Promise<MergedNode> {
    return mergeTrees(await this.catalogs(stack));
  }

  protected async catalogs(stack: readonly StoredLayer[]): Promise<LayerTree[]> {
    const trees = [];
    for (const layer of stack) trees.push(await catalogTree(catalogFile(this.context.places.layer(layer.dir))));
    return trees;
  }

  protected tars(stack: readonly StoredLayer[]): (() => ByteSource)[] {
    return stack.map((layer) => () => this.context.keeperOf(layer).tar(layer));
  }

  /** Where the tree of the stack is, if it is there. */
  rootOf(stack: readonly StoredLayer[]): string {
    return join(this.context.places.tree(this.nameOf(stack)), TREE);
  }

  private nameOf(stack: readonly StoredLayer[]): string {
    const hash = createHash('sha256').update(this.driver);
    for (const layer of stack) hash.update(layer.diffId);
    return hash.digest('hex').slice(0, 24);
  }

  private async publish(name: string, stack: readonly StoredLayer[]): Promise<void> {
    const path = this.context.places.tree(name);
    const part = `${path}.${randomUUID()}`;
    mkdirSync(part, { mode: 0o700 });
    try {
      await this.make(join(part, TREE), stack);
      this.tools.sync(part);
      this.rename(part, path);
      this.tools.sync(this.context.places.trees);
    } catch (thrown) {
      this.tools.remove(part);
      throw thrown;
    }
  }

  /** Another thread may have made the same tree meanwhile: then that one is it. */
  private rename(part: string, path: string): void {
    try {
      renameSync(part, path);
    } catch (thrown) {
      if (!isErrno(thrown, 'ENOTEMPTY', 'EEXIST')) throw thrown;
      this.tools.remove(part);
    }
  }
}

const TREE = 't';
