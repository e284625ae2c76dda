import { constants as os } from 'node:os';
import { lastErrno, libc } from './libc.js';
import { failed } from './system-error.js';

const LOCK_EX = 2;
const LOCK_NB = 4;

/**
 * flock(2): takes the exclusive lock of an open file without waiting; false if another holds it. The lock goes with
 * the last descriptor of this open file, so with the process, however it ends.
 */
export function tryLock(fd: number): boolean {
  if (libc().flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  if (lastErrno() === os.errno.EWOULDBLOCK) return false;
  throw failed('flock');
}

/** flock(2): as {@link tryLock}, but waits, blocking the thread: for what is held for milliseconds only. */
export function waitLock(fd: number): void {
  while (libc().flock(fd, LOCK_EX) < 0) {
    if (lastErrno() !== os.errno.EINTR) throw failed('flock');
  }
}
