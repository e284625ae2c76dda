/** The process at the other end of a Unix socket: its groups, and a descriptor of it that it lets us have. */
import { constants as os } from 'node:os';
import { lastErrno, libc, SYS } from './libc.js';
import { failed, scratch } from './system-error.js';

const SOL_SOCKET = 1;
const SO_PEERGROUPS = 59;
const SO_PEERPIDFD = 77;

const optionLength = scratch(4);
const pidfdValue = scratch(4);
/** NGROUPS_MAX groups of four bytes. */
const groupsValue = scratch(65_536 * 4);

/** The supplementary groups that the peer had when it connected (SO_PEERGROUPS of unix(7)). */
export function peerGroups(socketFd: number): number[] {
  optionLength.writeUInt32LE(groupsValue.length);
  if (libc().getsockopt(socketFd, SOL_SOCKET, SO_PEERGROUPS, groupsValue, optionLength) < 0) throw failed('getsockopt');
  return Array.from({ length: optionLength.readUInt32LE() / 4 }, (_, index) => groupsValue.readUInt32LE(index * 4));
}

/**
 * A pidfd of the very process that connected, even if its number has been given to another since (SO_PEERPIDFD, Linux
 * 6.5). Null where the kernel does not know it.
 */
export function peerPidfd(socketFd: number): number | null {
  optionLength.writeUInt32LE(pidfdValue.length);
  if (libc().getsockopt(socketFd, SOL_SOCKET, SO_PEERPIDFD, pidfdValue, optionLength) === 0)
    return pidfdValue.readInt32LE();
  if (lastErrno() === os.errno.ENOPROTOOPT) return null;
  throw failed('getsockopt');
}

/** pidfd_open(2). */
export function openPidfd(pid: number): number {
  const fd = libc().pidfdOpen(SYS.pidfdOpen, pid, 0);
  if (fd < 0) throw failed('pidfd_open');
  return fd;
}

/**
 * pidfd_getfd(2): a duplicate of a descriptor of another process, close-on-exec. Unlike /proc/PID/fd it takes the open
 * file itself in one step: what is checked on the duplicate holds for what is read through it. EBADF if the process has
 * no such descriptor, EPERM if it may not be looked into, ESRCH if it is gone.
 */
export function duplicateFrom(pidfd: number, theirFd: number): number {
  const fd = libc().pidfdGetfd(SYS.pidfdGetfd, pidfd, theirFd, 0);
  if (fd < 0) throw failed('pidfd_getfd');
  return fd;
}

const F_GETFL = 3;
const O_ACCMODE = 3;
const O_WRONLY = 1;
const O_PATH = 0o10000000;

/** Whether a descriptor was opened for reading: not write-only, and not a mere name (O_PATH). */
export function isReadable(fd: number): boolean {
  const flags = libc().fcntl(fd, F_GETFL, 0);
  if (flags < 0) throw failed('fcntl');
  return (flags & O_PATH) === 0 && (flags & O_ACCMODE) !== O_WRONLY;
}
