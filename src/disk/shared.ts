/** How much of what is allocated several files share by reflink. */
import { constants } from 'node:fs';
import { bytesOf } from '../core/bytes.js';
import { isErrno } from '../core/errors.js';
import { readDirectory } from '../linux/directory.js';
import { sharedExtents, type SharedExtent } from '../linux/fiemap.js';
import { AT_FDCWD, close, tryOpenat } from '../linux/files.js';
import { linuxAvailable } from '../linux/libc.js';
import { statFd } from '../linux/stat.js';

const { O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;

/**
 * Bytes below these directories that are counted more than once when allocated blocks are added up file by file:
 * the sum of shared extents less what they occupy. Null where it cannot be told.
 */
export function countedTwice(directories: readonly string[]): number | null {
  if (!linuxAvailable().available) return null;
  const extents: SharedExtent[] = [];
  const inodes = new Set<bigint>();
  try {
    for (const directory of directories) {
      const fd = tryOpenat(AT_FDCWD, bytesOf(directory), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      if (fd !== null) collect(fd, extents, inodes);
    }
  } catch (thrown) {
    if (isErrno(thrown, 'ENOTSUP', 'ENOTTY')) return null;
    throw thrown;
  }
  return extents.reduce((sum, { length }) => sum + length, 0) - occupied(extents);
}

/** Takes the descriptor over. */
function collect(dirFd: number, extents: SharedExtent[], inodes: Set<bigint>): void {
  try {
    for (const { name, kind } of readDirectory(dirFd)) {
      if (kind === 'directory') {
        const fd = tryOpenat(dirFd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        if (fd !== null) collect(fd, extents, inodes);
      } else if (kind === 'file') {
        const fd = tryOpenat(dirFd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
        if (fd !== null) collectFile(fd, extents, inodes);
      }
    }
  } finally {
    close(dirFd);
  }
}

function collectFile(fd: number, extents: SharedExtent[], inodes: Set<bigint>): void {
  try {
    const { ino, nlink } = statFd(fd);
    if (nlink > 1 && inodes.has(ino)) return;
    inodes.add(ino);
    extents.push(...sharedExtents(fd));
  } finally {
    close(fd);
  }
}

/** Bytes of the union of the extents. */
function occupied(extents: SharedExtent[]): number {
  let bytes = 0;
  let end = 0;
  for (const { physical, length } of extents.sort((a, b) => a.physical - b.physical)) {
    const from = Math.max(end, physical);
    end = Math.max(end, physical + length);
    bytes += Math.max(0, end - from);
  }
  return bytes;
}
