/** Subvolumes, snapshots and quotas of btrfs: ioctls of linux/btrfs.h, the same numbers on x86_64 and arm64. */
import { constants as os } from 'node:os';
import type { ByteString } from '../core/bytes.js';
import { lastErrno, libc } from './libc.js';
import { statFd } from './stat.js';
import { failed, refused, scratch } from './system-error.js';

/** _IOC(direction, 0x94, number, size). */
function ioctlNumber(direction: number, number: number, size: number): number {
  return direction * 2 ** 30 + (size << 16) + (0x94 << 8) + number;
}
const WRITE = 1;
const READ = 2;
const PAGE = 4096;

const SUBVOL_CREATE = ioctlNumber(WRITE, 14, PAGE);
const SNAP_DESTROY = ioctlNumber(WRITE, 15, PAGE);
const TREE_SEARCH = ioctlNumber(READ + WRITE, 17, PAGE);
const INO_LOOKUP = ioctlNumber(READ + WRITE, 18, PAGE);
const SNAP_CREATE_V2 = ioctlNumber(WRITE, 23, PAGE);
const SUBVOL_GETFLAGS = ioctlNumber(READ, 25, 8);
const SUBVOL_SETFLAGS = ioctlNumber(WRITE, 26, 8);
const QUOTA_CTL = ioctlNumber(READ + WRITE, 40, 16);
const QGROUP_LIMIT = ioctlNumber(READ, 43, 48);
const QUOTA_RESCAN_WAIT = ioctlNumber(0, 46, 0);
const GET_SUBVOL_INFO = ioctlNumber(READ, 60, 504);

const SUBVOL_RDONLY = 2n;

/** Every argument is one page or less; struct btrfs_ioctl_vol_args: fd s64, name[4088]. */
const args = scratch(PAGE);
const NAME = 8;
/** struct btrfs_ioctl_vol_args_v2: fd s64, transid u64, flags u64, four u64 unused, name[4040]. */
const FLAGS_V2 = 16;
const NAME_V2 = 56;
const NAME_MAX = 255;

/** The root directory of every subvolume (BTRFS_FIRST_FREE_OBJECTID). */
export const SUBVOLUME_ROOT_INO = 256n;

/** Makes an empty subvolume `name` in a directory. */
export function createSubvolume(dirFd: number, name: ByteString): void {
  args.fill(0);
  writeName(name, NAME, 'BTRFS_IOC_SUBVOL_CREATE');
  call(dirFd, SUBVOL_CREATE, 'BTRFS_IOC_SUBVOL_CREATE', name);
}

/** Makes `name` in a directory a snapshot of the subvolume whose root `sourceFd` is. */
export function createSnapshot(
  sourceFd: number,
  dirFd: number,
  name: ByteString,
  options: { readOnly: boolean },
): void {
  args.fill(0);
  args.writeBigInt64LE(BigInt(sourceFd), 0);
  args.writeBigUInt64LE(options.readOnly ? SUBVOL_RDONLY : 0n, FLAGS_V2);
  writeName(name, NAME_V2, 'BTRFS_IOC_SNAP_CREATE_V2');
  call(dirFd, SNAP_CREATE_V2, 'BTRFS_IOC_SNAP_CREATE_V2', name);
}

/** Removes the subvolume `name` of a directory, whatever is in it but other subvolumes (ENOTEMPTY). */
export function destroySubvolume(dirFd: number, name: ByteString): void {
  args.fill(0);
  writeName(name, NAME, 'BTRFS_IOC_SNAP_DESTROY');
  call(dirFd, SNAP_DESTROY, 'BTRFS_IOC_SNAP_DESTROY', name);
}

/** Whether an open directory is the root of a subvolume; false on other file systems. */
export function isSubvolume(fd: number): boolean {
  return statFd(fd).ino === SUBVOLUME_ROOT_INO && libc().ioctl(fd, SUBVOL_GETFLAGS, args) === 0;
}

/** Whether the subvolume whose root `fd` is refuses changes. EINVAL where it is no subvolume's root. */
export function isReadOnly(fd: number): boolean {
  call(fd, SUBVOL_GETFLAGS, 'BTRFS_IOC_SUBVOL_GETFLAGS');
  return (args.readBigUInt64LE(0) & SUBVOL_RDONLY) !== 0n;
}

/** Makes a subvolume refuse changes, or take them again. */
export function setReadOnly(fd: number, readOnly: boolean): void {
  call(fd, SUBVOL_GETFLAGS, 'BTRFS_IOC_SUBVOL_GETFLAGS');
  const others = args.readBigUInt64LE(0) & ~SUBVOL_RDONLY;
  args.writeBigUInt64LE(others | (readOnly ? SUBVOL_RDONLY : 0n), 0);
  call(fd, SUBVOL_SETFLAGS, 'BTRFS_IOC_SUBVOL_SETFLAGS');
}

/** Whether the subvolume of one open file was made as a snapshot of that of the other. */
export function isSnapshotOf(fd: number, source: number): boolean {
  return uuidsOf(fd).parent.equals(uuidsOf(source).own);
}

/** Of struct btrfs_ioctl_get_subvol_info_args: uuid and parent_uuid, which is zero in what is no snapshot. */
function uuidsOf(fd: number): { own: Buffer; parent: Buffer } {
  args.fill(0);
  call(fd, GET_SUBVOL_INFO, 'BTRFS_IOC_GET_SUBVOL_INFO');
  return { own: Buffer.from(args.subarray(296, 312)), parent: Buffer.from(args.subarray(312, 328)) };
}

/** The id of the subvolume that an open file lies in; that of its quota group too. */
export function subvolumeId(fd: number): bigint {
  // struct btrfs_ioctl_ino_lookup_args: treeid (0: that of fd, answered), objectid, name
  args.fill(0);
  args.writeBigUInt64LE(SUBVOLUME_ROOT_INO, 8);
  call(fd, INO_LOOKUP, 'BTRFS_IOC_INO_LOOKUP');
  return args.readBigUInt64LE(0);
}

/**
 * Switches accounting by subvolume on for the whole file system and waits for its first count. It costs time with
 * every snapshot; on where it was on already.
 */
export function enableQuota(fd: number): void {
  const QUOTA_CTL_ENABLE = 1n;
  args.fill(0);
  args.writeBigUInt64LE(QUOTA_CTL_ENABLE, 0);
  call(fd, QUOTA_CTL, 'BTRFS_IOC_QUOTA_CTL');
  call(fd, QUOTA_RESCAN_WAIT, 'BTRFS_IOC_QUOTA_RESCAN_WAIT');
}

/**
 * Limits the bytes that the subvolume of `fd` holds for itself, not counting what it shares; null takes the limit
 * away. Writes beyond it fail with EDQUOT. Throws ENOTCONN without {@link enableQuota}.
 */
export function limitExclusive(fd: number, bytes: number | null): void {
  // struct btrfs_ioctl_qgroup_limit_args: qgroupid (0: that of fd), then flags, max_rfer, max_excl, rsv_rfer, rsv_excl
  const LIMIT_MAX_EXCL = 2n;
  const NO_LIMIT = 0xffff_ffff_ffff_ffffn;
  args.fill(0);
  args.writeBigUInt64LE(LIMIT_MAX_EXCL, 8);
  args.writeBigUInt64LE(bytes === null ? NO_LIMIT : BigInt(bytes), 24);
  call(fd, QGROUP_LIMIT, 'BTRFS_IOC_QGROUP_LIMIT');
}

/** Bytes of one subvolume, as of the last commit of the file system's transaction (syncfs). */
export interface SubvolumeUsage {
  /** All that it reaches, shared with others or not. */
  referenced: number;
  /** What would go with it. */
  exclusive: number;
}

const QUOTA_TREE = 8n;
const QGROUP_INFO_KEY = 242;
/** Of struct btrfs_ioctl_search_key, and of the header before each item that was found. */
const SEARCH_KEY_SIZE = 104;
const SEARCH_HEADER_SIZE = 32;

/** What quota knows of a subvolume, found by its id from any open file of the file system; null without quota. */
export function subvolumeUsage(fd: number, id: bigint): SubvolumeUsage | null {
  writeSearchKey(id);
  if (libc().ioctl(fd, TREE_SEARCH, args) < 0) {
    if (lastErrno() === os.errno.ENOENT) return null;
    throw failed('BTRFS_IOC_TREE_SEARCH');
  }
  const found = args.readUInt32LE(64);
  if (found === 0) return null;
  // struct btrfs_qgroup_info_item: generation, referenced, compressed, exclusive, compressed
  const item = SEARCH_KEY_SIZE + SEARCH_HEADER_SIZE;
  return {
    referenced: Number(args.readBigUInt64LE(item + 8)),
    exclusive: Number(args.readBigUInt64LE(item + 24)),
  };
}

/** struct btrfs_ioctl_search_key: tree, objectid, offset and transid from–to, type from–to, how many. */
function writeSearchKey(id: bigint): void {
  const MAX = 0xffff_ffff_ffff_ffffn;
  args.fill(0);
  [QUOTA_TREE, 0n, 0n, id, id, 0n, MAX].forEach((value, index) => args.writeBigUInt64LE(value, index * 8));
  args.writeUInt32LE(QGROUP_INFO_KEY, 56);
  args.writeUInt32LE(QGROUP_INFO_KEY, 60);
  args.writeUInt32LE(1, 64);
}

function writeName(name: ByteString, offset: number, syscall: string): void {
  if (name.length > NAME_MAX) throw refused('ENAMETOOLONG', syscall, name);
  if (name.includes('\0') || name.includes('/')) throw refused('EINVAL', syscall, name);
  args.write(name, offset, 'latin1');
}

function call(fd: number, request: number, name: string, path: ByteString = '' as ByteString): void {
  if (libc().ioctl(fd, request, args) < 0) throw failed(name, path);
}
