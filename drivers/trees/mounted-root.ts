import { mkdirSync } from 'node:fs';
import { bytesOf } from '../../src/core/bytes.js';
import type { Places } from '../../src/core/places.js';
import { AT_FDCWD, close } from '../../src/linux/files.js';
import { attach, mountSetattr, openTree } from '../../src/linux/mount.js';
import { isMountPoint, removeMountPoint } from '../../src/linux/mount-point.js';
import type { SnapshotSpec } from '../driver.js';

/**
 * A tree at m/DIR, where the roots of all snapshots are: a bind mount, so that the mount table tells who uses it, and
 * that of a view cannot be written, not even by root.
 */
export class MountedRoot {
  private readonly places: Places;

  constructor(places: Places) {
    this.places = places;
  }

  mount(spec: SnapshotSpec, tree: string): string {
    const target = this.places.mergedRoot(spec.dir);
    if (isMountPoint(target)) return target;
    mkdirSync(target, { recursive: true, mode: 0o700 });
    const fd = openTree(AT_FDCWD, bytesOf(tree), { clone: true });
    try {
      if (spec.readOnly) mountSetattr(fd, bytesOf(''), { readOnly: true });
      attach(fd, bytesOf(target));
    } finally {
      close(fd);
    }
    return target;
  }

  unmount(spec: SnapshotSpec, options: { force: boolean }): void {
    removeMountPoint(this.places.mergedRoot(spec.dir), options);
  }
}
