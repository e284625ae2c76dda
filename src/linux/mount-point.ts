/** Directories of ours that something is mounted on. */
import { rmdirSync } from 'node:fs';
import { bytesOf } from '../core/bytes.js';
import { isErrno, LayerdError } from '../core/errors.js';
import { AT_FDCWD } from './files.js';
import { umount } from './mount.js';
import { describeHolders } from './mountinfo.js';
import { tryStatAt } from './stat.js';

/** Something is mounted at `path`. */
export function isMountPoint(path: string): boolean {
  return tryStatAt(AT_FDCWD, bytesOf(path))?.mountRoot ?? false;
}

/**
 * Unmounts what is mounted at `path`, if anything, and removes the directory. Throws MOUNT_BUSY naming who uses it,
 * unless `force`: it is then detached at once and goes when they end.
 */
export function removeMountPoint(path: string, options: { force: boolean }): void {
  const found = tryStatAt(AT_FDCWD, bytesOf(path));
  if (found === null) return;
  if (found.mountRoot) unmount(path, options.force);
  try {
    rmdirSync(path);
  } catch (thrown) {
    if (!isErrno(thrown, 'ENOENT')) throw thrown;
  }
}

/** Nothing is mounted at `path` any more: detached, or taken away by others meanwhile, with its directory perhaps. */
export function detach(path: string): void {
  try {
    umount(bytesOf(path), { detach: true });
  } catch (thrown) {
    if (!isErrno(thrown, 'ENOENT', 'EINVAL')) throw thrown;
  }
}

function unmount(path: string, force: boolean): void {
  try {
    umount(bytesOf(path), { detach: force });
  } catch (thrown) {
    if (!isErrno(thrown, 'EBUSY')) throw thrown;
    const holders = describeHolders(path);
    throw new LayerdError('MOUNT_BUSY', `${path} is in use${holders === '' ? '' : ` by ${holders}`}`, {
      details: { path, holders },
      hint: 'End the processes that use it, or force: it is then detached, and goes when they end.',
      cause: thrown,
    });
  }
}
