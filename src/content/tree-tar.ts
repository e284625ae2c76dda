import { constants } from 'node:fs';
import { bytesOf, joinBytes, type ByteString } from '../core/bytes.js';
import { isErrno } from '../core/errors.js';
import { readDirectory, type DirectoryEntry } from '../linux/directory.js';
import { AT_FDCWD, close, openat } from '../linux/files.js';
import { mountSetattr, openTree } from '../linux/mount.js';
import { openIfThere, openSeenFile, tarOf, type TarItem, type TreeTarOptions } from './tree-tar-writer.js';

export const OPEN_DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

const FOLLOWING = constants.O_RDONLY | constants.O_DIRECTORY;

const HERE = '' as ByteString;

/**
 * The directory tree below `root` as a tar: names in byte order, hard links kept, all extended attributes but those of
 * overlay. Sockets are left out, and so is what others have mounted inside the tree: the directories that it covers are
 * written as they are underneath. May be read while the tree changes; see {@link tarOf}.
 */
export async function* tarOfTree(root: string, options: TreeTarOptions = {}): AsyncGenerator<Buffer, void> {
  const { fd, refusesDevices } = openToRead(bytesOf(root));
  try {
    yield* tarOf(walkTree(fd, refusesDevices), options);
  } finally {
    close(fd);
  }
}

/**
 * Opens a directory such that mounts inside it do not show: a private clone of the mount it lies on has none. A
 * directory of a detached mount, or in the hands of a user who may not clone, is opened as it is.
 */
export function openUncovered(path: ByteString): number {
  return openClone(path, FOLLOWING, () => {});
}

/** A directory that is only read. */
export interface ReadRoot {
  fd: number;
  /** Whoever opens a device in it, or below, gets EACCES, and the device hears nothing of it. */
  refusesDevices: boolean;
}

/**
 * As {@link openUncovered}, with flags of open(2); the clone refuses devices and keeps times of access as they are, where
 * the kernel knows how.
 */
export function openToRead(path: ByteString, flags = FOLLOWING): ReadRoot {
  let refusesDevices = false;
  const fd = openClone(path, flags, (cloneFd) => {
    refusesDevices = restrict(cloneFd);
  });
  return { fd, refusesDevices };
}

function openClone(path: ByteString, flags: number, prepare: (cloneFd: number) => void): number {
  const fd = openat(AT_FDCWD, path, flags);
  let cloneFd;
  try {
    cloneFd = openTree(fd, HERE, { clone: true });
  } catch (thrown) {
    if (isErrno(thrown, 'EINVAL', 'EPERM', 'ENOSYS')) return fd;
    close(fd);
    throw thrown;
  }
  close(fd);
  try {
    prepare(cloneFd);
    return openat(cloneFd, bytesOf('.'), OPEN_DIRECTORY);
  } finally {
    close(cloneFd);
  }
}

/** False where the kernel is too old (before Linux 5.12), or does not let this user. */
function restrict(cloneFd: number): boolean {
  try {
    mountSetattr(cloneFd, HERE, { nodev: true, noatime: true });
    return true;
  } catch (thrown) {
    if (isErrno(thrown, 'EPERM', 'ENOSYS')) return false;
    throw thrown;
  }
}

/** The entries of an open directory as {@link readDirectory} gives them, names in byte order; none where it has been removed. */
export function sortedEntries(fd: number, most?: number): DirectoryEntry[] {
  try {
    return readDirectory(fd, most).sort((a, b) => (a.name < b.name ? -1 : 1));
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return [];
    throw thrown;
  }
}

function* walkTree(rootFd: number, refusesDevices: boolean): Generator<TarItem, void> {
  yield { kind: 'directory', path: '' as ByteString, fd: rootFd };
  yield* walkDirectory(rootFd, '' as ByteString, refusesDevices);
}

function* walkDirectory(dirFd: number, directory: ByteString, refusesDevices: boolean): Generator<TarItem, void> {
  for (const { name, kind } of sortedEntries(dirFd)) {
    const path = joinBytes(directory, name);
    const fd = kind === 'directory' || kind === 'unknown' ? openIfThere(dirFd, name, OPEN_DIRECTORY) : null;
    const file = refusesDevices && kind === 'file' ? openSeenFile(dirFd, name) : null;
    try {
      if (fd === null) {
        yield { kind: 'name', path, dirFd, name, view: '', file };
      } else {
        yield { kind: 'directory', path, fd };
        yield* walkDirectory(fd, path, refusesDevices);
      }
    } finally {
      if (fd !== null) close(fd);
      if (file !== null) close(file.fd);
    }
  }
}
