/**
 * The listening socket of a door. It is our own net.Server, whatever protocol is spoken on it: it takes over a
 * descriptor of socket activation, sets mode and group, looks at who connects, and hands the accepted socket on.
 */
import { chmod, chown, lstat, mkdir, unlink } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import type { Logger } from 'pino';
import { isErrno, LayerdError } from '../core/errors.js';
import { linuxAvailable } from '../linux/libc.js';
import { descriptorsLeft } from '../linux/sockets.js';

/** Who is at the other end of a Unix socket, as the kernel says (SO_PEERCRED); `groups` includes `gid`. */
export interface Peer {
  pid: number;
  uid: number;
  groups: readonly number[];
}

export interface ListenerOptions {
  /** Where the socket is made, or an open listening descriptor of socket activation. */
  at: { path: string } | { fd: number };
  /** Group of the socket; null leaves it the daemon's. */
  gid: number | null;
  /** HTTP/1 answers a client that has closed its own direction already. Without this the connection ends with that. */
  halfOpen: boolean;
  log: Logger;
  /** Who connected; null where the platform cannot tell, and then the mode of the socket alone decides. */
  peerOf: (socket: Socket) => Peer | null;
  /**
   * Takes the connection over. Called for peers that may connect only. With a `refusal` the client is told why it is not
   * served, or the connection is destroyed where the protocol has no words for it.
   */
  accept: (socket: Socket, peer: Peer | null, refusal: LayerdError | null) => void;
}

/** Connections of one door at a time; more are dropped and logged. */
const MAX_CONNECTIONS = 4096;
/** Descriptors that connections leave to the store, or a quarter of what the process may open. */
const RESERVED_DESCRIPTORS = 256;
/** Connections at a time that are told why they are refused, and how long one may take to ask; others are dropped. */
const MAX_REFUSALS = 8;
const REFUSAL_MS = 1_000;

export class DoorListener {
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();
  private readonly options: ListenerOptions;
  private gid: number | null;
  /** Connections that are being told that they are refused. */
  private refusing = 0;
  /** Connections that were refused since the start. */
  refused = 0;

  private constructor(options: ListenerOptions) {
    this.options = options;
    this.gid = options.gid;
    this.server = createServer({ allowHalfOpen: options.halfOpen }, (socket) => this.connected(socket));
    this.server.maxConnections = MAX_CONNECTIONS;
    this.server.on('drop', () => this.refuse('too many connections', null));
  }

  /** Listens. Throws SOCKET_IN_USE where another process answers at the path. */
  static async open(options: ListenerOptions): Promise<DoorListener> {
    const listener = new DoorListener(options);
    const { at } = options;
    if ('fd' in at) {
      await listener.listen(at);
      return listener;
    }
    await mkdir(dirname(at.path), { recursive: true, mode: 0o755 });
    await removeStaleSocket(at.path);
    // Bound under this mask nobody else can connect before mode and group are right. Threads that make a directory at
    // this very instant get it without the bits of others, never with more.
    const mask = process.umask(0o007);
    try {
      await listener.listen(at);
    } finally {
      process.umask(mask);
    }
    await chmod(at.path, 0o660);
    await listener.setGroup(options.gid);
    return listener;
  }

  get connections(): number {
    return this.sockets.size;
  }

  /** Changes who may connect. A socket that was handed to us keeps its owner: its unit decides. */
  async setGroup(gid: number | null): Promise<void> {
    this.gid = gid;
    const { at } = this.options;
    if ('path' in at) await chown(at.path, -1, gid ?? process.getgid?.() ?? -1);
  }

  /** Accepts no more; connections that exist go on. */
  stopAccepting(): void {
    this.server.close();
  }

  /** Ends every connection that is left: what is still to be sent goes out, and a client that does not close is cut off. */
  async endConnections(graceMs: number): Promise<void> {
    const closed = [...this.sockets].map((socket) => {
      socket.end();
      return new Promise((resolve) => socket.once('close', resolve));
    });
    const timer = setTimeout(() => {
      for (const socket of this.sockets) socket.destroy();
    }, graceMs);
    await Promise.all(closed);
    clearTimeout(timer);
  }

  private listen(at: { path: string } | { fd: number }): Promise<void> {
    return new Promise((resolve, reject) => {
      this.server.once('error', reject);
      this.server.listen(at, () => {
        this.server.off('error', reject);
        this.server.on('error', (error) => this.options.log.error({ err: error }, 'listening socket failed'));
        resolve();
      });
    });
  }

  private connected(socket: Socket): void {
    const peer = this.options.peerOf(socket);
    if (peer !== null && !mayConnect(peer, this.gid)) {
      this.refuse('not permitted', peer);
      socket.destroy();
      return;
    }
    const refusal = tooFewDescriptors(socket);
    if (refusal !== null) {
      this.refuse('too few descriptors', peer);
      if (this.refusing === MAX_REFUSALS) {
        socket.destroy();
        return;
      }
      this.endSoon(socket);
    }
    this.sockets.add(socket);
    socket.once('close', () => this.sockets.delete(socket));
    this.options.accept(socket, peer, refusal);
  }

  private endSoon(socket: Socket): void {
    this.refusing += 1;
    const timer = setTimeout(() => socket.destroy(), REFUSAL_MS);
    socket.once('close', () => {
      clearTimeout(timer);
      this.refusing -= 1;
    });
  }

  private refuse(reason: string, peer: Peer | null): void {
    this.refused++;
    this.options.log.warn({ reason, peer_pid: peer?.pid, peer_uid: peer?.uid }, 'connection refused');
  }
}

/** Connections that took the last descriptors would leave none to the work that other connections wait for. */
function tooFewDescriptors(socket: Socket): LayerdError | null {
  const descriptors = linuxAvailable().available ? descriptorsLeft(socket) : null;
  if (descriptors === null) return null;
  const { left, limit } = descriptors;
  if (left >= Math.min(RESERVED_DESCRIPTORS, Math.floor(limit / 4))) return null;
  return new LayerdError('TOO_MANY_FILES', `the daemon may open ${left} more files only, and takes no connection`, {
    details: { left, limit },
    hint: 'Raise the limit of open files of the daemon (LimitNOFILE), or close connections.',
  });
}

/** Root, the daemon's own user, and members of the socket's group. */
export function mayConnect(peer: Peer, gid: number | null): boolean {
  return peer.uid === 0 || peer.uid === process.getuid?.() || (gid !== null && peer.groups.includes(gid));
}

/** Removes what an earlier daemon left; a socket at which somebody answers, and what is no socket, stays. */
async function removeStaleSocket(path: string): Promise<void> {
  let isSocket: boolean;
  try {
    isSocket = (await lstat(path)).isSocket();
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return;
    throw error;
  }
  if (!isSocket || (await answers(path))) {
    throw new LayerdError('SOCKET_IN_USE', `${path} is ${isSocket ? 'served by another process' : 'not a socket'}`, {
      details: { path },
      hint: 'Stop the other process, or choose another run directory (--run) or socket.',
    });
  }
  await unlink(path);
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error) => {
      if (isErrno(error, 'ECONNREFUSED', 'ENOENT')) resolve(false);
      else reject(error);
    });
  });
}
