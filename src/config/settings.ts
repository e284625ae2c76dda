/**
 * Every setting of the daemon, once: the parser, `layerd config`, `layerd --help` and the documentation come from this
 * table. The environment variable and the flag of a setting follow from its key: `gc.interval` is LAYERD_GC_INTERVAL
 * and --gc-interval.
 */
import { join } from 'node:path';
import { DEFAULT_ENGINE_CONFIG as ENGINE } from '../core/engine-config.js';
import {
  choice,
  count,
  duration,
  flag,
  flagOrAuto,
  loopbackOrOff,
  path,
  pathOrOff,
  proxyOrOff,
  size,
  text,
  wordList,
  type Kind,
} from './kinds.js';

export interface Setting<T> {
  readonly kind: Kind<T>;
  /** The embedded default; a function where it follows from the run directory. */
  readonly fallback: T | ((run: string) => T);
  /** One or two sentences for people. */
  readonly doc: string;
  /** SIGHUP takes a changed value over without a restart. */
  readonly reloads: boolean;
  /** Variables of the environment that say it to many programs; the file and what is said to layerd alone go before them. */
  readonly common?: readonly string[];
}

function setting<T>(kind: Kind<T>, fallback: T | ((run: string) => T), doc: string): Setting<T> {
  return { kind, fallback, doc, reloads: false };
}

function reloading<T>(kind: Kind<T>, fallback: T, doc: string): Setting<T> {
  return { kind, fallback, doc, reloads: true };
}

function common<T>(variables: readonly string[], given: Setting<T>): Setting<T> {
  return { ...given, common: variables };
}

const THREADS = count(1, 64);
const HOST = /^[^\s/=@,]+$/;
const MIRROR = /^[^\s/=@,]+=https?:\/\/[^\s,]+$/;
const { overlay, erofs, copy } = ENGINE.driverOptions;

/** Settings without a table come first, and those of one table together: `layerd config` prints them in this order. */
export const SETTINGS = {
  root: setting(path, ENGINE.root, 'Where layers, containers and the database are kept. One daemon per root.'),
  run: setting(path, ENGINE.run, 'Mount points and sockets: a directory that a reboot empties.'),
  driver: setting(
    choice('auto', 'erofs', 'overlay2', 'btrfs', 'copy'),
    ENGINE.driver,
    'The driver for new layers and containers; auto takes the best that a probe proves on this machine.',
  ),
  keep_blobs: setting(
    flag,
    ENGINE.keepBlobs,
    'Keep each verified compressed blob, so that saving to OCI returns the original manifest byte for byte.',
  ),
  http_socket: setting(
    pathOrOff,
    (run: string) => join(run, 'layerd.sock'),
    'The Unix socket of the native API, or off. By default layerd.sock in the run directory.',
  ),
  containerd_socket: setting(
    pathOrOff,
    (run: string) => join(run, 'containerd.sock'),
    'The Unix socket for containerd (a proxy snapshotter), or off. By default containerd.sock in the run directory.',
  ),
  containerd_address: setting(
    pathOrOff,
    '/run/containerd/containerd.sock',
    'The socket of containerd itself: layerd reads and writes blobs of its content store there. off: it does not.',
  ),
  docker_socket: setting(
    pathOrOff,
    (run: string) => join(run, 'docker.sock'),
    'The Unix socket for dockerd (a graph driver plugin), or off. By default docker.sock in the run directory.',
  ),
  socket_group: reloading(
    text,
    '',
    'The group (name or number) whose members may connect, besides root and the user of the daemon. Empty: nobody else.',
  ),
  metrics_address: setting(
    loopbackOrOff,
    'off',
    'A loopback address with port that serves GET /metrics over TCP as well, without a password.',
  ),
  log_level: reloading(
    choice('trace', 'debug', 'info', 'warn', 'error', 'fatal'),
    'info',
    'The least level that is written to the log (NDJSON on standard error).',
  ),
  drain_timeout: setting(
    duration,
    20_000,
    'How long running requests may take to finish when the daemon stops; what is left then is aborted.',
  ),
  'http.stall_timeout': setting(
    duration,
    60_000,
    'A body, up or down, that stands still this long because of its client is given up, and so is a blob that containerd has. There is no limit in total.',
  ),
  'gc.interval': reloading(
    duration,
    ENGINE.gc.intervalMs,
    'Between two garbage collections by the timer. 0: no timer; only `layerctl gc` collects.',
  ),
  'gc.grace': reloading(duration, ENGINE.gc.graceMs, 'What nothing refers to any more stays this long.'),
  'build_cache.max_age': reloading(
    duration,
    ENGINE.buildCache.maxAgeMs,
    'A step of a build that nobody asked for so long is forgotten, and its layer with it if nothing else has it.',
  ),
  'build_cache.max_size': reloading(
    size,
    ENGINE.buildCache.maxBytes,
    'What the build cache may keep that no image has; what was asked for last stays.',
  ),
  'events.max': reloading(count(100, 10_000_000), ENGINE.events.maxRows, 'How many events are kept for replay.'),
  'limits.layer_entries': setting(
    count(1, 100_000_000),
    ENGINE.limits.layerEntries,
    'A layer with more entries is refused.',
  ),
  'limits.layer_size': setting(size, ENGINE.limits.layerBytes, 'A layer with more uncompressed bytes is refused.'),
  'overlay.xino': setting(choice('on', 'off', 'auto'), overlay.xino, "overlay's unique inode numbers across layers."),
  'overlay.redirect_dir': setting(
    flag,
    overlay.redirectDir,
    'Directories of lower layers can be renamed in a container without copying what is below them.',
  ),
  'erofs.directio': setting(
    flagOrAuto,
    erofs.directio,
    'Read the tars below an EROFS mount around the page cache (Linux 6.15 or newer); auto does so where a layer of large files is mounted whose tar is not in the cache.',
  ),
  'copy.use_ffi': setting(
    flag,
    copy.useFfi,
    'The copy driver uses system calls that Node lacks, for every attribute; off: Node alone.',
  ),
  'registry.mirrors': setting(
    wordList('REGISTRY=URL, such as "docker.io=https://mirror.example"', (word) => MIRROR.test(word)),
    '',
    'Where to look first for what is pulled from a registry. Several for one registry are asked in this order.',
  ),
  'registry.insecure': setting(
    wordList('registries, such as "registry.example:5000"', (word) => HOST.test(word)),
    '',
    'Registries that may be spoken to without TLS, or with certificates that nobody vouches for. This machine always may without TLS.',
  ),
  'registry.https_proxy': common(
    ['HTTPS_PROXY', 'https_proxy'],
    setting(
      proxyOrOff,
      'off',
      'The HTTP proxy through which registries are asked by TLS, with NAME:PASSWORD@ before its host where it wants them, or off.',
    ),
  ),
  'registry.http_proxy': common(
    ['HTTP_PROXY', 'http_proxy'],
    setting(proxyOrOff, 'off', 'The same for registries without TLS.'),
  ),
  'registry.no_proxy': common(
    ['NO_PROXY', 'no_proxy'],
    setting(
      wordList('hosts, domains, addresses or ranges of them (CIDR)', (word) => /^[^\s,]+$/.test(word)),
      '',
      'Registries that are asked without the proxy: a domain stands for all below it. This machine always is.',
    ),
  ),
  'registry.credentials_file': setting(
    pathOrOff,
    ENGINE.registry.credentialsFile ?? 'off',
    'A Docker configuration file with credentials and credential helpers, or off. It need not exist.',
  ),
  'registry.certificates': setting(
    pathOrOff,
    ENGINE.registry.certificates ?? 'off',
    'A directory with HOST:PORT/*.crt (authorities to trust), *.cert and *.key (to show), as Docker has it, or off.',
  ),
  'registry.transfers': setting(
    count(1, 32),
    ENGINE.registry.transfers,
    'Layers that are fetched from registries or sent to them at once.',
  ),
  'registry.retries': setting(
    count(0, 100),
    ENGINE.registry.retries,
    'How often something is tried again that a registry or the network fails to do, unless bytes have come meanwhile.',
  ),
  'registry.retry_delay': setting(
    duration,
    ENGINE.registry.retryDelayMs,
    'The pause before the first retry; each next one is twice as long, up to 30s, or what the registry asks for.',
  ),
  'registry.stall_timeout': setting(
    duration,
    ENGINE.registry.stallMs,
    'A registry that sends or takes (nearly) nothing this long is taken for broken.',
  ),
  'registry.partial_ttl': setting(
    duration,
    ENGINE.registry.partialTtlMs,
    'What an interrupted pull fetched is kept this long, for a pull that goes on where it ended.',
  ),
  'registry.chunk_size': setting(size, ENGINE.registry.chunkBytes, 'Most bytes of a blob that one request uploads.'),
  'workers.short': setting(THREADS, ENGINE.workers.short, 'Threads for what a client waits for: mkdir, mount.'),
  'workers.unmount': setting(THREADS, ENGINE.workers.unmount, 'Threads for unmounting, which may wait for the disk.'),
  'workers.bulk': setting(THREADS, ENGINE.workers.bulk, 'Threads for layers in and out, commits and checks.'),
  'workers.sweep': setting(THREADS, ENGINE.workers.sweep, 'Threads for unlinking what was removed.'),
} as const satisfies Record<string, Setting<string | number | boolean>>;

export type SettingKey = keyof typeof SETTINGS;

type ValueOf<S> = S extends Setting<infer T> ? T : never;

/** The value of every setting, by its key. */
export type Settings = { readonly [K in SettingKey]: ValueOf<(typeof SETTINGS)[K]> };

export type SettingValue = Settings[SettingKey];

/** The table without the single types, for code that goes through all of it. */
export const SETTING_LIST: readonly (readonly [SettingKey, Setting<SettingValue>])[] = Object.entries(SETTINGS) as [
  SettingKey,
  Setting<SettingValue>,
][];

/** `gc.interval` → `LAYERD_GC_INTERVAL`. */
export function environmentName(key: SettingKey): string {
  return `LAYERD_${key.replaceAll('.', '_').toUpperCase()}`;
}

/** `gc.interval` → `gc-interval`, without the dashes in front. */
export function flagName(key: SettingKey): string {
  return key.replaceAll(/[._]/g, '-');
}
