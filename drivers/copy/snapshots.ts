/**
 * Snapshots as clones of their chain's tree. s/DIR/state has inode number and ctime of every path as it was cloned: what
 * still has both at the same path was not touched, whatever the clock did meanwhile; a renamed directory takes what is
 * in it to other paths.
 */
import { readFileSync, writeFileSync, type BigIntStats } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MergedNode } from '../../src/content/merge.js';
import type { ByteString } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import type { Usage } from '../../src/core/words.js';
import { measureTree } from '../../src/disk/usage.js';
import { onlyLayers, type SnapshotSpec } from '../driver.js';
import { CLOCK_TICK_MS, type Disk } from '../trees/disk.js';
import { materialize, payloadsFromTree, walkMerged } from '../trees/materialize.js';
import { TreeSnapshots } from '../trees/tree-snapshots.js';

export class CopySnapshots extends TreeSnapshots {
  async create(spec: SnapshotSpec): Promise<void> {
    if (spec.sizeLimit !== null) throw noSizeLimit();
    const merged = await this.trees.merged(onlyLayers(spec.stack));
    const tree = this.tools.openDisk(await this.trees.root(onlyLayers(spec.stack)));
    const directory = this.context.places.snapshot(spec.dir);
    this.tools.makeDirectory(directory);
    this.tools.makeDirectory(this.path(spec));
    const disk = this.tools.openDisk(this.path(spec));
    try {
      await materialize(disk, merged, payloadsFromTree(disk, tree));
      if (!spec.readOnly) await this.noteClone(spec, disk, merged);
      else if (!this.tools.canMount) for (const path of pathsOf(merged)) disk.protect(path);
    } finally {
      disk.close();
      tree.close();
    }
    this.tools.sync(directory);
    this.tools.sync(this.context.places.snapshots);
  }

  takesLong(): boolean {
    return true;
  }

  usage(spec: SnapshotSpec): Usage {
    const { disk, inodes } = measureTree(this.context.places.snapshot(spec.dir));
    return { bytes: disk, inodes };
  }

  protected untouchedSince(
    spec: SnapshotSpec,
    _pristine: Disk,
    merged: MergedNode,
  ): (path: ByteString, stat: BigIntStats) => boolean {
    const state = readFileSync(this.state(spec));
    const offsets = new Map<ByteString, number>();
    for (const path of pathsOf(merged)) offsets.set(path, offsets.size * STATE_BYTES);
    return (path, { ino, ctimeNs }) => {
      const at = offsets.get(path);
      return at !== undefined && state.readBigUInt64LE(at) === ino && state.readBigInt64LE(at + 8) === ctimeNs;
    };
  }

  private state(spec: SnapshotSpec): string {
    return join(this.context.places.snapshot(spec.dir), 'state');
  }

  /** Notes what was cloned, and lets the kernel's clock tick, so that every later change has another ctime. */
  private async noteClone(spec: SnapshotSpec, disk: Disk, merged: MergedNode): Promise<void> {
    const paths = [...pathsOf(merged)];
    const state = Buffer.alloc(paths.length * STATE_BYTES);
    for (const [index, path] of paths.entries()) {
      const stat = disk.stat(path);
      if (stat === null) throw new Error(`${path} was not cloned`);
      state.writeBigUInt64LE(stat.ino, index * STATE_BYTES);
      state.writeBigInt64LE(stat.ctimeNs, index * STATE_BYTES + 8);
    }
    writeFileSync(this.state(spec), state);
    this.tools.sync(this.state(spec));
    await sleep(CLOCK_TICK_MS);
  }
}

/** Of one path: inode number and ctime in nanoseconds. */
const STATE_BYTES = 16;

/** In the order of the state file. */
function* pathsOf(merged: MergedNode): Generator<ByteString> {
  yield '' as ByteString;
  for (const [path] of walkMerged(merged)) yield path;
}

function noSizeLimit(): LayerdError {
  return new LayerdError('DRIVER_UNSUPPORTED', 'this driver cannot limit the size of a container', {
    hint: 'Leave the size limit out.',
  });
}
