/**
 * Mounts of indexes: each once, at RUN/l/DIR (merged ones at RUN/t/NAME), read-only, nosuid, nodev, noexec, shared by everything that uses the
 * layer. They outlive the daemon and are found again. Any thread may ask: a lock keeps two from mounting at once.
 */
import { closeSync, existsSync, mkdirSync, openSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { bytesOf } from '../../src/core/bytes.js';
import type { DriverOptions } from '../../src/core/engine-config.js';
import { LayerdError } from '../../src/core/errors.js';
import { erofsMount } from '../../src/linux/erofs.js';
import { AT_FDCWD, close } from '../../src/linux/files.js';
import { waitLock } from '../../src/linux/lock.js';
import { attach } from '../../src/linux/mount.js';
import { removeMountPoint } from '../../src/linux/mount-point.js';
import { mountIdOf, tryStatAt } from '../../src/linux/stat.js';
import { suitsDirectio } from './directio.js';
import { LAYER_DIRECTORY } from './index-writer.js';
import { withReadahead } from './readahead.js';

/** f_type of statfs(2) on an EROFS mount. */
const EROFS_SUPER_MAGIC = 0xe0f5e1e2;
/** So many mounts are known at a time. */
const REMEMBERED = 4096;

export type ErofsOptions = DriverOptions['erofs'];

/** An index and the tars that it points into, in the order of its devices. */
export interface MountImage {
  index: string;
  tars: readonly string[];
}

export class LayerMounts {
  private readonly base: string;
  private readonly directio: ErofsOptions['directio'];
  /** Ids of mounts by DIR that were seen to be ours. */
  private readonly known = new Map<string, number>();

  /** `base`: the directory of the mount points; nothing else is mounted there. */
  constructor(base: string, options: ErofsOptions) {
    this.base = base;
    this.directio = options.directio;
  }

  /** The layer's root directory, inside its mount; null where it is not mounted. */
  find(dir: string): string | null {
    const target = join(this.base, dir);
    const stat = tryStatAt(AT_FDCWD, bytesOf(target));
    if (stat?.mountRoot !== true) return null;
    const { mountId } = stat;
    if (mountId === null || this.known.get(dir) !== mountId) {
      // not out of the mount table, which is as long as the store is large
      if (statfsSync(target).type !== EROFS_SUPER_MAGIC) throw taken(target);
      if (mountId !== null) this.remember(dir, mountId);
    }
    return join(target, LAYER_DIRECTORY);
  }

  /** Mounts the layer, unless another thread has done so meanwhile. Throws MOUNT_FAILED. */
  mount(dir: string, image: MountImage): string {
    return this.locked(() => {
      const found = this.find(dir);
      if (found !== null) return found;
      const target = join(this.base, dir);
      mkdirSync(target, { recursive: true, mode: 0o700 });
      const fd = withReadahead(image.tars, () => this.mountDetached(image));
      try {
        attach(fd, bytesOf(target));
      } finally {
        close(fd);
      }
      const id = mountIdOf(bytesOf(target));
      if (id !== null) this.remember(dir, id);
      return join(target, LAYER_DIRECTORY);
    });
  }

  /** Unmounts the layer and removes the mount point; idempotent. Throws MOUNT_BUSY, unless `force` detaches it. */
  release(dir: string, options: { force: boolean }): void {
    const target = join(this.base, dir);
    if (!existsSync(target)) return;
    this.locked(() => removeMountPoint(target, options));
  }

  /** By directio or through the page cache, as the setting says. */
  private mountDetached(image: MountImage): number {
    const spec = { image: image.index, devices: image.tars };
    if (this.directio !== 'auto') return erofsMount({ ...spec, directio: this.directio === 'on' });
    if (suitsDirectio(image)) {
      try {
        return erofsMount({ ...spec, directio: true });
      } catch {
        // before Linux 6.15 there is no such option
      }
    }
    return erofsMount(spec);
  }

  private locked<T>(work: () => T): T {
    mkdirSync(this.base, { recursive: true, mode: 0o700 });
    const fd = openSync(`${this.base}.lock`, 'w', 0o600);
    try {
      waitLock(fd);
      return work();
    } finally {
      closeSync(fd);
    }
  }

  private remember(dir: string, id: number): void {
    if (this.known.size >= REMEMBERED) this.known.clear();
    this.known.set(dir, id);
  }
}

function taken(target: string): LayerdError {
  return new LayerdError('MOUNT_FAILED', `something else than a layer is mounted at ${target}`, {
    details: { path: target },
    hint: 'Unmount it: everything below this directory belongs to layerd.',
  });
}
