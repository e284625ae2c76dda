import { basename, dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { mergeTrees } from '../../src/content/merge.js';
import { bytesOf } from '../../src/core/bytes.js';
import { isErrno } from '../../src/core/errors.js';
import { createSnapshot, createSubvolume, setReadOnly } from '../../src/linux/btrfs.js';
import type { StoredLayer } from '../driver.js';
import { ChainTrees } from '../trees/chain-trees.js';
import { CLOCK_TICK_MS } from '../trees/disk.js';
import { LinuxDisk } from '../trees/linux-disk.js';
import { materialize, payloadsFromTars } from '../trees/materialize.js';
import { clearOut } from './clear-out.js';
import { withDirectory } from './directory.js';

/**
 * Trees of chains as read-only subvolumes. One that continues a chain which has a tree starts as a snapshot of that, so
 * that only the layers above it are laid on and everything else is shared.
 */
export class BtrfsTrees extends ChainTrees {
  protected async make(path: string, stack: readonly StoredLayer[]): Promise<void> {
    const catalogs = await this.catalogs(stack);
    const depth = this.begin(path, stack);
    const merged = mergeTrees(catalogs);
    const base = depth === 0 ? null : mergeTrees(catalogs.slice(0, depth));
    const disk = new LinuxDisk(path);
    try {
      if (base === null) disk.makePlain(ROOT);
      else clearOut(disk, merged, base);
      await materialize(disk, merged, payloadsFromTars(disk, this.tars(stack)), base);
    } finally {
      disk.close();
    }
    withDirectory(path, (fd) => setReadOnly(fd, true));
    // What a container touches must have another ctime than here, or it would not be seen as touched.
    await sleep(CLOCK_TICK_MS);
  }

  /** Makes the subvolume; returns how many layers of the stack it shows already. */
  private begin(path: string, stack: readonly StoredLayer[]): number {
    return withDirectory(dirname(path), (parent) => {
      for (let depth = stack.length - 1; depth > 0; depth -= 1) {
        if (this.continueFrom(stack.slice(0, depth), parent, path)) return depth;
      }
      createSubvolume(parent, bytesOf(basename(path)));
      return 0;
    });
  }

  /** False where the chain has no tree (any more: a collection takes those that no container lies on). */
  private continueFrom(below: readonly StoredLayer[], parent: number, path: string): boolean {
    try {
      withDirectory(this.rootOf(below), (tree) =>
        createSnapshot(tree, parent, bytesOf(basename(path)), { readOnly: false }),
      );
      return true;
    } catch (thrown) {
      if (isErrno(thrown, 'ENOENT')) return false;
      throw thrown;
    }
  }
}

const ROOT = bytesOf('');
