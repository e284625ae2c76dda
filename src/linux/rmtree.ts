/**
 * Deleting a tree by descriptor. No path is ever resolved: each directory is opened by its name in its parent, never
 * through a symbolic link and never across a mount. Depth does not matter: only the deepest directories stay open, the
 * ones above are found again through `..` and recognised by their inode.
 */
import { constants, readlinkSync } from 'node:fs';
import { bytesOf, displayBytes, fromBuffer, joinBytes, type ByteString } from '../core/bytes.js';
import { isErrno, LayerdError } from '../core/errors.js';
import { destroySubvolume, isSubvolume, setReadOnly } from './btrfs.js';
import { nextEntries, type DirectoryEntry } from './directory.js';
import { AT_FDCWD, close, fdPath, openat, openat2, RESOLVE, rmdirat, unlinkat } from './files.js';
import { clearImmutable } from './inode-flags.js';
import { readMountinfo } from './mountinfo.js';
import { statFd, tryStatAt, type FileKind, type FileStat } from './stat.js';
import { refused } from './system-error.js';

export interface RemovedCounts {
  /** Names removed that are not directories. */
  files: number;
  directories: number;
  /** Allocated bytes given back; those of a hard link count with its last name, those of a btrfs subvolume not at all. */
  bytes: number;
}

export interface RemoveOptions {
  /**
   * Called with the counts so far whenever some more names are gone. It may wait, to leave the disk to others, or throw, to
   * stop; what is gone stays gone, and a later call goes on.
   */
  throttle?: (removed: Readonly<RemovedCounts>) => void | Promise<void>;
}

/** So many names go between two calls of `throttle`. */
const NAMES_PER_STEP = 128;

/** So many directories of one path are open at a time. */
const OPEN_DIRECTORIES = 64;

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK } = constants;

/**
 * Removes `name` (of any kind) from a directory, given as a descriptor or a path, with everything below. Nothing there
 * is no error. Throws MOUNT_BUSY naming the mount where something is mounted on or below it: the rest may be gone then.
 */
export async function removeTree(
  parent: number | string,
  name: ByteString,
  options: RemoveOptions = {},
): Promise<RemovedCounts> {
  const removal = new Removal(parent);
  for (const removed of removal.steps(name)) await options.throttle?.(removed);
  return removal.counts;
}

/** As {@link removeTree}, at once. */
export function removeTreeSync(parent: number | string, name: ByteString): RemovedCounts {
  const removal = new Removal(parent);
  for (const _ of removal.steps(name));
  return removal.counts;
}

/** One directory on the way down. */
interface Level {
  name: ByteString;
  /** Null while it is closed to save descriptors; never for the deepest. */
  fd: number | null;
  stat: FileStat;
  /** Directories met in it, yet to be descended into. */
  directories: ByteString[];
  /** Something in it went since it was read from the start. */
  progress: boolean;
}

class Removal {
  readonly counts: RemovedCounts = { files: 0, directories: 0, bytes: 0 };
  readonly #parent: number | string;
  readonly #levels: Level[] = [];
  /** The descriptor of the directory that `name` is in. */
  #base = -1;

  constructor(parent: number | string) {
    this.#parent = parent;
  }

  *steps(name: ByteString): Generator<Readonly<RemovedCounts>> {
    const parent = this.#parent;
    this.#base = typeof parent === 'number' ? parent : openat(AT_FDCWD, bytesOf(parent), O_RDONLY | O_DIRECTORY);
    try {
      this.#remove({ name, kind: 'unknown' });
      while (this.#levels.length > 0) yield* this.#work();
    } finally {
      for (const { fd } of this.#levels) if (fd !== null) close(fd);
      if (this.#base !== parent) close(this.#base);
    }
  }

  /** One step in the deepest directory: down into a subdirectory, through some of its names, or, once empty, up. */
  *#work(): Generator<Readonly<RemovedCounts>> {
    const subdirectory = this.#levels.at(-1)?.directories.pop();
    if (subdirectory !== undefined) {
      this.#descend(subdirectory);
      return;
    }
    const entries = nextEntries(this.#fd());
    if (entries.length === 0) this.#ascend();
    for (let at = 0; at < entries.length; at += NAMES_PER_STEP) {
      for (const entry of entries.slice(at, at + NAMES_PER_STEP)) this.#remove(entry);
      yield this.counts;
    }
  }

  /** Removes a name of the deepest directory; a directory is only noted. */
  #remove({ name, kind }: DirectoryEntry): void {
    const stat = kind === 'directory' ? null : tryStatAt(this.#fd(), name);
    if (kind === 'directory' || stat?.kind === 'directory') {
      const level = this.#levels.at(-1);
      if (level === undefined) this.#descend(name);
      else level.directories.push(name);
      return;
    }
    if (stat === null || !this.#unlink(name, stat.kind, unlinkat)) return;
    this.counts.files++;
    if (stat.nlink === 1) this.counts.bytes += stat.blocks * 512;
  }

  #descend(name: ByteString): void {
    const fd = this.#open(name);
    if (fd === null) return;
    try {
      if (isSubvolume(fd) && this.#destroy(fd, name)) {
        close(fd);
        return;
      }
      this.#levels.push({ name, fd, stat: statFd(fd), directories: [], progress: false });
    } catch (thrown) {
      close(fd);
      throw thrown;
    }
    const excess = this.#levels.at(-1 - OPEN_DIRECTORIES);
    if (excess !== undefined && excess.fd !== null) {
      close(excess.fd);
      excess.fd = null;
    }
  }

  /**
   * Removes a btrfs subvolume with all it holds. False where it must be gone through, since it holds others or something
   * is mounted in it (the kernel would detach that); it can then be written.
   */
  #destroy(fd: number, name: ByteString): boolean {
    try {
      if (hasMountsInside(fd)) throw refused('ENOTEMPTY', 'BTRFS_IOC_SNAP_DESTROY', name);
      destroySubvolume(this.#fd(), name);
    } catch (thrown) {
      if (isErrno(thrown, 'ENOENT')) return true;
      if (!isErrno(thrown, 'ENOTEMPTY')) throw thrown;
      setReadOnly(fd, false);
      return false;
    }
    this.counts.directories++;
    const level = this.#levels.at(-1);
    if (level !== undefined) level.progress = true;
    return true;
  }

  /** Leaves the deepest directory, which was read to its end, and removes it. */
  #ascend(): void {
    const fd = this.#fd();
    const above = this.#levels.at(-2);
    if (above !== undefined) above.fd ??= reopen(fd, above);
    close(fd);
    const level = this.#levels.pop();
    if (level === undefined) return;
    try {
      if (!this.#unlink(level.name, 'directory', rmdirat)) return;
    } catch (thrown) {
      // A file system may skip names while others are removed, or someone added some: read it again while that helps.
      if (!isErrno(thrown, 'ENOTEMPTY') || !level.progress) throw thrown;
      this.#descend(level.name);
      return;
    }
    this.counts.directories++;
    this.counts.bytes += level.stat.blocks * 512;
  }

  /** False where it has gone already. */
  #unlink(name: ByteString, kind: FileKind, call: (dirFd: number, name: ByteString) => void): boolean {
    const dirFd = this.#fd();
    try {
      call(dirFd, name);
    } catch (thrown) {
      if (isErrno(thrown, 'ENOENT')) return false;
      if (isErrno(thrown, 'EBUSY')) throw this.#mounted(name);
      if (!isErrno(thrown, 'EPERM') || !this.#unlock(name, kind)) throw thrown;
      call(dirFd, name);
    }
    const level = this.#levels.at(-1);
    if (level !== undefined) level.progress = true;
    return true;
  }

  /** Takes away flags that forbid the removal of `name`: its own, and those of its directory if that goes too. */
  #unlock(name: ByteString, kind: FileKind): boolean {
    if (this.#levels.length > 0) clearImmutable(this.#fd());
    if (kind !== 'file' && kind !== 'directory') return true;
    const fd = openat(this.#fd(), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    try {
      return clearImmutable(fd);
    } finally {
      close(fd);
    }
  }

  /** Null where it has gone. */
  #open(name: ByteString): number | null {
    try {
      return openat2(this.#fd(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, RESOLVE.NO_XDEV | RESOLVE.NO_SYMLINKS);
    } catch (thrown) {
      if (isErrno(thrown, 'ENOENT')) return null;
      if (isErrno(thrown, 'EXDEV')) throw this.#mounted(name);
      throw thrown;
    }
  }

  #mounted(name: ByteString): LayerdError {
    const path = displayBytes(joinBytes(...this.#levels.map((level) => level.name), name));
    const mountId = tryStatAt(this.#fd(), name)?.mountId;
    const mounts = readMountinfo()
      .filter(({ id }) => id === mountId)
      .map(({ mountPoint, fsType }) => `${displayBytes(mountPoint)} (${displayBytes(fsType)})`);
    return new LayerdError(
      'MOUNT_BUSY',
      `cannot remove ${path}: ${mounts.join(', ') || 'something'} is mounted there`,
      {
        details: { path, mounts },
        hint: 'Unmount it first; nothing behind the mount was touched.',
      },
    );
  }

  #fd(): number {
    return this.#levels.at(-1)?.fd ?? this.#base;
  }
}

function hasMountsInside(fd: number): boolean {
  const inside = `${fromBuffer(readlinkSync(fdPath(fd), { encoding: 'buffer' }))}/`;
  return readMountinfo().some(({ mountPoint }) => mountPoint.startsWith(inside));
}

/** Opens the directory above again. It must be the one that we came from: someone may have moved what is below it. */
function reopen(childFd: number, level: Level): number {
  const fd = openat(childFd, bytesOf('..'), O_RDONLY | O_DIRECTORY);
  const { ino, dev } = statFd(fd);
  if (ino === level.stat.ino && dev.major === level.stat.dev.major && dev.minor === level.stat.dev.minor) return fd;
  close(fd);
  throw refused('ESTALE', 'openat', level.name);
}
