/**
 * The containerd door: gRPC over its Unix socket. What speaks gRPC is loaded when somebody connects: most stores have no
 * containerd, and a start need not wait for it.
 */
import type { Socket } from 'node:net';
import type { Logger } from 'pino';
import { lazily } from '../../core/lazily.js';
import type { ConversionsApi, FindOriginal } from '../../core/snapshots.js';
import { DoorListener, type ListenerOptions } from '../listener.js';
import type { DoorMetrics } from '../metrics.js';
import { Calls } from './calls.js';
import { SPACE_PREFIX } from './labels.js';
import type { GrpcService, ServedParts } from './service.js';

export interface ContainerdDoorOptions extends ServedParts, Pick<ListenerOptions, 'at' | 'gid' | 'peerOf'> {
  conversions: ConversionsApi;
  log: Logger;
  metrics: DoorMetrics;
}

/** containerd notes at a blob what it was unpacked to just after the commit. */
const NOTED_WITHIN_MS = 500;
/** When it stops: for clients to take the end of their answers and to close. */
const CLOSE_GRACE_MS = 1_000;

export class ContainerdDoor {
  private readonly options: ContainerdDoorOptions;
  private readonly calls: Calls;
  private readonly service: () => Promise<GrpcService>;
  private opened: GrpcService | null = null;
  private listener: DoorListener | null = null;

  private constructor(options: ContainerdDoorOptions) {
    this.options = options;
    const { metrics, log } = options;
    this.calls = new Calls({
      log,
      metrics,
      connections: () => ({ connections: this.listener?.connections ?? 0, refused: this.listener?.refused ?? 0 }),
    });
    this.service = lazily(async () => {
      const { openService } = await import('./service.js');
      this.opened = openService(options, this.calls.watch);
      return this.opened;
    });
  }

  /** Serves when the promise is done. Throws SOCKET_IN_USE. */
  static async open(options: ContainerdDoorOptions): Promise<ContainerdDoor> {
    const door = new ContainerdDoor(options);
    const { at, gid, peerOf, log, conversions } = options;
    // what an earlier run of the daemon left to do is done without waiting for a client
    conversions.enable(SPACE_PREFIX, (snapshot) => door.original(snapshot), NOTED_WITHIN_MS);
    // gRPC tells why a call fails, not why a connection does: who is refused tries again later
    const accept: ListenerOptions['accept'] = (socket, _peer, refusal) =>
      void (refusal === null ? door.accept(socket) : socket.destroy());
    door.listener = await DoorListener.open({ at, gid, peerOf, halfOpen: false, log, accept });
    return door;
  }

  async setGroup(gid: number | null): Promise<void> {
    await this.listener?.setGroup(gid);
  }

  /** Accepts no more, lets running calls end within the limit, and closes. */
  async close(drainMs: number): Promise<void> {
    this.listener?.stopAccepting();
    await this.opened?.close(drainMs);
    await this.listener?.endConnections(CLOSE_GRACE_MS);
  }

  /** The blob that a snapshot was unpacked from, where containerd still has it. */
  private async original(snapshot: Parameters<FindOriginal>[0]): ReturnType<FindOriginal> {
    const { containerd } = this.options;
    if (containerd === null) return null;
    const { findOriginal } = await import('./original.js');
    return findOriginal(containerd, snapshot);
  }

  private async accept(socket: Socket): Promise<void> {
    try {
      (await this.service()).inject(socket);
    } catch (error) {
      this.options.log.error({ err: error }, 'a connection of containerd could not be served');
      socket.destroy();
    }
  }
}
