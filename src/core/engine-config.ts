/**
 * What the engine is told when it opens. The configuration of the daemon (src/config) yields it; tests write it by hand
 * on top of {@link DEFAULT_ENGINE_CONFIG}. Sizes are bytes, times milliseconds.
 */
import { availableParallelism, homedir } from 'node:os';
import { join } from 'node:path';
import type { DriverName } from './words.js';

/** Driver settings of the configuration; each driver's README reasons its defaults. */
export interface DriverOptions {
  overlay: { xino: 'on' | 'off' | 'auto'; redirectDir: boolean };
  copy: { useFfi: boolean };
  erofs: { directio: 'on' | 'off' | 'auto' };
}

/** How many threads each lane of the worker pool may have (workers/pool.ts says what a lane is for). */
export interface WorkerThreads {
  short: number;
  unmount: number;
  bulk: number;
  sweep: number;
}

/** Proxies that registries are asked through. */
export interface ProxyConfig {
  /** Addresses, with name and password where the proxy wants them: for requests without TLS, and with it. */
  http: string | null;
  https: string | null;
  /** Who is asked without: as NO_PROXY has it. */
  except: string[];
}

/** How registries are reached. */
export interface RegistryConfig {
  /** Asked before the registry itself when something is pulled, in this order. */
  mirrors: { registry: string; url: string }[];
  /** Registries (host, or host:port) spoken to without TLS, or with certificates that nobody vouches for. */
  insecure: string[];
  proxies: ProxyConfig;
  /** A Docker configuration file with credentials and credential helpers; null for none. */
  credentialsFile: string | null;
  /** A directory with HOST[:PORT]/*.crt, *.cert and *.key, as Docker has it; null for none. */
  certificates: string | null;
  /** Layers that are fetched or sent at once. */
  transfers: number;
  /** What fails for a passing reason is tried again so often, unless bytes have come meanwhile. */
  retries: number;
  /** The pause before the first retry; each next one is twice as long, up to half a minute. */
  retryDelayMs: number;
  /** A registry that lets us wait this long is taken for broken. */
  stallMs: number;
  /** What an interrupted pull fetched is kept so long. */
  partialTtlMs: number;
  /** Most bytes of a blob that one request uploads. */
  chunkBytes: number;
}

export interface EngineConfig {
  /** Where everything is kept; made with mode 0700 if it is not there. */
  root: string;
  /** Mount points and sockets: a directory that a reboot empties. */
  run: string;
  /** The driver for new layers and containers; `auto` takes the best that its probe proves here. */
  driver: DriverName | 'auto';
  driverOptions: DriverOptions;
  /** Keep each verified compressed blob, so that an OCI save returns the manifest byte for byte. */
  keepBlobs: boolean;
  gc: {
    /** Between two collections by the timer; 0 switches the timer off. */
    intervalMs: number;
    /** What nothing refers to any more stays this long. */
    graceMs: number;
  };
  /** What the build cache may keep: for how long nobody asked for it, and how many bytes that no image has. */
  buildCache: { maxAgeMs: number; maxBytes: number };
  events: {
    /** Older events are dropped above this number. */
    maxRows: number;
  };
  limits: {
    /** Entries of one layer. */
    layerEntries: number;
    /** Uncompressed bytes of one layer. */
    layerBytes: number;
  };
  workers: WorkerThreads;
  registry: RegistryConfig;
}

/** What can change while the engine runs (SIGHUP); it is handed to `engine.reconfigure()`. */
export type ReloadableEngineConfig = Pick<EngineConfig, 'gc' | 'buildCache' | 'events'>;

const MINUTE = 60_000;
const MIB = 1024 ** 2;
const GIB = 1024 ** 3;

/** The embedded defaults. */
export const DEFAULT_ENGINE_CONFIG: EngineConfig = {
  root: '/var/lib/layerd',
  run: '/run/layerd',
  driver: 'auto',
  driverOptions: {
    overlay: { xino: 'auto', redirectDir: true },
    copy: { useFfi: true },
    erofs: { directio: 'auto' },
  },
  keepBlobs: false,
  gc: { intervalMs: 10 * MINUTE, graceMs: MINUTE },
  buildCache: { maxAgeMs: 7 * 24 * 60 * MINUTE, maxBytes: 10 * GIB },
  events: { maxRows: 10_000 },
  limits: { layerEntries: 1_000_000, layerBytes: 256 * GIB },
  workers: { short: 2, unmount: 1, bulk: Math.max(2, availableParallelism()), sweep: 1 },
  registry: {
    mirrors: [],
    insecure: [],
    proxies: { http: null, https: null, except: [] },
    credentialsFile: join(homedir(), '.docker', 'config.json'),
    certificates: '/etc/docker/certs.d',
    transfers: 3,
    retries: 6,
    retryDelayMs: 1_000,
    stallMs: 30_000,
    partialTtlMs: 24 * 60 * MINUTE,
    chunkBytes: 64 * MIB,
  },
};
