import { createHash, randomUUID } from 'node:crypto';
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync } from 'node:fs';
import { catalogFile, catalogTree } from '../../src/content/catalog-file.js';
import { mergeTrees, type MergedNode } from '../../src/content/merge.js';
import { isErrno } from '../../src/core/errors.js';
import { syncfs } from '../../src/linux/sync.js';
import type { DriverContext, StoredLayer, TreeKeeper } from '../driver.js';
import type { Disk } from './disk.js';
import { materialize, payloadsFromTars } from './materialize.js';

/**
 * One tree per stack that a container lies on, t/NAME, named by the diff IDs of the stack. A cache: what no container
 * needs may go, and is made again from the layers' tars.
 */
export class ChainTrees implements TreeKeeper {
  private readonly context: DriverContext;
  private readonly openDisk: (path: string) => Disk;
  private readonly ffi: boolean;

  constructor(context: DriverContext, openDisk: (path: string) => Disk, ffi: boolean) {
    this.context = context;
    this.openDisk = openDisk;
    this.ffi = ffi;
  }

  async ensure(stack: readonly StoredLayer[]): Promise<string> {
    const name = nameOf(stack);
    if (!existsSync(this.context.places.tree(name))) await this.make(name, stack);
    return name;
  }

  names(stacks: readonly (readonly StoredLayer[])[]): Set<string> {
    return new Set(stacks.map(nameOf));
  }

  /** What the stack means, from the catalogs of its layers. */
  async merged(stack: readonly StoredLayer[]): Promise<MergedNode> {
    const trees = [];
    for (const layer of stack) trees.push(await catalogTree(catalogFile(this.context.places.layer(layer.dir))));
    return mergeTrees(trees);
  }

  private async make(name: string, stack: readonly StoredLayer[]): Promise<void> {
    const { places, keeperOf } = this.context;
    const part = `${places.tree(name)}.${randomUUID()}`;
    mkdirSync(part, { mode: 0o700 });
    try {
      const disk = this.openDisk(part);
      try {
        const tars = stack.map((layer) => () => keeperOf(layer).tar(layer));
        await materialize(disk, await this.merged(stack), payloadsFromTars(disk, tars));
      } finally {
        disk.close();
      }
      this.sync(part);
      this.publish(part, places.tree(name));
    } catch (thrown) {
      rmSync(part, { recursive: true, force: true });
      throw thrown;
    }
  }

  /** Another thread may have made the same tree meanwhile: then that one is it. */
  private publish(part: string, path: string): void {
    try {
      renameSync(part, path);
    } catch (thrown) {
      if (!isErrno(thrown, 'ENOTEMPTY', 'EEXIST')) throw thrown;
      rmSync(part, { recursive: true, force: true });
    }
    this.sync(this.context.places.trees);
  }

  private sync(path: string): void {
    const fd = openSync(path, 'r');
    try {
      if (this.ffi) syncfs(fd);
      else fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  }
}

function nameOf(stack: readonly StoredLayer[]): string {
  const hash = createHash('sha256');
  for (const layer of stack) hash.update(layer.diffId);
  return hash.digest('hex').slice(0, 24);
}
