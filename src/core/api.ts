/**
 * What a door may ask of the engine. Doors know protocols and this interface; nothing else of the house. Calls throw
 * LayerdError. References to images are refs (normalised as Docker does), image ids or their unique prefixes;
 * containers are named by id, unique id prefix or name. Everything may be retried safely.
 */
import type { Digest } from './digest.js';
import type { SnapshotsApi } from './snapshots.js';
import type {
  ArchiveFormat,
  BuildCacheEntry,
  BuildCacheKey,
  Change,
  CheckOptions,
  CheckReport,
  CommitOptions,
  CommitResult,
  CopyResult,
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
  Progress,
  PullResult,
  PushCompression,
  PushResult,
  RemovedImage,
  TagList,
  Usage,
  WhyReport,
} from './words.js';

export type OnProgress = (progress: Progress) => void;

/**
 * Where an archive comes from: a stream, read once; or a file or directory (OCI layout) that the daemon opens by
 * itself, so that layers are read in parallel and those that are present are not read at all. `path` may be
 * /proc/PID/fd/N of a client that has it open.
 */
export type ArchiveInput = { stream: AsyncIterable<Buffer>; size: number | null } | { path: string };

export interface LoadOptions {
  /** Which of several platforms; the machine's own by default. */
  platform?: Platform;
  allPlatforms?: boolean;
  /** Names the image, where the archive holds exactly one. */
  ref?: string;
}

/** How a registry is to be spoken to. */
export interface RegistryOptions {
  /** Without them, those of the daemon's configuration file for credentials are used. */
  credentials?: Credentials;
}

export interface PullOptions extends RegistryOptions {
  /** Which of several platforms; the machine's own by default. */
  platform?: Platform;
  allPlatforms?: boolean;
}

/**
 * A request that must take effect once, however often it is sent, before and after a restart: what it does and what it
 * answers are one transaction.
 */
export interface Once {
  key: string;
  /** What is asked, so that a key used for something else is noticed. */
  request: string;
}

/** What a request was answered under a key. */
export interface KeptAnswer {
  request: string;
  answer: unknown;
}

export interface PushOptions extends RegistryOptions {
  /** Where to; default: the name that the image was called by. */
  target?: string;
  /** Default: blobs go as the image came with them as far as they are known there or kept here, and as gzip else. */
  compression?: PushCompression;
}

/** What of a reference at a registry is meant. */
export interface RemoteOptions extends RegistryOptions {
  /** One platform of an index; default: all of it. */
  platform?: Platform;
  /** What refers to it (signatures, attestations, …), too. */
  referrers?: boolean;
}

export interface CopyOptions extends RemoteOptions {
  targetCredentials?: Credentials;
}

export interface ImportOptions extends RegistryOptions {
  target: string;
  /** Default: as the archive has it. */
  compression?: PushCompression;
  /** Which of several platforms; the machine's own by default. */
  platform?: Platform;
}

export interface SaveOptions {
  refs: string[];
  format: ArchiveFormat;
}

export interface EngineApi {
  /** Snapshots that doors name for themselves. */
  readonly snapshots: SnapshotsApi;

  /** What was answered under a key, if that is remembered: the newest thousand are. */
  answered(key: string): KeptAnswer | undefined;

  info(): Promise<Info>;
  /** Quick: true as long as database and workers answer. */
  health(): Promise<{ ok: boolean; problems: string[] }>;
  /** Prometheus text format. */
  metrics(): Promise<string>;

  load(input: ArchiveInput, options: LoadOptions, progress: OnProgress, signal: AbortSignal): Promise<LoadResult>;
  /** The archive as a tar stream. Throws before the first byte if a ref is unknown. `notice` says when the manifest digest differs. */
  save(options: SaveOptions, signal: AbortSignal): Promise<{ stream: AsyncIterable<Buffer>; notice: string }>;
  /** Brings an image from a registry. What an interrupted pull fetched is kept for the next one. */
  pull(ref: string, options: PullOptions, progress: OnProgress, signal: AbortSignal): Promise<PullResult>;
  /** Sends an image to a registry, as far as its blobs are not there. */
  push(name: string, options: PushOptions, progress: OnProgress, signal: AbortSignal): Promise<PushResult>;
  /** The tags of a repository at a registry; with `digest` those that lead to it. */
  tags(name: string, options: RegistryOptions & { digest?: string }, signal: AbortSignal): Promise<TagList>;
  /** From registry to registry, byte for byte. */
  copy(
    source: string,
    target: string,
    options: CopyOptions,
    progress: OnProgress,
    signal: AbortSignal,
  ): Promise<CopyResult>;
  /** What a registry has as an OCI archive. Throws before the first byte if it has it not. */
  remoteArchive(ref: string, options: RemoteOptions, signal: AbortSignal): Promise<AsyncIterable<Buffer>>;
  /** The image of an archive to a registry. */
  importArchive(
    input: ArchiveInput,
    options: ImportOptions,
    progress: OnProgress,
    signal: AbortSignal,
  ): Promise<PushResult>;
  /** Newest first, read as they are taken: what comes or goes meanwhile may be among them or not. */
  images(): Iterable<ImageSummary>;
  image(name: string): ImageDetail;
  history(name: string): HistoryRow[];
  /**
   * An image of another and a layer that is here (null: of its config alone). Without a ref, a container or a lease it is
   * collected. Throws LAYER_NOT_FOUND.
   */
  extendImage(name: string, change: ImageChanges & { layer: Digest | null }): Promise<ExtendedImage>;
  tag(source: string, target: string): Promise<ImageSummary>;
  removeImage(name: string, options: { force?: boolean }, once?: Once): Promise<RemovedImage>;

  /** Oldest first, as they are taken. */
  layers(): Iterable<LayerSummary>;
  layer(digestOrPrefix: string): LayerSummary;
  layerTree(): LayerTreeNode[];
  /** The uncompressed tar of a layer, bit for bit. */
  layerTar(
    digestOrPrefix: string,
    signal: AbortSignal,
  ): Promise<{ stream: AsyncIterable<Buffer>; size: number; diffId: Digest }>;

  createContainer(image: string, options: CreateContainerOptions, once?: Once): Promise<ContainerSummary>;
  /** Newest first, as they are taken. */
  containers(): Iterable<ContainerSummary>;
  container(name: string): ContainerDetail;
  mount(name: string, once?: Once): Promise<MountResult>;
  mountInstructions(name: string): Promise<MountInstruction[]>;
  unmount(name: string, options: { force?: boolean }, once?: Once): Promise<{ mounts: number }>;
  removeContainer(name: string, options: { force?: boolean }, once?: Once): Promise<{ id: string }>;
  changes(name: string, signal: AbortSignal): Promise<AsyncIterable<Change[]>>;
  diff(name: string, signal: AbortSignal): Promise<AsyncIterable<Buffer>>;
  exportContainer(name: string, signal: AbortSignal): Promise<AsyncIterable<Buffer>>;
  commit(name: string, options: CommitOptions, progress: OnProgress, signal: AbortSignal): Promise<CommitResult>;
  usage(name: string): Promise<Usage>;

  gc(options: GcOptions): Promise<GcReport>;
  check(options: CheckOptions, progress: OnProgress, signal: AbortSignal): Promise<CheckReport>;
  /**
   * Moves all layers to another driver, which is that of everything new from then on. May be broken off and done again.
   * Throws DRIVER_UNAVAILABLE.
   */
  migrate(options: { to: DriverName }, progress: OnProgress, signal: AbortSignal): Promise<MigrateReport>;
  /** The database as it is at one moment: a file of SQLite that `layerd restore` takes. */
  backup(signal: AbortSignal): Promise<AsyncIterable<Buffer>>;
  diskUsage(): Promise<DiskReport>;
  /** `subject`: image, layer or chain digest, container, or an absolute path below the root. */
  why(subject: string): Promise<WhyReport>;

  /**
   * Remembers which layer a step of a build made, also without any image; the layer then stays as long as the entry.
   * Throws LAYER_NOT_FOUND.
   */
  bindBuildCache(step: BuildCacheKey & { layer: Digest | null }): Promise<BuildCacheEntry>;
  /** What the step made when it was last done; null where it must be done (again). */
  useBuildCache(step: BuildCacheKey): Promise<BuildCacheEntry | null>;
  buildCache(): BuildCacheEntry[];
  /** Forgets these entries; all of them where none are named. */
  removeBuildCache(ids: readonly number[]): Promise<{ removed: number[] }>;

  createLease(
    options: {
      id?: string;
      ttlMs?: number;
      labels?: Record<string, string>;
      holds?: string[];
    },
    once?: Once,
  ): Promise<Lease>;
  leases(): Lease[];
  /** Adds what it protects, or moves its expiry. */
  updateLease(id: string, change: { ttlMs?: number; add?: string[] }): Promise<Lease>;
  removeLease(id: string, once?: Once): Promise<void>;

  /** Events with a sequence number above `since`; with `follow` it goes on until the signal. */
  events(since: number, follow: boolean, signal: AbortSignal): AsyncIterable<EngineEvent>;
}
