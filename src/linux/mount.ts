/**
 * Mounting: mount(2) and the newer calls by descriptor (Linux ≥ 5.2; mount_setattr ≥ 5.12). Descriptors are
 * close-on-exec. A detached mount (of {@link fsmount}, {@link openTree}) serves as a directory descriptor without being
 * attached anywhere, and goes when its descriptor is closed unless it was attached. Errors of a mount that is being
 * configured carry what the kernel logged about it.
 */
import { bytesOf, fromBuffer, type ByteString } from '../core/bytes.js';
import { LayerdError, toLayerdError } from '../core/errors.js';
import { AT_FDCWD, O_CLOEXEC } from './files.js';
import { lastErrno, libc, SYS } from './libc.js';
import { cPath, cPath2, failed, PATH_MAX, scratch, SystemError, type PathBytes } from './system-error.js';

/** Flags of mount(2). */
export const MS = {
  RDONLY: 1,
  NOSUID: 2,
  NODEV: 4,
  NOEXEC: 8,
  REMOUNT: 32,
  NOATIME: 1024,
  BIND: 4096,
  REC: 16_384,
  PRIVATE: 1 << 18,
  SLAVE: 1 << 19,
  SHARED: 1 << 20,
} as const;

/** Attributes of one mount (not of its file system), for {@link fsmount} and {@link mountSetattr}. */
export interface MountAttributes {
  readOnly?: boolean;
  nosuid?: boolean;
  nodev?: boolean;
  noexec?: boolean;
  noatime?: boolean;
}

const MOUNT_ATTR_RDONLY = 0x1;
const MOUNT_ATTR_NOSUID = 0x2;
const MOUNT_ATTR_NODEV = 0x4;
const MOUNT_ATTR_NOEXEC = 0x8;
const MOUNT_ATTR_NOATIME = 0x10;
const MOUNT_ATTR_ATIME_MASK = 0x70;
const MOUNT_ATTR_IDMAP = 0x10_0000;

const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_EMPTY_PATH = 0x1000;
const AT_RECURSIVE = 0x8000;

/** The kernel copies one page of options and cuts the rest off without a word: the last byte is its NUL. */
export const MOUNT_DATA_MAX = 4095;
/** A value of {@link fsconfigString} is one byte shorter than this. */
export const FSCONFIG_STRING_MAX = 256;

export interface MountCall {
  source: PathBytes;
  target: PathBytes;
  type: string;
  /** A sum of {@link MS}. */
  flags: number;
  data: PathBytes;
}

/** mount(2). Options that the kernel would cut are refused with MOUNT_FAILED: it would mount something else. */
export function mount({ source, target, type, flags, data }: MountCall): void {
  if (data.length > MOUNT_DATA_MAX) {
    throw new LayerdError('MOUNT_FAILED', `mount options of ${data.length} bytes are more than mount(2) takes`, {
      details: { found: data.length, limit: MOUNT_DATA_MAX, type },
      hint: 'Fewer layers or shorter paths fit; Linux ≥ 6.7 mounts without this limit.',
    });
  }
  const c = libc();
  const result = c.mount(cString(source), cPath(target, 'mount'), cString(bytesOf(type)), flags, cString(data));
  if (result < 0) throw failed('mount', target);
}

/** umount2(2), never following a symbolic link. EBUSY while something uses the mount, unless `detach` (MNT_DETACH). */
export function umount(target: PathBytes, options: { detach?: boolean; force?: boolean } = {}): void {
  const MNT_FORCE = 1;
  const MNT_DETACH = 2;
  const UMOUNT_NOFOLLOW = 8;
  const flags = UMOUNT_NOFOLLOW | (options.detach ? MNT_DETACH : 0) | (options.force ? MNT_FORCE : 0);
  if (libc().umount2(cPath(target, 'umount2'), flags) < 0) throw failed('umount2', target);
}

/** fsopen(2): a file system to configure. ENODEV where the kernel has no such type, ENOSYS before Linux 5.2. */
export function fsopen(type: string): number {
  const FSOPEN_CLOEXEC = 1;
  const fd = libc().fsopen(SYS.fsopen, cString(bytesOf(type)), FSOPEN_CLOEXEC);
  if (fd < 0) throw failed('fsopen', bytesOf(type));
  return fd;
}

/** fspick(2): a mounted file system, to change its options with {@link fsconfigReconfigure}. */
export function fspick(dirFd: number, path: PathBytes): number {
  const FSPICK_CLOEXEC = 1;
  const FSPICK_SYMLINK_NOFOLLOW = 2;
  const FSPICK_EMPTY_PATH = 8;
  const flags = FSPICK_CLOEXEC | FSPICK_SYMLINK_NOFOLLOW | (path.length === 0 ? FSPICK_EMPTY_PATH : 0);
  const fd = libc().fspick(SYS.fspick, dirFd, cPath(path, 'fspick'), flags);
  if (fd < 0) throw failed('fspick', path);
  return fd;
}

/** Commands of fsconfig(2). */
const SET_FLAG = 0;
const SET_STRING = 1;
const SET_FD = 5;
const CMD_CREATE = 6;
const CMD_RECONFIGURE = 7;

/** fsconfig(2): switches an option on. */
export function fsconfigFlag(fsFd: number, key: string): void {
  fsconfig(fsFd, SET_FLAG, key, null, 0);
}

/** fsconfig(2): an option with a value of fewer than {@link FSCONFIG_STRING_MAX} bytes. */
export function fsconfigString(fsFd: number, key: string, value: PathBytes): void {
  fsconfig(fsFd, SET_STRING, key, cString(value), 0);
}

/** fsconfig(2): an option whose value is an open file (O_PATH will do); the descriptor may be closed afterwards. */
export function fsconfigFd(fsFd: number, key: string, fd: number): void {
  fsconfig(fsFd, SET_FD, key, null, fd);
}

/** fsconfig(2): makes the superblock from the options given. */
export function fsconfigCreate(fsFd: number): void {
  fsconfig(fsFd, CMD_CREATE, null, null, 0);
}

/** fsconfig(2): applies the options given to the superblock of {@link fspick}. */
export function fsconfigReconfigure(fsFd: number): void {
  fsconfig(fsFd, CMD_RECONFIGURE, null, null, 0);
}

function fsconfig(fsFd: number, command: number, key: string | null, value: Buffer | null, aux: number): void {
  const name = key === null ? null : cString(bytesOf(key));
  if (libc().fsconfig(SYS.fsconfig, fsFd, command, name, value, aux) === 0) return;
  throw configurationFailed(fsFd, key === null ? 'fsconfig' : `fsconfig ${key}`);
}

/** fsmount(2): a detached mount of a file system that {@link fsconfigCreate} made. */
export function fsmount(fsFd: number, attributes: MountAttributes = {}): number {
  const FSMOUNT_CLOEXEC = 1;
  const fd = libc().fsmount(SYS.fsmount, fsFd, FSMOUNT_CLOEXEC, attributeBits(attributes));
  if (fd < 0) throw configurationFailed(fsFd, 'fsmount');
  return fd;
}

/**
 * move_mount(2). An empty `fromPath` means the mount of the descriptor itself: so a detached mount is attached. An
 * empty `toPath` means the directory of the descriptor.
 */
export function moveMount(fromFd: number, fromPath: PathBytes, toFd: number, toPath: PathBytes): void {
  const MOVE_MOUNT_F_EMPTY_PATH = 0x04;
  const MOVE_MOUNT_T_EMPTY_PATH = 0x40;
  const from = cPath(fromPath, 'move_mount');
  const to = cPath2(toPath, 'move_mount');
  const flags =
    (fromPath.length === 0 ? MOVE_MOUNT_F_EMPTY_PATH : 0) | (toPath.length === 0 ? MOVE_MOUNT_T_EMPTY_PATH : 0);
  if (libc().moveMount(SYS.moveMount, fromFd, from, toFd, to, flags) < 0) throw failed('move_mount', toPath);
}

/** Attaches a detached mount at a directory; the descriptor may be closed afterwards. */
export function attach(mountFd: number, target: PathBytes): void {
  moveMount(mountFd, '' as ByteString, AT_FDCWD, target);
}

/**
 * open_tree(2): a descriptor for what is mounted at `path`; with `clone` a new detached bind mount of it, with
 * `recursive` including the mounts below. An empty path means the descriptor itself.
 */
export function openTree(
  dirFd: number,
  path: PathBytes,
  options: { clone?: boolean; recursive?: boolean } = {},
): number {
  const OPEN_TREE_CLONE = 1;
  const flags =
    O_CLOEXEC |
    AT_SYMLINK_NOFOLLOW |
    (options.clone ? OPEN_TREE_CLONE : 0) |
    (options.recursive ? AT_RECURSIVE : 0) |
    (path.length === 0 ? AT_EMPTY_PATH : 0);
  const fd = libc().openTree(SYS.openTree, dirFd, cPath(path, 'open_tree'), flags);
  if (fd < 0) throw failed('open_tree', path);
  return fd;
}

/** Changes of {@link mountSetattr}; what is left out stays. */
export interface MountChange extends MountAttributes {
  propagation?: keyof typeof PROPAGATION;
  /** A user namespace whose mapping the mount shows; the mount must still be detached and without one. */
  idmapUserns?: number;
  recursive?: boolean;
}

const PROPAGATION = { unbindable: 1 << 17, private: 1 << 18, slave: 1 << 19, shared: 1 << 20 } as const;

/** struct mount_attr of linux/mount.h: set, clear, propagation, userns_fd, 64 bits each. */
const mountAttr = scratch(32);

/** mount_setattr(2), Linux ≥ 5.12: sets attributes that are true, clears those that are false. */
export function mountSetattr(dirFd: number, path: PathBytes, change: MountChange): void {
  const set = attributeBits(change) | (change.idmapUserns === undefined ? 0 : MOUNT_ATTR_IDMAP);
  mountAttr.fill(0);
  mountAttr.writeUInt32LE(set, 0);
  mountAttr.writeUInt32LE(clearedBits(change), 8);
  mountAttr.writeUInt32LE(change.propagation === undefined ? 0 : PROPAGATION[change.propagation], 16);
  mountAttr.writeUInt32LE(change.idmapUserns ?? 0, 24);
  const flags = AT_SYMLINK_NOFOLLOW | (path.length === 0 ? AT_EMPTY_PATH : 0) | (change.recursive ? AT_RECURSIVE : 0);
  const name = cPath(path, 'mount_setattr');
  if (libc().mountSetattr(SYS.mountSetattr, dirFd, name, flags, mountAttr, mountAttr.length) < 0) {
    throw failed('mount_setattr', path);
  }
}

/** The same attributes as flags of mount(2). */
export function mountFlags(attributes: MountAttributes): number {
  return (
    (attributes.readOnly ? MS.RDONLY : 0) |
    (attributes.nosuid ? MS.NOSUID : 0) |
    (attributes.nodev ? MS.NODEV : 0) |
    (attributes.noexec ? MS.NOEXEC : 0) |
    (attributes.noatime ? MS.NOATIME : 0)
  );
}

function attributeBits(attributes: MountAttributes): number {
  return (
    (attributes.readOnly ? MOUNT_ATTR_RDONLY : 0) |
    (attributes.nosuid ? MOUNT_ATTR_NOSUID : 0) |
    (attributes.nodev ? MOUNT_ATTR_NODEV : 0) |
    (attributes.noexec ? MOUNT_ATTR_NOEXEC : 0) |
    (attributes.noatime ? MOUNT_ATTR_NOATIME : 0)
  );
}

function clearedBits(change: MountAttributes): number {
  return (
    (change.readOnly === false ? MOUNT_ATTR_RDONLY : 0) |
    (change.nosuid === false ? MOUNT_ATTR_NOSUID : 0) |
    (change.nodev === false ? MOUNT_ATTR_NODEV : 0) |
    (change.noexec === false ? MOUNT_ATTR_NOEXEC : 0) |
    // the kernel wants the whole field cleared before another value is set
    (change.noatime === undefined ? 0 : MOUNT_ATTR_ATIME_MASK)
  );
}

/**
 * A failed mount as people should see it: the code of the errno where that has one of its own, else MOUNT_FAILED, with
 * what was to be mounted and what the kernel said.
 */
export function mountFailed(what: string, thrown: unknown): LayerdError {
  const error = toLayerdError(thrown);
  if (!(thrown instanceof SystemError)) return error;
  const named = error.code !== 'INTERNAL';
  return new LayerdError(named ? error.code : 'MOUNT_FAILED', `cannot mount ${what}: ${thrown.message}`, {
    details: { errno: thrown.code, syscall: thrown.syscall },
    hint: named ? error.hint : "The kernel's own words are in the message; dmesg may say more.",
    cause: thrown,
  });
}

/** Mount calls are rare: their strings need no preallocated room. */
function cString(bytes: PathBytes): Buffer {
  const text = typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes;
  return Buffer.concat([text, new Uint8Array(1)]);
}

function configurationFailed(fsFd: number, syscall: string): SystemError {
  const errno = lastErrno();
  return new SystemError(errno, syscall, new Uint8Array(), kernelLog(fsFd).join('; '));
}

/** Reads (and so takes away) the messages of a file system being configured; one read(2) gives one. */
function kernelLog(fsFd: number): string[] {
  const line = scratch(PATH_MAX);
  const lines: string[] = [];
  for (;;) {
    const length = libc().read(fsFd, line, line.length);
    if (length <= 0) return lines;
    // a letter for the severity and a space come first
    lines.push(fromBuffer(line.subarray(2, length)).trim());
  }
}
