/** A file system in a file, on a loop device that goes around the page cache of the file. */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './fixtures/shell.js';

export interface LoopDisk {
  path: string;
  dispose(): Promise<void>;
}

/** A fresh btrfs of that many bytes below `home`. Needs root and btrfs-progs. */
export async function btrfsDisk(home: string, bytes: number): Promise<LoopDisk> {
  const [image, path] = [join(home, 'disk'), join(home, 'd')];
  mkdirSync(path);
  await run('truncate', ['--size', String(bytes), image]);
  await run('mkfs.btrfs', ['--quiet', image]);
  const device = (await run('losetup', ['--find', '--show', '--direct-io=on', image])).trim();
  try {
    await run('mount', ['-t', 'btrfs', device, path]);
  } catch (thrown) {
    await run('losetup', ['--detach', device]);
    throw thrown;
  }
  return {
    path,
    dispose: async () => {
      await run('umount', [path]);
      await run('losetup', ['--detach', device]);
      rmSync(image);
    },
  };
}
