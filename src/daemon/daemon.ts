/** The daemon: opens the engine, then its doors; tells the service manager; reloads; drains and closes. */
import type { Server } from 'node:http';
import { engineConfigOf } from '../config/engine.js';
import type { Configuration } from '../config/load.js';
import { SETTING_LIST, type SettingKey, type Settings } from '../config/settings.js';
import { elapsedMs } from '../core/units.js';
import { VERSION } from '../core/version.js';
import type { HttpDoor, HttpDoorOptions } from '../doors/http/server.js';
import { DoorMetrics } from '../doors/metrics.js';
import { peerOf } from '../doors/peer.js';
import { Engine } from '../engine.js';
import { linuxAvailable } from '../linux/libc.js';
import { takeListenDescriptors, type ListenDescriptor } from '../linux/sockets.js';
import { Doors } from './doors.js';
import { groupNumber } from './group.js';
import type { DaemonLog } from './log.js';
import { listenForMetrics } from './metrics-listener.js';
import { ServiceManager } from './notify.js';

export class Daemon {
  private settings: Settings;
  private readonly log: DaemonLog['log'];
  private readonly manager: ServiceManager;
  private readonly engine: Engine;
  private readonly http: HttpDoor | null;
  private readonly doors: Doors;
  private readonly metrics: Server | null;
  private readonly startedMs: number;
  private stopped: Promise<void> | null = null;

  private constructor(parts: {
    settings: Settings;
    log: DaemonLog['log'];
    manager: ServiceManager;
    engine: Engine;
    http: HttpDoor | null;
    doors: Doors;
    metrics: Server | null;
    startedMs: number;
  }) {
    this.settings = parts.settings;
    this.log = parts.log;
    this.manager = parts.manager;
    this.engine = parts.engine;
    this.http = parts.http;
    this.doors = parts.doors;
    this.metrics = parts.metrics;
    this.startedMs = parts.startedMs;
  }

  /** Serves when the promise is done. What had been opened before a failure is closed again. */
  static async start(configuration: Configuration, log: DaemonLog['log']): Promise<Daemon> {
    const began = performance.now();
    const { settings } = configuration;
    const manager = new ServiceManager(log);
    const handedOver = linuxAvailable().available ? takeListenDescriptors() : [];
    const gid = await groupNumber(settings.socket_group);
    manager.status('Opening the store');
    // the framework is loaded while the engine waits for its threads and the disk
    const httpModule = import('../doors/http/server.js');
    const engine = await Engine.open(engineConfigOf(settings), log);
    const doorMetrics = new DoorMetrics();
    let http: HttpDoor | null = null;
    let doors: Doors | null = null;
    try {
      const at = httpAddress(settings, handedOver);
      if (at !== null)
        http = await openHttp((await httpModule).HttpDoor, { at, gid, engine, log, settings, metrics: doorMetrics });
      doors = await Doors.open({ engine, log, settings, gid, handedOver, metrics: doorMetrics });
      const metrics = await listenForMetrics(settings.metrics_address, [engine, { metrics: () => doorMetrics.text() }]);
      return new Daemon({ settings, log, manager, engine, http, doors, metrics, startedMs: elapsedMs(began) });
    } catch (error) {
      await http?.close(0);
      await doors?.close(0);
      await engine.close();
      throw error;
    }
  }

  /** Takes over what can change while it runs, and says what needs a restart. */
  async reload(configuration: Configuration): Promise<void> {
    this.manager.reloading();
    const { settings } = configuration;
    const changed = SETTING_LIST.filter(([key]) => settings[key] !== this.settings[key]);
    const restart = changed.filter(([, { reloads }]) => !reloads).map(([key]) => key);
    const taken: Partial<Record<SettingKey, unknown>> = {};
    for (const [key, { reloads }] of changed) if (reloads) taken[key] = settings[key];
    const gid = await groupNumber(settings.socket_group);
    await this.http?.setGroup(gid);
    await this.doors.setGroup(gid);
    this.log.level = settings.log_level;
    const { gc, buildCache, events } = engineConfigOf(settings);
    this.engine.reconfigure({ gc, buildCache, events });
    this.settings = { ...this.settings, ...taken } as Settings;
    this.log.info({ changed: taken, needs_restart: restart }, 'settings reloaded');
    this.manager.ready(this.statusText());
  }

  /** Accepts no more, finishes what runs within the limit, closes. Asked again, it waits no longer. */
  stop(): Promise<void> {
    if (this.stopped !== null) {
      void this.http?.close(0);
      void this.doors.close(0);
      return this.stopped;
    }
    this.stopped = this.shutDown();
    return this.stopped;
  }

  private async shutDown(): Promise<void> {
    const began = performance.now();
    this.manager.stopping();
    this.metrics?.close();
    const limitMs = this.settings.drain_timeout;
    await Promise.all([this.http?.close(limitMs), this.doors.close(limitMs)]);
    await this.engine.close();
    this.log.info({ duration_ms: elapsedMs(began) }, 'stopped');
  }

  /** Says that it serves: from now on it may be told to stop. */
  announce(): void {
    const socket = this.http === null ? 'off' : this.settings.http_socket;
    this.log.info(
      {
        version: VERSION,
        pid: process.pid,
        ...this.engine.placement(),
        socket,
        ...this.doors.sockets(this.settings),
        duration_ms: this.startedMs,
      },
      'serving',
    );
    this.manager.ready(this.statusText());
    this.manager.startWatchdog(() => this.engine.health());
  }

  private statusText(): string {
    return `Serving ${this.settings.root}`;
  }
}

/** Where the native API listens: a socket that was handed over, or one of our own; null where it is switched off. */
function httpAddress(settings: Settings, handedOver: ListenDescriptor[]): HttpDoorOptions['at'] | null {
  // a socket unit with one socket need not name it
  const given = handedOver.find(({ name }) => name === 'http') ?? (handedOver.length === 1 ? handedOver[0] : undefined);
  if (given !== undefined) return { fd: given.fd };
  return settings.http_socket === 'off' ? null : { path: settings.http_socket };
}

function openHttp(
  Door: typeof HttpDoor,
  parts: Pick<HttpDoorOptions, 'at' | 'gid' | 'engine' | 'log' | 'metrics'> & { settings: Settings },
): Promise<HttpDoor> {
  const { settings, ...rest } = parts;
  return Door.open({ ...rest, version: VERSION, stallMs: settings['http.stall_timeout'], peerOf });
}
