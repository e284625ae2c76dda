import { constants } from 'node:fs';
import { constants as os } from 'node:os';
import type { ByteString } from '../core/bytes.js';
import { lastErrno, libc } from './libc.js';
import { AT_FDCWD, cPath, failed, scratch, type PathBytes } from './system-error.js';

/** A time in seconds since the epoch (may be negative) and nanoseconds (0–999,999,999). */
export interface TimeSpec {
  sec: number;
  nsec: number;
}

export type FileKind = 'file' | 'directory' | 'symlink' | 'char' | 'block' | 'fifo' | 'socket';

export interface DeviceNumber {
  major: number;
  minor: number;
}

/** What statx(2) tells of an inode. */
export interface FileStat {
  kind: FileKind;
  /** All 16 bits: type and permissions. */
  mode: number;
  uid: number;
  gid: number;
  nlink: number;
  /** A bigint: overlay uses the high bits of the 64. */
  ino: bigint;
  /** The file system. */
  dev: DeviceNumber;
  /** The device that a device node stands for. */
  rdev: DeviceNumber;
  size: number;
  /** Allocated, in units of 512 bytes. */
  blocks: number;
  mtime: TimeSpec;
  ctime: TimeSpec;
  /** The mount's id as in mountinfo; null before Linux 5.8. */
  mountId: number | null;
  /** This is the root of a mount: something is mounted here. Always false before Linux 5.8. */
  mountRoot: boolean;
  /** The immutable or the append-only flag is set (chattr(1)). */
  immutable: boolean;
}

const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_EMPTY_PATH = 0x1000;
const AT_NO_AUTOMOUNT = 0x800;
const AT_STATX_DONT_SYNC = 0x4000;
const STATX_BASIC_STATS = 0x7ff;
const STATX_MNT_ID = 0x1000;
const STATX_DIOALIGN = 0x2000;
const STATX_MNT_ID_UNIQUE = 0x4000;
const STATX_ATTR_IMMUTABLE = 0x10;
const STATX_ATTR_APPEND = 0x20;
const STATX_ATTR_MOUNT_ROOT = 0x2000;

const WANTED = STATX_BASIC_STATS | STATX_MNT_ID;
const NOFOLLOW = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
const EMPTY = '' as ByteString;

/** struct statx of linux/stat.h. */
const buffer = scratch(256);
const raw = new DataView(buffer.buffer);

/** What `path` is, without following a symbolic link at its end: statx(2). */
export function statAt(dirFd: number, path: PathBytes): FileStat {
  if (libc().statx(dirFd, cPath(path, 'statx'), NOFOLLOW, WANTED, buffer) < 0) throw failed('statx', path);
  return decode();
}

/** As {@link statAt}, but null where nothing is there (ENOENT, ENOTDIR). */
export function tryStatAt(dirFd: number, path: PathBytes): FileStat | null {
  if (libc().statx(dirFd, cPath(path, 'statx'), NOFOLLOW, WANTED, buffer) === 0) return decode();
  const errno = lastErrno();
  if (errno === os.errno.ENOENT || errno === os.errno.ENOTDIR) return null;
  throw failed('statx', path);
}

/** What `path` leads to, symbolic links followed (magic links of /proc too): statx(2). */
export function statFollowing(dirFd: number, path: PathBytes): FileStat {
  if (libc().statx(dirFd, cPath(path, 'statx'), AT_NO_AUTOMOUNT, WANTED, buffer) < 0) throw failed('statx', path);
  return decode();
}

/** What an open descriptor is (O_PATH too): statx(2) with AT_EMPTY_PATH. */
export function statFd(fd: number): FileStat {
  if (libc().statx(fd, cPath(EMPTY, 'statx'), AT_EMPTY_PATH, WANTED, buffer) < 0) throw failed('statx');
  return decode();
}

/**
 * The mount that `path` leads to (magic links of /proc too), or null where it leads nowhere or that is hidden. Asks no
 * file system, so that a dead network mount does not hang it.
 */
export function mountIdOf(path: PathBytes): number | null {
  const flags = AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
  if (libc().statx(AT_FDCWD, cPath(path, 'statx'), flags, STATX_MNT_ID, buffer) < 0) return null;
  return (raw.getUint32(0, true) & STATX_MNT_ID) === 0 ? null : readU64(144);
}

/** The id of the descriptor's mount that is never used again until the next boot; null before Linux 6.8. */
export function uniqueMountId(fd: number): number | null {
  if (libc().statx(fd, cPath(EMPTY, 'statx'), AT_EMPTY_PATH, STATX_MNT_ID_UNIQUE, buffer) < 0) throw failed('statx');
  return (raw.getUint32(0, true) & STATX_MNT_ID_UNIQUE) === 0 ? null : readU64(144);
}

/**
 * What offset, length and memory of direct reads (O_DIRECT) of a file must be multiples of. Null where there are none, and
 * where nobody tells: before Linux 6.1, and by file systems that do not say it.
 */
export function directAlignment(path: PathBytes): number | null {
  const result = libc().statx(AT_FDCWD, cPath(path, 'statx'), AT_NO_AUTOMOUNT, STATX_DIOALIGN, buffer);
  if (result < 0) throw failed('statx', path);
  const [memory, offset] = [raw.getUint32(152, true), raw.getUint32(156, true)];
  const told = (raw.getUint32(0, true) & STATX_DIOALIGN) !== 0;
  return told && offset !== 0 ? Math.max(memory, offset) : null;
}

function decode(): FileStat {
  const attributes = raw.getUint32(8, true);
  const mode = raw.getUint16(28, true);
  return {
    kind: kindOfMode(mode),
    mode,
    uid: raw.getUint32(20, true),
    gid: raw.getUint32(24, true),
    nlink: raw.getUint32(16, true),
    ino: raw.getBigUint64(32, true),
    dev: { major: raw.getUint32(136, true), minor: raw.getUint32(140, true) },
    rdev: { major: raw.getUint32(128, true), minor: raw.getUint32(132, true) },
    size: readU64(40),
    blocks: readU64(48),
    mtime: readTime(112),
    ctime: readTime(96),
    mountId: (raw.getUint32(0, true) & STATX_MNT_ID) === 0 ? null : readU64(144),
    mountRoot: (attributes & STATX_ATTR_MOUNT_ROOT) !== 0,
    immutable: (attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND)) !== 0,
  };
}

/** The kind that the type bits of a mode say. */
export function kindOfMode(mode: number): FileKind {
  switch (mode & constants.S_IFMT) {
    case constants.S_IFDIR:
      return 'directory';
    case constants.S_IFLNK:
      return 'symlink';
    case constants.S_IFCHR:
      return 'char';
    case constants.S_IFBLK:
      return 'block';
    case constants.S_IFIFO:
      return 'fifo';
    case constants.S_IFSOCK:
      return 'socket';
    default:
      return 'file';
  }
}

function readTime(offset: number): TimeSpec {
  return {
    sec: raw.getInt32(offset + 4, true) * 2 ** 32 + raw.getUint32(offset, true),
    nsec: raw.getUint32(offset + 8, true),
  };
}

function readU64(offset: number): number {
  return raw.getUint32(offset + 4, true) * 2 ** 32 + raw.getUint32(offset, true);
}
