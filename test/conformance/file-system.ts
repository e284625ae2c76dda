/** File systems to run a suite on: a plain directory, or a fresh one in a file. */
import { execFileSync } from 'node:child_process';
import { accessSync, constants, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { bytesOf } from '../../src/core/bytes.js';
import { needsProgram, needsRoot, type Prerequisite } from '../support.js';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { removeTreeSync } from '../../src/linux/rmtree.js';

/** A place for a suite to work in. */
export interface FileSystem {
  /** Shown in the names of the tests. */
  name: string;
  needs: Prerequisite[];
  /** Makes an empty directory on it; `dispose` takes everything back, mounts below it included. */
  make(): { path: string; dispose(): void };
}

/** In memory where the machine lets us: the tests sync a lot, and would wait for everything else that the disk has to do. */
export const BASE = isWritable('/dev/shm') ? '/dev/shm' : tmpdir();

/** A directory of the machine itself: nothing is mounted, so that nobody need be root. */
export const plainDirectory: FileSystem = { name: 'a plain directory', needs: [], make: () => scratch() };

/** The whole argument lists of the programs that make them; the images are sparse files. */
const MAKERS = {
  ext4: ['mkfs.ext4', '-q', '-F', '-E', 'lazy_itable_init=1,lazy_journal_init=1'],
  xfs: ['mkfs.xfs', '-q', '-m', 'reflink=1'],
  btrfs: ['mkfs.btrfs', '-q'],
} as const;
const PACKAGES = { ext4: 'e2fsprogs', xfs: 'xfsprogs', btrfs: 'btrfs-progs' } as const;

/** A file system of its own, in a file. */
export function loopFileSystem(type: keyof typeof MAKERS): FileSystem {
  const [program, ...args] = MAKERS[type];
  return {
    name: type,
    needs: [needsRoot(), needsProgram(program, PACKAGES[type])],
    make: () => {
      const base = scratch();
      try {
        const image = join(base.path, 'image');
        const path = join(base.path, 'mnt');
        mkdirSync(path);
        run('truncate', '-s', '2G', image);
        run(program, ...args, image);
        run('mount', '-o', 'loop', image, path);
        return { path, dispose: () => base.dispose() };
      } catch (thrown) {
        base.dispose();
        throw thrown;
      }
    },
  };
}

/** Unmounts everything below a directory, the last mounted first. */
export function unmountBelow(path: string): void {
  for (const { mountPoint } of mountsBelow(path).toReversed())
    run('umount', '-l', Buffer.from(mountPoint, 'latin1').toString());
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function scratch(): { path: string; dispose(): void } {
  const path = mkdtempSync(join(BASE, 'layerd-conformance-'));
  return {
    path,
    dispose: () => {
      unmountBelow(path);
      removeAll(path);
    },
  };
}

/** By rm(1), which copes with paths of any length. */
export function removeAll(path: string): void {
  try {
    run('rm', '-rf', path);
  } catch {
    if (process.getuid?.() === 0) {
      removeTreeSync(dirname(path), bytesOf(basename(path))); // knows subvolumes of btrfs
      return;
    }
    // directories that their owner has locked himself out of
    run('chmod', '-R', 'u+rwx', path);
    rmSync(path, { recursive: true });
  }
}

function run(program: string, ...args: string[]): void {
  execFileSync(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
}
