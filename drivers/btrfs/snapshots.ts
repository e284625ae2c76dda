/**
 * Snapshots of the subvolumes of chains. Inodes keep number and ctime in a snapshot: what still has both as in the
 * chain's tree was not touched. A tree that was made again since has other times, which may by chance be those of a change.
 */
import { mkdirSync, type BigIntStats } from 'node:fs';
import { bytesOf, joinBytes, type ByteString } from '../../src/core/bytes.js';
import type { Usage } from '../../src/core/words.js';
import {
  createSnapshot,
  enableQuota,
  isSnapshotOf,
  limitExclusive,
  subvolumeId,
  subvolumeUsage,
} from '../../src/linux/btrfs.js';
import { syncfs } from '../../src/linux/sync.js';
import { onlyLayers, type SnapshotSpec } from '../driver.js';
import type { Disk } from '../trees/disk.js';
import { TreeSnapshots } from '../trees/tree-snapshots.js';
import { withDirectory } from './directory.js';

export class BtrfsSnapshots extends TreeSnapshots {
  async create(spec: SnapshotSpec): Promise<void> {
    const tree = await this.trees.root(onlyLayers(spec.stack));
    const directory = this.context.places.snapshot(spec.dir);
    mkdirSync(directory, { mode: 0o700 });
    withDirectory(directory, (parent) => {
      if (spec.sizeLimit !== null) enableQuota(parent);
      // The kernel commits the file system's transaction with a snapshot: that is durable when the call returns.
      withDirectory(tree, (fd) => createSnapshot(fd, parent, bytesOf('t'), { readOnly: spec.readOnly }));
    });
    if (spec.sizeLimit === null) return;
    withDirectory(this.path(spec), (fd) => limitExclusive(fd, spec.sizeLimit));
    this.tools.sync(directory);
  }

  takesLong({ stack }: SnapshotSpec): boolean {
    return !this.trees.isThere(onlyLayers(stack));
  }

  /** What is not shared with the chain's tree: as quota counts it, else the whole files that were touched. */
  usage(spec: SnapshotSpec): Usage {
    const disk = this.tools.openDisk(this.path(spec));
    const pristine = this.tools.openDisk(this.trees.rootOf(onlyLayers(spec.stack)));
    try {
      const touched = touchedBelow(disk, this.untouchedSince(spec, pristine));
      return { bytes: this.exclusive(spec) ?? touched.bytes, inodes: touched.inodes };
    } finally {
      disk.close();
      pristine.close();
    }
  }

  protected untouchedSince(spec: SnapshotSpec, pristine: Disk): (path: ByteString, stat: BigIntStats) => boolean {
    const tree = this.trees.rootOf(onlyLayers(spec.stack));
    const isFromIt = withDirectory(this.path(spec), (fd) => withDirectory(tree, (source) => isSnapshotOf(fd, source)));
    if (!isFromIt) return () => false;
    return (path, stat) => {
      const before = pristine.stat(path);
      return before !== null && before.ino === stat.ino && before.ctimeNs === stat.ctimeNs;
    };
  }

  /** Null where the file system does not count. */
  private exclusive(spec: SnapshotSpec): number | null {
    return withDirectory(this.path(spec), (fd) => {
      const id = subvolumeId(fd);
      if (subvolumeUsage(fd, id) === null) return null;
      syncfs(fd); // counts are those of the last transaction
      return subvolumeUsage(fd, id)?.exclusive ?? null;
    });
  }
}

/** Every touched inode once. */
function touchedBelow(disk: Disk, untouched: (path: ByteString, stat: BigIntStats) => boolean): Usage {
  const inodes = new Set<bigint>();
  let bytes = 0;
  const visit = (path: ByteString): void => {
    const stat = disk.stat(path);
    if (stat === null) return;
    if (!inodes.has(stat.ino) && !untouched(path, stat)) {
      inodes.add(stat.ino);
      bytes += Number(stat.blocks) * 512;
    }
    if (stat.isDirectory()) for (const name of disk.names(path)) visit(joinBytes(path, name));
  };
  visit(bytesOf(''));
  return { bytes, inodes: inodes.size };
}
