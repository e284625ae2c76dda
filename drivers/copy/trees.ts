import type { StoredLayer } from '../driver.js';
import { ChainTrees } from '../trees/chain-trees.js';
import { materialize, payloadsFromTars } from '../trees/materialize.js';

/** Trees of chains as plain directories. */
export class CopyTrees extends ChainTrees {
  protected async make(path: string, stack: readonly StoredLayer[]): Promise<void> {
    this.tools.makeDirectory(path);
    const disk = this.tools.openDisk(path);
    try {
      await materialize(disk, await this.merged(stack), payloadsFromTars(disk, this.tars(stack)));
    } finally {
      disk.close();
    }
  }
}
