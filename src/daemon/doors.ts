/** The doors beside the native API: each has a socket of its own and can be switched off. */
import type { Settings } from '../config/settings.js';
import type { DoorMetrics } from '../doors/metrics.js';
import { peerOf } from '../doors/peer.js';
import type { Engine } from '../engine.js';
import type { ListenDescriptor } from '../linux/sockets.js';
import type { DaemonLog } from './log.js';

export interface Door {
  /** Changes which group may connect. */
  setGroup(gid: number | null): Promise<void>;
  /** Accepts no more, finishes what runs within the limit, aborts the rest. */
  close(limitMs: number): Promise<void>;
}

export interface DoorParts {
  engine: Engine;
  log: DaemonLog['log'];
  settings: Settings;
  gid: number | null;
  handedOver: readonly ListenDescriptor[];
  metrics: DoorMetrics;
}

type DoorName = 'containerd' | 'docker';

export class Doors {
  private readonly doors = new Map<DoorName, Door>();

  /** Opens those that are not switched off. What had been opened before a failure is closed again. */
  static async open(parts: DoorParts): Promise<Doors> {
    const opened = new Doors();
    try {
      for (const [name, open] of Object.entries(OPENERS) as [DoorName, Opener][]) {
        const at = addressOf(name, parts);
        if (at !== null) opened.doors.set(name, await open(parts, at));
      }
      return opened;
    } catch (error) {
      await opened.close(0);
      throw error;
    }
  }

  async setGroup(gid: number | null): Promise<void> {
    for (const door of this.doors.values()) await door.setGroup(gid);
  }

  async close(limitMs: number): Promise<void> {
    await Promise.all([...this.doors.values()].map((door) => door.close(limitMs)));
  }

  /** For the log: where each listens. */
  sockets(settings: Settings): Record<string, string> {
    const names = Object.keys(OPENERS) as DoorName[];
    return Object.fromEntries(
      names.map((name) => [`${name}_socket`, this.doors.has(name) ? settings[`${name}_socket`] : 'off']),
    );
  }
}

type Address = { path: string } | { fd: number };
type Opener = (parts: DoorParts, at: Address) => Promise<Door>;

const OPENERS: Record<DoorName, Opener> = {
  containerd: async ({ engine, log, settings, gid, metrics }, at) => {
    const { ContainerdDoor } = await import('../doors/containerd/server.js');
    const socket = settings.containerd_address;
    const containerd = socket === 'off' ? null : { socket, stallMs: settings['http.stall_timeout'] };
    const { snapshots, conversions } = engine;
    return ContainerdDoor.open({ at, gid, peerOf, log, metrics, snapshots, conversions, containerd });
  },
  docker: async ({ engine, log, settings, gid, metrics }, at) => {
    const { DockerDoor } = await import('../doors/docker/server.js');
    return DockerDoor.open({ at, gid, peerOf, log, metrics, engine, stallMs: settings['http.stall_timeout'] });
  },
};

/** A socket that was handed over by its name, or one of our own; null where the door is switched off. */
function addressOf(door: DoorName, { settings, handedOver }: DoorParts): Address | null {
  const given = handedOver.find(({ name }) => name === door);
  if (given !== undefined) return { fd: given.fd };
  const path = settings[`${door}_socket`];
  return path === 'off' ? null : { path };
}
