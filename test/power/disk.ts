/** Disks whose power can be cut while they are mounted and written to. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { unmountBelow } from '../conformance/file-system.js';
import { FuseDisk, type Injection } from './fuse/client.js';
import type { Random } from './random.js';
import { cloneTo, mountDisk, type DiskFormat, type Stage } from './stage.js';

export interface Disk {
  /** Where it is mounted. */
  path: string;
  /** Writes what the disk would hold if the power went now to the file `to`. */
  cut(to: string, random: Random): Promise<void>;
  /** Takes it away, with what is mounted below it. */
  remove(): Promise<void>;
}

export interface KeepingDisk extends Disk {
  /** As after a restart of the machine: unmounted with all that is mounted below, and mounted again. */
  remount(): Promise<void>;
}

/** Keeps every write that it receives, in the order received: what is lost are writes that never left the machine. */
export async function keepingDisk(stage: Stage, format: DiskFormat): Promise<KeepingDisk> {
  const home = stage.fresh();
  const file = await stage.disk(format);
  const path = join(home, 'm');
  mkdirSync(path);
  await mountDisk(file, format, path);
  return {
    path,
    cut: (to) => Promise.resolve(cloneTo(file, to)),
    remount: () => {
      unmountBelow(home);
      return mountDisk(file, format, path);
    },
    remove: () => Promise.resolve(unmountBelow(home)),
  };
}

/**
 * Has a cache that loses its content: of the blocks that were written since the last flush, any may be lost. With
 * `heedsFlushes` false, it says that it flushed, and does not.
 */
export interface CachingDisk extends Disk {
  /** From now on requests fail as said. */
  inject(injection: Injection): Promise<void>;
}

export async function cachingDisk(
  stage: Stage,
  format: DiskFormat,
  options: { heedsFlushes: boolean } = { heedsFlushes: true },
): Promise<CachingDisk> {
  const home = stage.fresh();
  const file = await stage.disk(format);
  const path = join(home, 'm');
  mkdirSync(path);
  const fuse = await FuseDisk.start(file, join(home, 'f'), options);
  try {
    await mountDisk(fuse.file, format, path);
  } catch (thrown) {
    await fuse.remove();
    throw thrown;
  }
  return {
    path,
    cut: (to, random) => fuse.cut(to, random),
    inject: (injection) => fuse.inject(injection),
    remove: async () => {
      unmountBelow(path);
      await fuse.remove();
    },
  };
}
