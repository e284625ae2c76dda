import { constants as os } from 'node:os';
import { lastErrno, libc } from './libc.js';
import { failed, scratch } from './system-error.js';

/** ioctl_iflags(2); the same numbers on x86_64 and arm64. */
const FS_IOC_GETFLAGS = 0x8008_6601;
const FS_IOC_SETFLAGS = 0x4008_6602;
const FS_IMMUTABLE_FL = 0x10;
const FS_APPEND_FL = 0x20;

const flags = scratch(8);

/**
 * Takes the immutable and append-only flags (chattr(1)) from an open file or directory, so that it can be removed. False
 * where the file system has no such flags.
 */
export function clearImmutable(fd: number): boolean {
  if (libc().ioctl(fd, FS_IOC_GETFLAGS, flags) < 0) {
    if (lastErrno() === os.errno.ENOTTY || lastErrno() === os.errno.ENOTSUP) return false;
    throw failed('FS_IOC_GETFLAGS');
  }
  const before = flags.readUInt32LE(0);
  const after = before & ~(FS_IMMUTABLE_FL | FS_APPEND_FL);
  if (after === before) return true;
  flags.writeInt32LE(after);
  if (libc().ioctl(fd, FS_IOC_SETFLAGS, flags) < 0) throw failed('FS_IOC_SETFLAGS');
  return true;
}
