/** The page cache of files by their paths. */
import { closeSync, openSync } from 'node:fs';
import { isErrno } from '../core/errors.js';
import { ADVICE, fadvise } from '../linux/sync.js';

/** Drops the clean pages of a file, if it is there: read again, they come from the disk. */
export function dropFromCache(path: string): void {
  let fd;
  try {
    fd = openSync(path, 'r');
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return;
    throw thrown;
  }
  try {
    fadvise(fd, 0, 0, ADVICE.dontNeed);
  } finally {
    closeSync(fd);
  }
}
