/** The page cache of files by their paths. */
import { closeSync, fstatSync, openSync } from 'node:fs';
import { isErrno } from '../core/errors.js';
import { ADVICE, cachedBytes, fadvise } from '../linux/sync.js';

/** Drops the clean pages of a file, if it is there: read again, they come from the disk. */
export function dropFromCache(path: string): void {
  try {
    withFile(path, (fd) => fadvise(fd, 0, 0, ADVICE.dontNeed));
  } catch (thrown) {
    if (!isErrno(thrown, 'ENOENT')) throw thrown;
  }
}

/** Bytes of a file that need not be read from the disk: all of them where the kernel does not tell. */
export function bytesInCache(path: string): number {
  return withFile(path, (fd) => cachedBytes(fd) ?? fstatSync(fd).size);
}

function withFile<T>(path: string, work: (fd: number) => T): T {
  const fd = openSync(path, 'r');
  try {
    return work(fd);
  } finally {
    closeSync(fd);
  }
}
