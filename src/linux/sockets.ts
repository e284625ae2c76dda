/** What Node's sockets lack: who is at the other end, datagrams to the service manager, sockets that it hands over. */
import type { Socket } from 'node:net';
import { bytesOf, toBuffer } from '../core/bytes.js';
import { close, O_CLOEXEC } from './files.js';
import { libc } from './libc.js';
import { failed, refused, scratch } from './system-error.js';

/** The process at the other end of a Unix socket, as it was when it connected. */
export interface PeerCredentials {
  /** 0 where the process is in a PID namespace that we do not see. */
  pid: number;
  uid: number;
  gid: number;
}

const SOL_SOCKET = 1;
const SO_PEERCRED = 17;

/** struct ucred of unix(7), and its length as getsockopt(2) wants it. */
const ucred = scratch(12);
const ucredLength = scratch(4);

/** SO_PEERCRED of unix(7). */
export function peerCredentials(fd: number): PeerCredentials {
  ucredLength.writeUInt32LE(ucred.length);
  if (libc().getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ucred, ucredLength) < 0) throw failed('getsockopt');
  return { pid: ucred.readInt32LE(0), uid: ucred.readUInt32LE(4), gid: ucred.readUInt32LE(8) };
}

/**
 * The descriptor of a connected socket, or null once it is closed. Node keeps it in the libuv handle `_handle`, which
 * is undocumented but has been so since Node 0.x; no public API tells it.
 */
export function descriptorOf(socket: Socket): number | null {
  const { _handle: handle } = socket as Socket & { _handle?: { fd?: number } | null };
  const fd = handle?.fd;
  return fd === undefined || fd < 0 ? null : fd;
}

const RLIMIT_NOFILE = 7;
/** struct rlimit: the limit that holds, and the one up to which it may be raised. */
const rlimit = scratch(16);

/**
 * How many descriptors this process may still open, if the socket was opened last: new ones get the lowest number that is
 * free. Null once the socket is closed.
 */
export function descriptorsLeft(socket: Socket): { left: number; limit: number } | null {
  const fd = descriptorOf(socket);
  if (fd === null) return null;
  if (libc().getrlimit(RLIMIT_NOFILE, rlimit) < 0) throw failed('getrlimit');
  const limit = Number(rlimit.readBigUInt64LE(0));
  return { left: limit - fd - 1, limit };
}

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const MSG_NOSIGNAL = 0x4000;
/** sun_path of struct sockaddr_un. */
const SUN_PATH_MAX = 108;

/**
 * sd_notify(3): sends `READY=1`, `STOPPING=1`, `STATUS=…` to the service manager. False where none is listening
 * (NOTIFY_SOCKET is not set).
 */
export function notifyManager(state: string, env: NodeJS.ProcessEnv = process.env): boolean {
  const name = env['NOTIFY_SOCKET'];
  if (name === undefined || name === '') return false;
  const address = unixAddress(name);
  const message = toBuffer(bytesOf(state));
  const c = libc();
  const fd = c.socket(AF_UNIX, SOCK_DGRAM | O_CLOEXEC, 0);
  if (fd < 0) throw failed('socket');
  try {
    const sent = c.sendto(fd, message, message.length, MSG_NOSIGNAL, address, address.length);
    if (sent < 0) throw failed('sendto', bytesOf(name));
    return true;
  } finally {
    close(fd);
  }
}

/** struct sockaddr_un; a leading `@` means the abstract namespace, whose names begin with a NUL. */
function unixAddress(name: string): Buffer {
  const path = toBuffer(bytesOf(name));
  if (!/^[/@]/.test(name) || path.length >= SUN_PATH_MAX) throw refused('EINVAL', 'NOTIFY_SOCKET', path);
  const abstract = name.startsWith('@');
  if (abstract) path[0] = 0;
  const family = Buffer.alloc(2);
  family.writeUInt16LE(AF_UNIX);
  return Buffer.concat(abstract ? [family, path] : [family, path, Buffer.alloc(1)]);
}

/** A listening socket that the service manager opened for us. */
export interface ListenDescriptor {
  fd: number;
  /** FileDescriptorName= of the socket unit; '' without one. */
  name: string;
}

const FIRST_LISTEN_FD = 3;
const F_SETFD = 2;
const FD_CLOEXEC = 1;

/**
 * sd_listen_fds(3): the sockets that were handed to this process (`LISTEN_PID`), made close-on-exec. Removes the
 * variables from `env`, so that no child takes them for its own. Empty where there are none.
 */
export function takeListenDescriptors(env: NodeJS.ProcessEnv = process.env, pid = process.pid): ListenDescriptor[] {
  const { LISTEN_PID: forPid, LISTEN_FDS: count, LISTEN_FDNAMES: names = '' } = env;
  if (Number(forPid) !== pid || count === undefined || !/^\d+$/.test(count)) return [];
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete env[name];
  const given = names.split(':');
  return Array.from({ length: Number(count) }, (_, index) => {
    const fd = FIRST_LISTEN_FD + index;
    if (libc().fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) throw failed('fcntl');
    return { fd, name: given[index] ?? '' };
  });
}
