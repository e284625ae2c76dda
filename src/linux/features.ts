/** What this kernel and its file systems can do, found out by trying. */
import { closeSync, constants, mkdtempSync, openSync, rmSync, statfsSync, writeSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { bytesOf } from '../core/bytes.js';
import { isErrno, LayerdError } from '../core/errors.js';
import { cloneFile } from './extents.js';
import { AT_FDCWD, close, O_TMPFILE, openat } from './files.js';
import { linuxAvailable } from './libc.js';
import { fsconfigCreate, fsconfigFlag, fsconfigString, fsopen } from './mount.js';
import { overlayWay, type OverlayWay } from './overlay.js';

export interface KernelFeatures {
  /** As `uname -r`. */
  release: string;
  /** fsopen(2) and its family. */
  mountApi: boolean;
  /** How overlay layers can be handed over; null without overlay. */
  overlay: OverlayWay | null;
  /** What erofs images can be mounted from; null without erofs. */
  erofs: 'files' | 'devices' | null;
}

/** Tries the kernel; loads the modules of overlay and erofs where they are not yet. Throws DRIVER_UNAVAILABLE. */
export function kernelFeatures(): KernelFeatures {
  const mountApi = hasMountApi();
  return { release: release(), mountApi, overlay: overlayOrNull(), erofs: mountApi ? erofsSource() : null };
}

function hasMountApi(): boolean {
  const fsFd = opened('tmpfs');
  if (fsFd === null) return false;
  close(fsFd);
  return true;
}

/** Null where the kernel knows no such file system, or no fsopen(2), or we may not. */
function opened(type: string): number | null {
  try {
    return fsopen(type);
  } catch (thrown) {
    if (isErrno(thrown, 'ENOSYS', 'ENODEV', 'EPERM')) return null;
    throw thrown;
  }
}

function overlayOrNull(): OverlayWay | null {
  try {
    return overlayWay();
  } catch (thrown) {
    if (thrown instanceof LayerdError && linuxAvailable().available) return null;
    throw thrown;
  }
}

/** A regular file that is no image: a kernel that reads it says EINVAL, one that wants a block device ENOTBLK. */
function erofsSource(): KernelFeatures['erofs'] {
  const fsFd = opened('erofs');
  if (fsFd === null) return null;
  try {
    fsconfigFlag(fsFd, 'ro');
    fsconfigString(fsFd, 'source', bytesOf('/proc/self/exe'));
    fsconfigCreate(fsFd);
    return 'files';
  } catch (thrown) {
    if (isErrno(thrown, 'EINVAL')) return 'files';
    if (isErrno(thrown, 'ENOTBLK')) return 'devices';
    throw thrown;
  } finally {
    close(fsFd);
  }
}

/** Magic numbers of statfs(2), linux/magic.h. */
const FILE_SYSTEMS: Record<number, string> = {
  0xef53: 'ext4',
  0x5846_5342: 'xfs',
  0x9123_683e: 'btrfs',
  0x0102_1994: 'tmpfs',
  0x794c_7630: 'overlayfs',
  0xe0f5_e1e2: 'erofs',
  0xf2f5_2010: 'f2fs',
  0xca45_1a4e: 'bcachefs',
  0x2fc1_2fc1: 'zfs',
  0x7371_7368: 'squashfs',
  0x8584_58f6: 'ramfs',
  0x6573_5546: 'fuse',
  0x6969: 'nfs',
  0xff53_4d42: 'cifs',
  0xfe53_4d42: 'smb2',
  0x0102_1997: '9p',
  0x00c3_6400: 'ceph',
  0x4d44: 'vfat',
};

/** The file system that a path lies on, `ext4` for its elders too; its magic number in hex where it has no name here. */
export function fileSystemType(path: string): string {
  // the field is a signed long of which 32 bits count
  const magic = Number(BigInt.asUintN(32, statfsSync(path, { bigint: true }).type));
  return FILE_SYSTEMS[magic] ?? `0x${magic.toString(16)}`;
}

/** Whether files below a directory can share blocks (FICLONE): makes two there, clones, and removes them. */
export function canClone(directory: string): boolean {
  const probe = mkdtempSync(join(directory, '.clone-'));
  const fds: number[] = [];
  try {
    const from = openSync(join(probe, 'from'), 'wx+');
    fds.push(from);
    const to = openSync(join(probe, 'to'), 'wx');
    fds.push(to);
    writeSync(from, 'x');
    cloneFile(from, to);
    return true;
  } catch (thrown) {
    if (isErrno(thrown, 'ENOTSUP', 'EXDEV', 'EINVAL', 'ENOTTY', 'ENOSYS')) return false;
    throw thrown;
  } finally {
    fds.forEach(closeSync);
    rmSync(probe, { recursive: true });
  }
}

/** Whether the file system of a directory has unnamed files (O_TMPFILE). */
export function canTmpfile(directory: string): boolean {
  try {
    close(openat(AT_FDCWD, bytesOf(directory), O_TMPFILE | constants.O_WRONLY, 0o600));
    return true;
  } catch (thrown) {
    if (isErrno(thrown, 'ENOTSUP', 'EISDIR', 'ENOENT')) return false;
    throw thrown;
  }
}
