/**
 * The words of layerd as types: what the engine answers and every door translates. One word per concept:
 * layer, diff ID, chain ID, snapshot, image, ref, container, lease, root.
 * Times are milliseconds since the epoch; sizes are bytes unless a name says otherwise.
 */
import type { Digest } from './digest.js';
import type { ErrorBody } from './errors.js';

export type DriverName = 'overlay2' | 'erofs' | 'btrfs' | 'copy';

/** An OCI platform; `any` field left out matches all. */
export interface Platform {
  os: string;
  architecture: string;
  variant?: string;
}

export type ArchiveFormat = 'docker' | 'oci';

/** What a long operation is doing. `total` is null where it cannot be known before the end. */
export interface Progress {
  phase:
    | 'read'
    | 'layer'
    | 'present'
    | 'resume'
    | 'wait'
    | 'queue'
    | 'sync'
    | 'image'
    | 'save'
    | 'compress'
    | 'push'
    | 'copy'
    | 'diff'
    | 'commit'
    | 'check'
    | 'gc'
    | 'migrate';
  /** The layer or member that the numbers speak of: a diff ID, blob digest or member name; '' for the whole. */
  subject: string;
  done: number;
  total: number | null;
}

/** One line of an NDJSON answer: progress lines, then exactly one result or error. */
export type StreamLine<T> = { progress: Progress } | { result: T } | { error: ErrorBody };

export interface LoadedImage {
  imageId: Digest;
  /** Normalised refs that now name the image. */
  refs: string[];
  platform: string;
  layers: { diffId: Digest; size: number; present: boolean }[];
}

export interface LoadResult {
  images: LoadedImage[];
  layersLoaded: number;
  layersPresent: number;
  /** Uncompressed bytes of the layers that were loaded. */
  bytesLoaded: number;
}

/** Who somebody is to a registry: name and password, or the token that a login gave instead of them. */
export type Credentials = { username: string; password: string } | { identityToken: string };

export interface PullResult extends LoadResult {
  /** What was pulled, normalised. */
  ref: string;
  /** What the ref led to at the registry: a manifest, or an index of several. */
  digest: Digest;
  /** The host that it came from: the registry's, or a mirror's. */
  from: string;
}

/** Where a digest turns up in a repository. */
export interface DigestMatch {
  tag: string;
  /** What the tag leads to. */
  digest: Digest;
  /** What the digest that was looked for is there. */
  as: 'manifest' | 'platform' | 'config' | 'layer';
}

export interface TagList {
  /** Registry and path. */
  repository: string;
  tags: string[];
  /** Where a digest was looked for: what leads to it. */
  matches: DigestMatch[];
}

export interface CopyResult {
  source: string;
  target: string;
  /** Of the manifest or index that was copied, the same in both places. */
  digest: Digest;
  manifests: number;
  /** Blobs that were sent, taken over from the source's repository, or there already. */
  copied: number;
  mounted: number;
  present: number;
  bytesCopied: number;
}

/** How layers are compressed that are sent to a registry. */
export type PushCompression = 'gzip' | 'zstd';

export interface PushResult {
  /** Where it lies now, normalised. */
  ref: string;
  /** The manifest's. */
  digest: Digest;
  /** It is the manifest that the image came with, byte for byte. */
  original: boolean;
  /** Bottom first, each once. */
  layers: {
    diffId: Digest;
    /** The blob that holds it there. */
    digest: Digest;
    /** Bytes of the blob. */
    size: number;
    /** present: it was there. mounted: taken over from another repository of the registry. uploaded: sent. */
    how: 'present' | 'mounted' | 'uploaded';
  }[];
  /** Of layers and config. */
  bytesSent: number;
}

export interface ImageSummary {
  /** The digest of the image's config. */
  id: Digest;
  refs: string[];
  created: number;
  /** Uncompressed bytes of all layers. */
  size: number;
  /** Bytes of layers that no other image uses. */
  unique: number;
  shared: number;
  platform: string;
}

export interface ImageDetail extends ImageSummary {
  config: unknown;
  /** The digest of the manifest the image came with, if it came with one. */
  manifestDigest: Digest | null;
  /** True where save to OCI returns that manifest byte for byte (keep_blobs). */
  manifestKept: boolean;
  layers: { diffId: Digest; chainId: Digest; size: number; entries: number; driver: DriverName; path: string | null }[];
  containers: string[];
}

/** One row per instruction, newest first, as `docker history` shows them. */
export interface HistoryRow {
  created: number | null;
  createdBy: string;
  comment: string;
  /** 0 for instructions that made no layer. */
  size: number;
  diffId: Digest | null;
}

export interface RemovedImage {
  untagged: string[];
  /** Image ids that went with their last ref. */
  deleted: Digest[];
}

export interface LayerSummary {
  diffId: Digest;
  /** Bytes of the uncompressed tar. */
  size: number;
  entries: number;
  /** Bytes allocated on disk for it, catalog included. */
  disk: number;
  drivers: DriverName[];
  created: number;
  /** Every chain the layer lies in. */
  chains: { chainId: Digest; parent: Digest | null }[];
  /** Image ids that need it. */
  images: Digest[];
  /** Ids of containers that need it. */
  containers: string[];
}

/** The layers as the tree that their chains form. */
export interface LayerTreeNode {
  chainId: Digest;
  diffId: Digest;
  size: number;
  /** Refs (or image ids) whose top layer this is. */
  images: string[];
  containers: string[];
  children: LayerTreeNode[];
}

export interface ContainerSummary {
  /** 64 hex digits. */
  id: string;
  name: string;
  imageId: Digest;
  /** The ref it was created from, as it was given. */
  image: string;
  created: number;
  readOnly: boolean;
  labels: Record<string, string>;
  /** How many mounts are held; each needs its unmount. */
  mounts: number;
  /** The merged root while it is mounted. */
  path: string | null;
  driver: DriverName;
}

export interface ContainerDetail extends ContainerSummary {
  chainId: Digest | null;
  layers: Digest[];
  /** The driver's directories: upper, work, merged. */
  directories: Record<string, string>;
  sizeLimit: number | null;
}

export interface CreateContainerOptions {
  name?: string;
  readOnly?: boolean;
  labels?: Record<string, string>;
  /** Bytes that the upper may hold, where the driver has quotas. */
  sizeLimit?: number;
  /** The container is thrown away at exit: its upper need not survive a crash. */
  volatile?: boolean;
}

/** What a runtime that mounts by itself is told, in the words of mount(8). */
export interface MountInstruction {
  type: string;
  source: string;
  options: string[];
}

export interface MountResult {
  path: string;
  mounts: number;
}

export type ChangeKind = 'A' | 'C' | 'D';

export interface Change {
  kind: ChangeKind;
  /** Absolute, shown by displayBytes(). */
  path: string;
  /** Base64 of the path's bytes, only where they are not plain UTF-8. */
  bytes?: string;
}

/** What an image says of itself beyond the image that it lies on. */
export interface ImageChanges {
  ref?: string;
  author?: string;
  message?: string;
  /** Dockerfile instructions: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR. */
  changes?: string[];
}

export interface CommitOptions extends ImageChanges {
  /** Freeze the container's cgroup while its upper is read. */
  pauseCgroup?: string;
}

/** An image made of another and at most one layer more. */
export interface ExtendedImage {
  imageId: Digest;
  ref: string | null;
  /** null where nothing had changed: no layer was made. */
  diffId: Digest | null;
  size: number;
}

export interface CommitResult extends ExtendedImage {
  /** True when the container was mounted writable meanwhile: the layer is a crash-consistent picture. */
  whileMounted: boolean;
}

export interface Usage {
  bytes: number;
  inodes: number;
}

export interface GcOptions {
  dryRun?: boolean;
  /** Overrides the configured grace period; milliseconds. */
  grace?: number;
  /** Wait until what was collected is unlinked, too. */
  wait?: boolean;
}

export interface GcReport {
  dryRun: boolean;
  removed: {
    kind: 'image' | 'layer' | 'snapshot' | 'tree' | 'lease' | 'blob' | 'partial' | 'build-cache';
    id: string;
    bytes: number;
    why: string;
  }[];
  /** Bytes that the removal frees, or would free. */
  bytes: number;
  /** Bytes already freed when the report was made; the rest is in the trash. */
  freed: number;
  /** Of `bytes`: still held by mounts elsewhere. */
  pinned: number;
  /** What nothing needs either, but whose grace period is not over. */
  waiting: { things: number; bytes: number };
  durationMs: number;
}

export type ProblemSeverity = 'damage' | 'leak' | 'warning';

export interface Problem {
  severity: ProblemSeverity;
  /** A stable word: LAYER_MISSING, LAYER_CORRUPT, CATALOG_CORRUPT, ROW_DANGLING, STRAY_FILE, MOUNT_LOST, … */
  code: string;
  subject: string;
  message: string;
  /** Images and containers that it touches. */
  affects: string[];
  hint: string;
  repaired: boolean;
}

export interface CheckOptions {
  repair?: boolean;
  /** Skip the bytes: rows, files and sizes only. */
  quick?: boolean;
}

export interface CheckReport {
  ok: boolean;
  problems: Problem[];
  layersChecked: number;
  bytesRead: number;
  /** Live uppers: what containers write cannot be verified. */
  unverifiable: string[];
  durationMs: number;
}

export interface MigrateReport {
  to: DriverName;
  /** Layers that were copied, and their uncompressed bytes. */
  layers: number;
  bytes: number;
  /** Chains of layers that were moved to copies by the driver. */
  chains: number;
  /** Chains that stay where they are: those of `failures`, and what lies on them. */
  chainsLeft: number;
  failures: { diffId: Digest; code: string; message: string }[];
  /** Ids of containers that stay where they are until they are removed. */
  containers: string[];
  /** In plain words: the driver that the next start uses for what is new, and why. */
  afterRestart: string;
  durationMs: number;
}

/** Allocated bytes under the root, every one attributed. */
export interface DiskReport {
  total: number;
  rows: {
    kind: 'layer' | 'container' | 'snapshot' | 'tree' | 'blob' | 'partial' | 'trash' | 'metadata' | 'staging' | 'other';
    id: string;
    bytes: number;
    inodes: number;
    /** Images or containers that need it. */
    users: string[];
  }[];
  images: { id: Digest; refs: string[]; unique: number; shared: number }[];
  reclaimable: number;
  /** Entries of the build cache, and bytes of the layers that it alone keeps. */
  buildCache: { entries: number; bytes: number };
  /** Bytes in `total` that are there once but counted for several files, which share them by reflink; null: unknown. */
  sharedExtents: number | null;
  /** When the live uppers were last measured; null if there are none. */
  uppersMeasured: number | null;
}

export interface WhyReport {
  subject: string;
  kind: 'image' | 'layer' | 'chain' | 'container' | 'snapshot' | 'file' | 'unknown';
  /** Chains of reasons, each from the subject to a root. */
  paths: string[][];
  conclusion: string;
}

/** A step of a build: what it was done upon, what was done, and with which files. */
export interface BuildCacheKey {
  /** The chain of layers below; null for none. */
  parent: Digest | null;
  /** As the builder writes it, with everything that changes its outcome. */
  instruction: string;
  /** Of what goes into it besides: the files that it copies, its mounts, its arguments. */
  inputs: Digest;
}

export interface BuildCacheEntry extends BuildCacheKey {
  id: number;
  /** The layer that the step made; null where it changed no file. */
  diffId: Digest | null;
  /** The chain with that layer: the parent of the next step. */
  chainId: Digest | null;
  /** Allocated bytes of the layer. */
  disk: number;
  created: number;
  /** When it was last bound or asked for. */
  used: number;
}

export interface Lease {
  id: string;
  created: number;
  expires: number | null;
  labels: Record<string, string>;
  /** Digests of images and layers it protects. */
  holds: Digest[];
}

export interface EngineEvent {
  seq: number;
  time: number;
  type:
    | 'image.load'
    | 'image.tag'
    | 'image.untag'
    | 'image.delete'
    | 'image.save'
    | 'image.push'
    | 'layer.create'
    | 'layer.delete'
    | 'layer.heal'
    | 'container.create'
    | 'container.mount'
    | 'container.unmount'
    | 'container.commit'
    | 'container.delete'
    | 'snapshot.changed'
    | 'gc.run'
    | 'store.recover'
    | 'store.check'
    | 'store.migrate';
  subject: string;
  data: Record<string, string | number | boolean | null>;
}

export interface Info {
  version: string;
  pid: number;
  node: string;
  root: string;
  run: string;
  fileSystem: string;
  driver: DriverName;
  /** Why `auto` took it, or that it was configured. */
  driverReason: string;
  drivers: { name: DriverName; available: boolean; reason: string }[];
  kernel: { release: string; features: Record<string, boolean> };
  inflater: string;
  counts: { images: number; layers: number; containers: number; leases: number };
  started: number;
  /** Event-loop delay of the main thread since the last look, 99th percentile in ms. */
  eventLoopDelayP99Ms: number;
}
