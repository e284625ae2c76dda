/**
 * Snapshots as clones of their chain's tree; s/DIR/state says when it was cloned. What has a later ctime was touched
 * since; what then differs from the tree it was cloned from is a change.
 */
import { readFileSync, renameSync, writeFileSync, type BigIntStats } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MergedNode } from '../../src/content/merge.js';
import type { ByteString } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import type { Usage } from '../../src/core/words.js';
import { measureTree } from '../../src/disk/usage.js';
import type { SnapshotSpec } from '../driver.js';
import { CLOCK_TICK_MS, type Disk } from '../trees/disk.js';
import { materialize, payloadsFromTree, walkMerged } from '../trees/materialize.js';
import { TreeSnapshots } from '../trees/tree-snapshots.js';

export class CopySnapshots extends TreeSnapshots {
  async create(spec: SnapshotSpec): Promise<void> {
    if (spec.sizeLimit !== null) throw noSizeLimit();
    const merged = await this.trees.merged(spec.stack);
    const tree = this.tools.openDisk(await this.trees.root(spec.stack));
    const directory = this.context.places.snapshot(spec.dir);
    this.tools.makeDirectory(directory);
    this.tools.makeDirectory(this.path(spec));
    const disk = this.tools.openDisk(this.path(spec));
    try {
      await materialize(disk, merged, payloadsFromTree(disk, tree));
      await this.noteClone(spec, disk, merged);
    } finally {
      disk.close();
      tree.close();
    }
    this.tools.sync(directory);
    this.tools.sync(this.context.places.snapshots);
  }

  usage(spec: SnapshotSpec): Usage {
    const { disk, inodes } = measureTree(this.context.places.snapshot(spec.dir));
    return { bytes: disk, inodes };
  }

  protected untouchedSince(spec: SnapshotSpec): (path: ByteString, stat: BigIntStats) => boolean {
    const { clonedNs } = JSON.parse(readFileSync(this.state(spec), 'utf8')) as { clonedNs: string };
    const cloned = BigInt(clonedNs);
    return (_path, { ctimeNs }) => ctimeNs <= cloned;
  }

  private state(spec: SnapshotSpec): string {
    return join(this.context.places.snapshot(spec.dir), 'state');
  }

  /** Notes the latest ctime of the clone, and lets the kernel's clock tick, so that every later change has a later one. */
  private async noteClone(spec: SnapshotSpec, disk: Disk, merged: MergedNode): Promise<void> {
    let latest = disk.stat('' as ByteString)?.ctimeNs ?? 0n;
    for (const [path] of walkMerged(merged)) {
      const ctime = disk.stat(path)?.ctimeNs ?? 0n;
      if (ctime > latest) latest = ctime;
    }
    const part = `${this.state(spec)}.new`;
    writeFileSync(part, JSON.stringify({ clonedNs: String(latest) }));
    renameSync(part, this.state(spec));
    await sleep(CLOCK_TICK_MS);
  }
}

function noSizeLimit(): LayerdError {
  return new LayerdError('DRIVER_UNSUPPORTED', 'this driver cannot limit the size of a container', {
    hint: 'Leave the size limit out.',
  });
}
