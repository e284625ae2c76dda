/** How much a directory holds: allocated bytes and inodes, every inode once. */
import { constants, lstatSync, opendirSync } from 'node:fs';
import { bytesOf, fromBuffer, toBuffer, type ByteString } from '../core/bytes.js';
import { readDirectory } from '../linux/directory.js';
import { AT_FDCWD, close, O_CLOEXEC, openat, tryOpenat } from '../linux/files.js';
import { linuxAvailable } from '../linux/libc.js';
import { statFd, tryStatAt, type FileStat } from '../linux/stat.js';

export interface Measure {
  disk: number;
  inodes: number;
}

const OPEN = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW | O_CLOEXEC;

/** Measures `path` and all below it; stays on its file system. What vanishes meanwhile does not count. */
export function measureTree(path: string): Measure {
  return linuxAvailable().available ? measureByDescriptor(path) : measureByPath(path);
}

/** When an inode of `path`, or of what is below it, was last changed (ctime): microseconds since the epoch, rounded up. */
export function newestChange(path: string): number {
  let newest = 0;
  eachInode(path, ({ ctime }) => {
    newest = Math.max(newest, ctime.sec * 1e6 + Math.ceil(ctime.nsec / 1000));
  });
  return newest;
}

function measureByDescriptor(path: string): Measure {
  const total: Measure = { disk: 0, inodes: 0 };
  const linked = new Set<string>();
  eachInode(path, (stat) => {
    if (stat.nlink > 1 && stat.kind !== 'directory') {
      // subvolumes of btrfs number their inodes by themselves
      const inode = `${stat.dev.major}:${stat.dev.minor}:${stat.ino}`;
      if (linked.has(inode)) return;
      linked.add(inode);
    }
    total.disk += stat.blocks * 512;
    total.inodes += 1;
  });
  return total;
}

/** Every name of the tree but those that vanish meanwhile; other mounts are left out. */
function eachInode(path: string, tell: (stat: FileStat) => void): void {
  const visit = (dirFd: number): void => {
    const own = statFd(dirFd);
    tell(own);
    for (const { name, kind } of readDirectory(dirFd)) {
      const stat = kind === 'directory' ? null : tryStatAt(dirFd, name);
      if (stat !== null && stat.kind !== 'directory') {
        tell(stat);
        continue;
      }
      const fd = tryOpenat(dirFd, name, OPEN);
      if (fd === null) continue;
      try {
        if (statFd(fd).mountId === own.mountId) visit(fd);
      } finally {
        close(fd);
      }
    }
  };
  const fd = openat(AT_FDCWD, bytesOf(path), OPEN);
  try {
    visit(fd);
  } finally {
    close(fd);
  }
}

/** Without system calls of our own: paths up to PATH_MAX. */
function measureByPath(path: string): Measure {
  const total: Measure = { disk: 0, inodes: 0 };
  const linked = new Set<bigint>();
  const visit = (at: Buffer): void => {
    const stat = lstatSync(at, { bigint: true });
    if (stat.nlink > 1n && !stat.isDirectory()) {
      if (linked.has(stat.ino)) return;
      linked.add(stat.ino);
    }
    total.disk += Number(stat.blocks) * 512;
    total.inodes += 1;
    if (!stat.isDirectory()) return;
    for (const name of namesIn(at)) visit(Buffer.concat([at, SLASH, toBuffer(name)]));
  };
  visit(Buffer.from(path));
  return total;
}

const SLASH = Buffer.from('/');

function namesIn(at: Buffer): ByteString[] {
  const names: ByteString[] = [];
  // Node reads a directory's names as bytes this way; its types lack the option for opendir.
  const directory = opendirSync(at, { encoding: 'buffer' as BufferEncoding });
  try {
    for (let entry = directory.readSync(); entry !== null; entry = directory.readSync()) {
      names.push(fromBuffer(entry.name as unknown as Buffer));
    }
  } finally {
    directory.closeSync();
  }
  return names;
}
