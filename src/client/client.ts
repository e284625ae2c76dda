import { open, type FileHandle } from 'node:fs/promises';
import type {
  CopyOptions,
  ImportOptions,
  LoadOptions,
  OnProgress,
  PullOptions,
  PushOptions,
  RegistryOptions,
  RemoteOptions,
  SaveOptions,
} from '../core/api.js';
import type { Digest } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import type {
  BuildCacheEntry,
  BuildCacheKey,
  Change,
  CheckOptions,
  CheckReport,
  CommitOptions,
  CommitResult,
  ContainerDetail,
  ContainerSummary,
  CreateContainerOptions,
  Credentials,
  DiskReport,
  DriverName,
  EngineEvent,
  ExtendedImage,
  GcOptions,
  GcReport,
  HistoryRow,
  ImageChanges,
  ImageDetail,
  ImageSummary,
  Info,
  LayerSummary,
  LayerTreeNode,
  Lease,
  LoadResult,
  MigrateReport,
  MountInstruction,
  MountResult,
  Platform,
  PullResult,
  TagList,
  CopyResult,
  PushResult,
  RemovedImage,
  Usage,
  WhyReport,
} from '../core/words.js';
import { layoutAsTar } from './layout.js';
import { route, Transport, type CallOptions } from './transport.js';

export const DEFAULT_SOCKET = '/run/layerd/layerd.sock';

export interface ClientOptions {
  /** The daemon's socket; default: LAYERD_SOCKET, else {@link DEFAULT_SOCKET}. */
  socket?: string;
}

/** For operations that take their time. */
export interface Watch {
  onProgress?: OnProgress;
  signal?: AbortSignal;
}

/** For what must take effect once: sent again with the same key, after whatever break, it is answered as the first time. */
export interface Repeatable {
  /** Chosen at random for each thing that is to be done; by default each call is a thing of its own. */
  key?: string;
}

/**
 * The client of the native API. One object serves any number of calls at a time; its connections are kept and used
 * again. Every method throws {@link LayerdError}: the daemon's own, or DAEMON_UNREACHABLE, NOT_PERMITTED (the socket is
 * not for you), STREAM_BROKEN (the daemon went away in the middle), CANCELLED (your signal).
 *
 * ```ts
 * import { LayerdClient } from 'layerd/client';
 *
 * const layerd = new LayerdClient();
 * const { images } = await layerd.load('busybox.tar');
 * const { id } = await layerd.createContainer(images[0].imageId, { name: 'box' });
 * const { path } = await layerd.mount(id);
 * // … run something in `path` …
 * await layerd.unmount(id);
 * await layerd.commit(id, { ref: 'busybox:changed' });
 * await layerd.removeContainer(id);
 * layerd.close();
 * ```
 */
export class LayerdClient {
  private readonly transport: Transport;

  constructor(options: ClientOptions = {}) {
    this.transport = new Transport(options.socket ?? process.env['LAYERD_SOCKET'] ?? DEFAULT_SOCKET);
  }

  /** Where it connects. */
  get socket(): string {
    return this.transport.socketPath;
  }

  /** Closes the connections that are kept; calls that run are not touched. */
  close(): void {
    this.transport.close();
  }

  info(): Promise<Info> {
    return this.transport.json('GET', '/v1/info');
  }

  /** Whether the daemon works, and what is wrong if not. */
  health(): Promise<{ ok: boolean; problems: string[] }> {
    return this.transport.json('GET', '/v1/health', { accept: 503 });
  }

  /** Prometheus text format. */
  async metrics(): Promise<string> {
    const { stream } = await this.transport.bytes('/metrics');
    const chunks: Buffer[] = [];
    for await (const chunk of stream) chunks.push(chunk);
    return Buffer.concat(chunks).toString('utf8');
  }

  /**
   * Loads images. A path (docker-archive, OCI archive, or a directory with an OCI layout) is opened here and read by the
   * daemon through our descriptor: nothing is sent, and layers that it has are not even read. Where that is not
   * possible, and for a stream, the bytes are sent.
   */
  load(source: string | AsyncIterable<Uint8Array>, options: LoadOptions & Watch = {}): Promise<LoadResult> {
    return this.sendArchive('/v1/images/load', source, { query: loadQuery(options) }, options);
  }

  /**
   * Brings an image from a registry, as far as its layers are not there. One that breaks off goes on where it ended when
   * it is called again.
   */
  pull(ref: string, options: PullOptions & Watch = {}): Promise<PullResult> {
    const { onProgress, signal, credentials, platform, ...rest } = options;
    const json = { ref, ...rest, platform: platformText(platform) };
    return this.transport.operation('/v1/images/pull', { json, signal, headers: authHeaders(credentials) }, onProgress);
  }

  /** Sends an image to a registry, as far as its blobs are not there. */
  push(name: string, options: PushOptions & Watch = {}): Promise<PushResult> {
    const { onProgress, signal, credentials, ...json } = options;
    const headers = authHeaders(credentials);
    return this.transport.operation(route('v1', 'images', name, 'push'), { json, signal, headers }, onProgress);
  }

  /** The tags of a repository at a registry; with `digest` those that lead to it. */
  tags(name: string, options: RegistryOptions & { digest?: string; signal?: AbortSignal } = {}): Promise<TagList> {
    const { credentials, signal, digest } = options;
    const headers = authHeaders(credentials);
    return this.transport.json('GET', '/v1/registry/tags', { query: { name, digest }, headers, signal });
  }

  /** From registry to registry, byte for byte. */
  copy(source: string, target: string, options: CopyOptions & Watch = {}): Promise<CopyResult> {
    const { onProgress, signal, credentials, targetCredentials, platform, ...rest } = options;
    const json = { source, target, ...rest, platform: platformText(platform) };
    const headers = authHeaders(credentials, targetCredentials);
    return this.transport.operation('/v1/registry/copy', { json, signal, headers }, onProgress);
  }

  /** What a registry has, as an OCI archive. */
  async remoteArchive(
    ref: string,
    options: RemoteOptions & { signal?: AbortSignal } = {},
  ): Promise<AsyncGenerator<Buffer>> {
    const { credentials, platform, signal, ...rest } = options;
    const query = { ref, ...rest, platform: platformText(platform) };
    const headers = authHeaders(credentials);
    return (await this.transport.bytes('/v1/registry/archive', { query, headers, signal })).stream;
  }

  /** Sends the image of an archive (as for load) to a registry. */
  importArchive(source: string | AsyncIterable<Uint8Array>, options: ImportOptions & Watch): Promise<PushResult> {
    const { credentials, target, compression, platform, ...watch } = options;
    const query = { target, compression, platform: platformText(platform) };
    return this.sendArchive('/v1/registry/import', source, { query, headers: authHeaders(credentials) }, watch);
  }

  /** Images as one archive. `notice` says, where there is something to say, what differs from the original. */
  async save(
    options: SaveOptions & { signal?: AbortSignal },
  ): Promise<{ stream: AsyncGenerator<Buffer>; notice: string }> {
    const { stream, headers } = await this.transport.bytes('/v1/images/save', {
      query: { ref: options.refs, format: options.format },
      signal: options.signal,
    });
    const notice = headers['x-layerd-notice'];
    return { stream, notice: typeof notice === 'string' ? decodeURI(notice) : '' };
  }

  images(): Promise<ImageSummary[]> {
    return this.transport.json('GET', '/v1/images');
  }

  image(name: string): Promise<ImageDetail> {
    return this.transport.json('GET', route('v1', 'images', name));
  }

  /** Newest instruction first. */
  history(name: string): Promise<HistoryRow[]> {
    return this.transport.json('GET', route('v1', 'images', name, 'history'));
  }

  /**
   * An image of another and a layer that is here (null: of its config alone): what a builder goes on with when the build cache
   * has its step. Name it, hold it by a lease, or make a container of it before it is collected.
   */
  extendImage(name: string, change: ImageChanges & { layer: Digest | null }): Promise<ExtendedImage> {
    return this.transport.json('POST', route('v1', 'images', name, 'extend'), { json: change });
  }

  tag(source: string, target: string): Promise<ImageSummary> {
    return this.transport.json('POST', route('v1', 'images', source, 'tag'), { json: { target } });
  }

  /** Removes a ref, and the image with its last one. IMAGE_IN_USE names the containers that need it. */
  removeImage(name: string, { key, ...query }: { force?: boolean } & Repeatable = {}): Promise<RemovedImage> {
    return this.transport.json('DELETE', route('v1', 'images', name), { query, key });
  }

  layers(): Promise<LayerSummary[]> {
    return this.transport.json('GET', '/v1/layers');
  }

  layer(digestOrPrefix: string): Promise<LayerSummary> {
    return this.transport.json('GET', route('v1', 'layers', digestOrPrefix));
  }

  layerTree(): Promise<LayerTreeNode[]> {
    return this.transport.json('GET', '/v1/layer-tree');
  }

  /** The uncompressed tar of a layer, bit for bit. */
  async layerTar(
    digestOrPrefix: string,
    signal?: AbortSignal,
  ): Promise<{ stream: AsyncGenerator<Buffer>; size: number; diffId: Digest }> {
    const { stream, headers } = await this.transport.bytes(route('v1', 'layers', digestOrPrefix, 'tar'), { signal });
    const diffId = String(headers['x-layerd-diff-id']) as Digest;
    return { stream, size: Number(headers['content-length']), diffId };
  }

  createContainer(
    image: string,
    { key, ...options }: CreateContainerOptions & Repeatable = {},
  ): Promise<ContainerSummary> {
    return this.transport.json('POST', '/v1/containers', { json: { image, ...options }, key });
  }

  containers(): Promise<ContainerSummary[]> {
    return this.transport.json('GET', '/v1/containers');
  }

  container(name: string): Promise<ContainerDetail> {
    return this.transport.json('GET', route('v1', 'containers', name));
  }

  /** Mounts the merged root. n mounts need n unmounts. */
  mount(name: string, { key }: Repeatable = {}): Promise<MountResult> {
    return this.transport.json('POST', route('v1', 'containers', name, 'mount'), { key });
  }

  /** For a runtime that mounts by itself. */
  mountInstructions(name: string): Promise<MountInstruction[]> {
    return this.transport.json('GET', route('v1', 'containers', name, 'mounts'));
  }

  unmount(name: string, { key, ...query }: { force?: boolean } & Repeatable = {}): Promise<{ mounts: number }> {
    return this.transport.json('POST', route('v1', 'containers', name, 'unmount'), { query, key });
  }

  removeContainer(name: string, { key, ...query }: { force?: boolean } & Repeatable = {}): Promise<{ id: string }> {
    return this.transport.json('DELETE', route('v1', 'containers', name), { query, key });
  }

  /** What the container changed, in byte order of the paths. */
  changes(name: string, signal?: AbortSignal): AsyncGenerator<Change> {
    return this.transport.lines(route('v1', 'containers', name, 'changes'), { signal });
  }

  /** The same as a layer tar with whiteouts. */
  async diff(name: string, signal?: AbortSignal): Promise<AsyncGenerator<Buffer>> {
    return (await this.transport.bytes(route('v1', 'containers', name, 'diff'), { signal })).stream;
  }

  /** The whole root as a tar. */
  async exportContainer(name: string, signal?: AbortSignal): Promise<AsyncGenerator<Buffer>> {
    return (await this.transport.bytes(route('v1', 'containers', name, 'export'), { signal })).stream;
  }

  commit(name: string, options: CommitOptions & Watch = {}): Promise<CommitResult> {
    const { onProgress, signal, ...json } = options;
    return this.transport.operation(route('v1', 'containers', name, 'commit'), { json, signal }, onProgress);
  }

  /** What the container's upper occupies. */
  usage(name: string): Promise<Usage> {
    return this.transport.json('GET', route('v1', 'containers', name, 'usage'));
  }

  gc(options: GcOptions = {}): Promise<GcReport> {
    return this.transport.json('POST', '/v1/gc', { json: options });
  }

  check(options: CheckOptions & Watch = {}): Promise<CheckReport> {
    const { onProgress, signal, ...json } = options;
    return this.transport.operation('/v1/check', { json, signal }, onProgress);
  }

  /** Moves all layers to another driver. What was moved stays moved when it is broken off. */
  migrate(options: { to: DriverName } & Watch): Promise<MigrateReport> {
    const { onProgress, signal, ...json } = options;
    return this.transport.operation('/v1/migrate', { json, signal }, onProgress);
  }

  /** A consistent copy of the daemon's database, for `layerd restore`. */
  async backup(signal?: AbortSignal): Promise<AsyncGenerator<Buffer>> {
    return (await this.transport.bytes('/v1/backup', { signal })).stream;
  }

  diskUsage(): Promise<DiskReport> {
    return this.transport.json('GET', '/v1/df');
  }

  /** What keeps an image, a layer or chain digest, a container or a path below the root on disk. */
  why(subject: string): Promise<WhyReport> {
    return this.transport.json('GET', '/v1/why', { query: { subject } });
  }

  /** Remembers which layer (null: none) a step of a build made. The layer stays as long as the entry. */
  bindBuildCache(step: BuildCacheKey & { layer: Digest | null }): Promise<BuildCacheEntry> {
    return this.transport.json('POST', '/v1/build-cache', { json: step });
  }

  /** What the step made when it was last done, after a restart and for every image; null where it must be done. */
  async useBuildCache(step: BuildCacheKey): Promise<BuildCacheEntry | null> {
    const { entry } = await this.transport.json<{ entry: BuildCacheEntry | null }>('POST', '/v1/build-cache/use', {
      json: step,
    });
    return entry;
  }

  /** What was used last first. */
  buildCache(): Promise<BuildCacheEntry[]> {
    return this.transport.json('GET', '/v1/build-cache');
  }

  /** Forgets these entries, or all; their layers are collected where nothing else has them. */
  removeBuildCache(ids: readonly number[] = []): Promise<{ removed: number[] }> {
    return this.transport.json('DELETE', '/v1/build-cache', { query: { id: ids.map(String) } });
  }

  createLease({
    key,
    ...json
  }: {
    id?: string;
    ttlMs?: number;
    labels?: Record<string, string>;
    holds?: string[];
  } & Repeatable = {}): Promise<Lease> {
    return this.transport.json('POST', '/v1/leases', { json, key });
  }

  leases(): Promise<Lease[]> {
    return this.transport.json('GET', '/v1/leases');
  }

  updateLease(id: string, change: { ttlMs?: number; add?: string[] }): Promise<Lease> {
    return this.transport.json('PATCH', route('v1', 'leases', id), { json: change });
  }

  async removeLease(id: string, { key }: Repeatable = {}): Promise<void> {
    await this.transport.json('DELETE', route('v1', 'leases', id), { key });
  }

  /** Events with a sequence number above `since` (default: all that are kept); with `follow`, on until the signal. */
  events(options: { since?: number; follow?: boolean; signal?: AbortSignal } = {}): AsyncGenerator<EngineEvent> {
    const { signal, ...query } = options;
    return this.transport.lines('/v1/events', { query, signal });
  }

  /** Hands an archive to the daemon: by our descriptor of it where that is possible, else by its bytes. */
  private async sendArchive<T>(
    path: string,
    source: string | AsyncIterable<Uint8Array>,
    options: Pick<CallOptions, 'query' | 'headers'>,
    { onProgress, signal }: Watch,
  ): Promise<T> {
    const send = (body: AsyncIterable<Uint8Array>): Promise<T> =>
      this.transport.operation(path, { ...options, body, signal }, onProgress);
    if (typeof source !== 'string') return send(source);
    const handle = await openArchive(source);
    const stat = await handle.stat();
    const stream = (): AsyncIterable<Uint8Array> =>
      stat.isDirectory() ? layoutAsTar(source) : handle.createReadStream({ autoClose: false });
    try {
      if (!stat.isDirectory() && !stat.isFile()) return await send(stream());
      const headers = { ...options.headers, 'x-layerd-fd': String(handle.fd) };
      return await this.transport.operation(path, { ...options, headers, signal }, onProgress);
    } catch (error) {
      if (!(error instanceof LayerdError) || error.code !== 'NOT_PERMITTED') throw error;
      return await send(stream());
    } finally {
      await handle.close();
    }
  }
}

function loadQuery({ platform, allPlatforms, ref }: LoadOptions): Record<string, string | boolean | undefined> {
  return { allPlatforms, ref, platform: platformText(platform) };
}

function platformText(platform: Platform | undefined): string | undefined {
  if (platform === undefined) return undefined;
  const { os, architecture, variant } = platform;
  return [os, architecture, variant].filter((word) => word !== undefined).join('/');
}

/** Credentials travel in headers: no log has them. */
function authHeaders(credentials: Credentials | undefined, target?: Credentials): Record<string, string> {
  const encoded = (value: Credentials): string => Buffer.from(JSON.stringify(value)).toString('base64');
  return {
    ...(credentials === undefined ? {} : { 'x-layerd-registry-auth': encoded(credentials) }),
    ...(target === undefined ? {} : { 'x-layerd-target-auth': encoded(target) }),
  };
}

async function openArchive(source: string): Promise<FileHandle> {
  try {
    return await open(source, 'r');
  } catch (error) {
    throw new LayerdError('INVALID_ARGUMENT', `cannot open the archive ${source}: ${(error as Error).message}`, {
      details: { path: source },
      hint: 'Name a docker-archive, an OCI archive, or a directory with an OCI layout.',
      cause: error,
    });
  }
}
