/** Who is at the other end of a Unix socket, for every door. */
import { fstatSync, statSync } from 'node:fs';
import type { Socket } from 'node:net';
import { isErrno, LayerdError } from '../core/errors.js';
import { close } from '../linux/files.js';
import { linuxAvailable } from '../linux/libc.js';
import { duplicateFrom, isReadable, openPidfd, peerGroups, peerPidfd } from '../linux/peers.js';
import { descriptorOf, peerCredentials } from '../linux/sockets.js';
import type { Peer } from './listener.js';

/** The peer as the kernel knows it; null where Node alone cannot tell (no system calls beyond Node's). */
export function peerOf(socket: Socket): Peer | null {
  if (!linuxAvailable().available) return null;
  const fd = descriptorOf(socket);
  if (fd === null) return null;
  const { pid, uid, gid } = peerCredentials(fd);
  return { pid, uid, groups: [gid, ...peerGroups(fd)] };
}

/** A descriptor of a client, held open by us until `close()`. */
export interface ClientDescriptor {
  /** A path that opens the same file again. */
  path: string;
  close(): void;
}

/**
 * Takes a duplicate of a descriptor that the peer has open: it proves that the peer may read what we then read with our
 * own rights. Files and directories only, opened for reading. Throws NOT_PERMITTED, INVALID_ARGUMENT.
 */
export function takeDescriptor(socket: Socket, peer: Peer | null, theirFd: number): ClientDescriptor {
  const socketFd = peer === null ? null : descriptorOf(socket);
  if (peer === null || socketFd === null) throw notPermitted('this system does not tell who connected', theirFd);
  const pidfd = pidfdOf(socketFd, peer);
  let fd: number;
  try {
    fd = duplicateFrom(pidfd, theirFd);
  } catch (error) {
    if (isErrno(error, 'EBADF')) throw unsuitable('the client has no such descriptor open', theirFd);
    throw notPermitted(error instanceof Error ? error.message : String(error), theirFd);
  } finally {
    close(pidfd);
  }
  try {
    if (!isReadable(fd)) throw unsuitable('it was not opened for reading', theirFd);
    const stat = fstatSync(fd);
    if (!stat.isFile() && !stat.isDirectory()) throw unsuitable('it is neither a file nor a directory', theirFd);
  } catch (error) {
    close(fd);
    throw error;
  }
  return { path: `/proc/${process.pid}/fd/${fd}`, close: () => close(fd) };
}

/**
 * Before Linux 6.5 the process can only be found by its number, which another process may have got since: one of the
 * same user at least, so that nobody reads what is not his.
 */
function pidfdOf(socketFd: number, peer: Peer): number {
  try {
    const exact = peerPidfd(socketFd);
    if (exact !== null) return exact;
    const pidfd = openPidfd(peer.pid);
    if (statSync(`/proc/${peer.pid}`).uid === peer.uid) return pidfd;
    close(pidfd);
  } catch (error) {
    throw notPermitted(error instanceof Error ? error.message : String(error), null);
  }
  throw notPermitted('the process that connected is gone', null);
}

function notPermitted(reason: string, fd: number | null): LayerdError {
  return new LayerdError('NOT_PERMITTED', `the descriptor of the client cannot be taken over: ${reason}`, {
    details: { fd },
    hint: 'Send the archive as the body.',
  });
}

function unsuitable(reason: string, fd: number): LayerdError {
  return new LayerdError('INVALID_ARGUMENT', `descriptor ${fd} cannot be read: ${reason}`, {
    details: { fd },
    hint: 'Name a file or directory that is open for reading, or send the archive as the body.',
  });
}
