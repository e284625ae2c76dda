/**
 * Names and attributes of files relative to a directory descriptor, as bytes. Every function is the system call of its
 * name, throws a SystemError, and follows no symbolic link at the end of a path unless it says so. Descriptors are
 * always close-on-exec.
 */
import { constants } from 'node:fs';
import { constants as os } from 'node:os';
import { fromBuffer, type ByteString } from '../core/bytes.js';
import { lastErrno, libc, SYS } from './libc.js';
import type { TimeSpec } from './stat.js';
import { AT_FDCWD, cPath, cPath2, failed, PATH_MAX, refused, scratch, type PathBytes } from './system-error.js';

export { AT_FDCWD };

/** open(2) flags that node:fs constants lack; the same on x86_64 and arm64. */
export const O_PATH = 0o10000000;
export const O_CLOEXEC = 0o2000000;
/** An unnamed file in the directory that the path names; gets a name by {@link linkFd}. */
export const O_TMPFILE = 0o20000000 | constants.O_DIRECTORY;

/** openat2(2): how far the resolution of a path may go. */
export const RESOLVE = {
  /** No crossing of mounts, bind mounts included: EXDEV. */
  NO_XDEV: 0x01,
  /** No magic links (/proc/PID/fd and the like): ELOOP. */
  NO_MAGICLINKS: 0x02,
  /** No symbolic links at all: ELOOP. */
  NO_SYMLINKS: 0x04,
  /** `..`, absolute paths and links must not lead out of the directory: EXDEV. */
  BENEATH: 0x08,
  /** The directory is the root for absolute paths, links and `..`. */
  IN_ROOT: 0x10,
} as const;

const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_REMOVEDIR = 0x200;
const AT_SYMLINK_FOLLOW = 0x400;

/** openat(2). Add O_NOFOLLOW for a name that an archive chose. */
export function openat(dirFd: number, path: PathBytes, flags: number, mode = 0): number {
  const fd = libc().openat(dirFd, cPath(path, 'openat'), flags | O_CLOEXEC, mode);
  if (fd < 0) throw failed('openat', path);
  return fd;
}

/** As {@link openat}, but null where nothing is there (ENOENT, ENOTDIR). */
export function tryOpenat(dirFd: number, path: PathBytes, flags: number): number | null {
  const fd = libc().openat(dirFd, cPath(path, 'openat'), flags | O_CLOEXEC, 0);
  if (fd >= 0) return fd;
  const errno = lastErrno();
  if (errno === os.errno.ENOENT || errno === os.errno.ENOTDIR) return null;
  throw failed('openat', path);
}

/** struct open_how of linux/openat2.h: flags, mode, resolve, 64 bits each. */
const openHow = scratch(24);

/** The kernel gives up (EAGAIN) when a rename anywhere races with `..` below BENEATH or IN_ROOT. */
const OPENAT2_ATTEMPTS = 64;

/** openat2(2), Linux ≥ 5.6; `resolve` is a sum of {@link RESOLVE}. */
export function openat2(dirFd: number, path: PathBytes, flags: number, resolve: number, mode = 0): number {
  const name = cPath(path, 'openat2');
  openHow.writeUInt32LE((flags | O_CLOEXEC) >>> 0, 0);
  openHow.writeUInt32LE(mode, 8);
  openHow.writeUInt32LE(resolve, 16);
  const { openat2: call } = libc();
  for (let attempt = 1; ; attempt++) {
    const fd = call(SYS.openat2, dirFd, name, openHow, openHow.length);
    if (fd >= 0) return fd;
    if (lastErrno() !== os.errno.EAGAIN || attempt === OPENAT2_ATTEMPTS) throw failed('openat2', path);
  }
}

/** close(2). */
export function close(fd: number): void {
  if (libc().close(fd) < 0) throw failed('close');
}

/** mkdirat(2). The mode is cut by the umask. */
export function mkdirat(dirFd: number, path: PathBytes, mode: number): void {
  if (libc().mkdirat(dirFd, cPath(path, 'mkdirat'), mode) < 0) throw failed('mkdirat', path);
}

/** mknodat(2): `mode` with the type bits (S_IFCHR, S_IFBLK, S_IFIFO, S_IFREG, S_IFSOCK). EINVAL for numbers that Linux cannot hold. */
export function mknodat(dirFd: number, path: PathBytes, mode: number, major = 0, minor = 0): void {
  if (major < 0 || major > 0xfff || minor < 0 || minor > 0xfffff) throw refused('EINVAL', 'mknodat', path);
  // new_encode_dev() of linux/kdev_t.h
  const device = ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
  if (libc().mknodat(SYS.mknodat, dirFd, cPath(path, 'mknodat'), mode, device) < 0) throw failed('mknodat', path);
}

/** symlinkat(2): makes `path` a link to `target`, any bytes but NUL. */
export function symlinkat(target: PathBytes, dirFd: number, path: PathBytes): void {
  if (libc().symlinkat(cPath2(target, 'symlinkat'), dirFd, cPath(path, 'symlinkat')) < 0) {
    throw failed('symlinkat', path);
  }
}

/** linkat(2): gives the file `oldPath` (a symbolic link itself, not its target) the further name `newPath`. */
export function linkat(oldDirFd: number, oldPath: PathBytes, newDirFd: number, newPath: PathBytes): void {
  const from = cPath(oldPath, 'linkat');
  if (libc().linkat(oldDirFd, from, newDirFd, cPath2(newPath, 'linkat'), 0) < 0) throw failed('linkat', newPath);
}

/** Gives an open file (made with {@link O_TMPFILE}, say) a name: linkat(2) through /proc. */
export function linkFd(fd: number, newDirFd: number, newPath: PathBytes): void {
  const from = cPath(fdPath(fd), 'linkat');
  if (libc().linkat(AT_FDCWD, from, newDirFd, cPath2(newPath, 'linkat'), AT_SYMLINK_FOLLOW) < 0) {
    throw failed('linkat', newPath);
  }
}

/** unlinkat(2) of anything but a directory. EBUSY where something is mounted on it. */
export function unlinkat(dirFd: number, path: PathBytes): void {
  if (libc().unlinkat(dirFd, cPath(path, 'unlinkat'), 0) < 0) throw failed('unlinkat', path);
}

/** unlinkat(2) with AT_REMOVEDIR: removes an empty directory. */
export function rmdirat(dirFd: number, path: PathBytes): void {
  if (libc().unlinkat(dirFd, cPath(path, 'rmdir'), AT_REMOVEDIR) < 0) throw failed('rmdir', path);
}

/** What {@link renameat} does where the new name exists: replace it, fail with EEXIST, or let the two change places. */
export const RENAME = { replace: 0, noReplace: 1, exchange: 2 } as const;

/** renameat2(2). */
export function renameat(
  oldDirFd: number,
  oldPath: PathBytes,
  newDirFd: number,
  newPath: PathBytes,
  how: (typeof RENAME)[keyof typeof RENAME] = RENAME.replace,
): void {
  const from = cPath(oldPath, 'renameat2');
  const to = cPath2(newPath, 'renameat2');
  if (libc().renameat2(oldDirFd, from, newDirFd, to, how) < 0) throw failed('renameat2', oldPath);
}

const linkTarget = scratch(PATH_MAX + 1);

/** readlinkat(2): the target's bytes. An empty path reads the link that an O_PATH descriptor stands for. */
export function readlinkat(dirFd: number, path: PathBytes): ByteString {
  const length = libc().readlinkat(dirFd, cPath(path, 'readlinkat'), linkTarget, linkTarget.length);
  if (length < 0) throw failed('readlinkat', path);
  if (length === linkTarget.length) throw refused('ENAMETOOLONG', 'readlinkat', path);
  return fromBuffer(linkTarget.subarray(0, length));
}

/** fchownat(2). Clears setuid, setgid and file capabilities: set those afterwards. */
export function fchownat(dirFd: number, path: PathBytes, uid: number, gid: number): void {
  if (libc().fchownat(dirFd, cPath(path, 'fchownat'), uid, gid, AT_SYMLINK_NOFOLLOW) < 0) {
    throw failed('fchownat', path);
  }
}

/** fchown(2). Clears setuid, setgid and file capabilities: set those afterwards. */
export function fchown(fd: number, uid: number, gid: number): void {
  if (libc().fchown(fd, uid, gid) < 0) throw failed('fchown');
}

/** fchmod(2): permissions without type bits. */
export function fchmod(fd: number, mode: number): void {
  if (libc().fchmod(fd, mode) < 0) throw failed('fchmod');
}

let hasFchmodat2 = true;

/** fchmodat2(2): permissions without type bits. A symbolic link at the end is refused (ENOTSUP), never followed. */
export function fchmodat(dirFd: number, path: PathBytes, mode: number): void {
  if (hasFchmodat2) {
    if (libc().fchmodat2(SYS.fchmodat2, dirFd, cPath(path, 'fchmodat'), mode, AT_SYMLINK_NOFOLLOW) === 0) return;
    if (lastErrno() !== os.errno.ENOSYS) throw failed('fchmodat', path);
    hasFchmodat2 = false;
  }
  chmodThroughProc(dirFd, path, mode);
}

/** Before Linux 6.6 fchmodat(2) only follows: an O_PATH descriptor holds what the name is now. */
function chmodThroughProc(dirFd: number, path: PathBytes, mode: number): void {
  const fd = openat(dirFd, path, O_PATH | constants.O_NOFOLLOW);
  try {
    if (libc().fchmodat(AT_FDCWD, cPath(fdPath(fd), 'fchmodat'), mode, 0) < 0) throw failed('fchmodat', path);
  } finally {
    close(fd);
  }
}

/** struct timespec[2]: atime, mtime. */
const times = scratch(32);
const timeFields = new DataView(times.buffer);

function fillTimes(mtime: TimeSpec, atime: TimeSpec): Buffer {
  fillTime(0, atime);
  fillTime(16, mtime);
  return times;
}

function fillTime(offset: number, { sec, nsec }: TimeSpec): void {
  // a setter takes the low 32 bits of what it is given
  timeFields.setInt32(offset, sec, true);
  timeFields.setInt32(offset + 4, Math.floor(sec / 2 ** 32), true);
  timeFields.setUint32(offset + 8, nsec, true);
}

/** utimensat(2): mtime in nanoseconds, on a symbolic link itself; atime becomes the same unless given. */
export function utimensat(dirFd: number, path: PathBytes, mtime: TimeSpec, atime: TimeSpec = mtime): void {
  const name = cPath(path, 'utimensat');
  if (libc().utimensat(dirFd, name, fillTimes(mtime, atime), AT_SYMLINK_NOFOLLOW) < 0) throw failed('utimensat', path);
}

/** futimens(3): as {@link utimensat}, of an open file. */
export function futimens(fd: number, mtime: TimeSpec, atime: TimeSpec = mtime): void {
  if (libc().futimens(fd, fillTimes(mtime, atime)) < 0) throw failed('futimens');
}

/** The path by which this process reaches an open descriptor; works for O_PATH and detached mounts too. */
export function fdPath(fd: number): ByteString {
  return `/proc/self/fd/${fd}` as ByteString;
}

/** The path by which calls that take no directory descriptor (xattrs) reach `name` in a directory. */
export function fdPathOf(dirFd: number, name: ByteString): ByteString {
  return `/proc/self/fd/${dirFd}/${name}` as ByteString;
}
