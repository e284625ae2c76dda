/**
 * Snapshots that doors name: what a runtime knows as the layers of its images and the roots of its containers.
 *
 * A door keeps them in a *space* of its own; nobody sees what is in another space. A key is unique in its space and means
 * nothing to layerd. A snapshot is active (its upper can be written), a view (read-only), or committed: then it is
 * somebody's lower, and never changes. What a snapshot lies on is decided when it is made: its mount instructions are
 * the same always.
 */
import type { Digest } from './digest.js';
import type { Change, MountInstruction, Progress, Usage } from './words.js';

export type SnapshotKind = 'active' | 'view' | 'committed';

export interface SnapshotInfo {
  key: string;
  kind: SnapshotKind;
  /** The key of what it lies on; null for none. */
  parent: string | null;
  labels: Record<string, string>;
  /** Microseconds since the epoch; `updated` is when the labels were last changed. */
  created: number;
  updated: number;
}

/** Which snapshot: its space and key. */
export interface SnapshotName {
  space: string;
  key: string;
}

export interface PrepareOptions {
  /** A committed snapshot; null for none. */
  parent: string | null;
  /** Read-only. */
  view?: boolean;
  labels?: Record<string, string>;
  /** Bytes the upper may hold, where the driver has quotas. */
  sizeLimit?: number;
  /** Its upper need not survive a crash. */
  volatile?: boolean;
  /** Somebody is about to unpack a layer into it, and to commit it then: what is written goes to the disk meanwhile. */
  unpack?: boolean;
  /** Who owns its root, where that is not as it lies below. */
  rootOwner?: { uid: number; gid: number };
}

export interface SnapshotCommit {
  /** The key from now on; may be the one it has. */
  name: string;
  /** In place of those it had. */
  labels?: Record<string, string>;
  /** For a snapshot that was prepared without a parent: what it comes to lie on. */
  parent?: string | null;
  /** False: the upper need not survive a power cut. */
  sync?: boolean;
}

/** A snapshot that a door asks for by what it would be. */
export interface AdoptOptions {
  /** A chain ID; what is none may still be the label of a snapshot. */
  chainId: string;
  /** The key of a committed snapshot; null for none. */
  parent: string | null;
  labels: Record<string, string>;
  /** The label that names the chain ID: a committed snapshot with it upon the same parent is it already. */
  same: string;
  /** The blob that holds its topmost layer, where that is known: nothing else need be looked at then. */
  blobDigest?: Digest;
}

/** The bytes that a committed upper was unpacked from, and what they must prove to be. */
export interface OriginalLayer {
  diffId: Digest;
  blobDigest: Digest;
  open(signal: AbortSignal): AsyncIterable<Buffer>;
}

/** Finds them; `parentChain` is what the snapshot lies on. Null where nobody has them. */
export type FindOriginal = (snapshot: {
  key: string;
  labels: Record<string, string>;
  parentChain: Digest | null;
}) => Promise<OriginalLayer | null>;

/** Bytes of one layer, compressed or not, and what they must prove to be. */
export interface LayerBytes {
  stream: AsyncIterable<Buffer>;
  blobDigest?: Digest;
  diffId?: Digest;
}

/** A layer as it was verified. */
export interface AppliedLayer {
  diffId: Digest;
  /** Of the uncompressed tar. */
  size: number;
  /** It was here: nothing was stored. */
  present: boolean;
}

/**
 * What a door may do with its snapshots. Throws SNAPSHOT_NOT_FOUND, SNAPSHOT_EXISTS, SNAPSHOT_PRECONDITION (what it is, or
 * what lies on it, forbids that), INVALID_ARGUMENT.
 */
export interface SnapshotsApi {
  /** Makes an active snapshot or a view. Mostly a row: directories are made ahead. */
  prepare(name: SnapshotName, options: PrepareOptions): Promise<SnapshotInfo>;
  /** How a runtime mounts it; the same answer every time. Everything that it names is there when this returns. */
  instructions(name: SnapshotName): Promise<MountInstruction[]>;
  /** Mounts the root below the run directory, or finds it mounted; returns its path. Mounts are not counted. */
  mount(name: SnapshotName): Promise<string>;
  unmount(name: SnapshotName, options: { force: boolean }): Promise<void>;
  /** Stores the layer (verified, once for everybody) and notes that the active snapshot is to be that, and nothing of its upper. */
  apply(
    name: SnapshotName,
    bytes: LayerBytes,
    signal: AbortSignal,
    progress?: OnSnapshotProgress,
  ): Promise<AppliedLayer>;
  /**
   * Makes an active snapshot a committed one. After {@link apply} these are rows; else its upper, once it is durable, serves as
   * it is.
   */
  commit(name: SnapshotName, commit: SnapshotCommit): Promise<SnapshotInfo>;
  /** A committed snapshot of a layer that is here, whoever brought it; null where it is not. Nothing is stored. */
  adopt(space: string, options: AdoptOptions): Promise<SnapshotInfo | null>;
  /** Removes one that nothing lies on: a row; its directory follows into the trash. */
  remove(name: SnapshotName): Promise<void>;
  /** Synchronous: a row is read. */
  stat(name: SnapshotName): SnapshotInfo;
  /** Replaces the labels. */
  relabel(
    name: SnapshotName,
    change: (labels: Record<string, string>) => Record<string, string>,
  ): Promise<SnapshotInfo>;
  /** All of the space, read as they are taken, in the order in which they were begun. */
  list(space: string): Iterable<SnapshotInfo>;
  /** How many of the space are committed. */
  committed(space: string): number;
  usage(name: SnapshotName): Promise<Usage>;
  /** What it changed against its parent, as a layer tar; bit for bit where it is a layer. */
  diff(name: SnapshotName, signal: AbortSignal): AsyncIterable<Buffer>;
  changes(name: SnapshotName, signal: AbortSignal): AsyncIterable<Change[]>;
  /** The layer that it is, or that was applied to it; null where there is none (yet). */
  layer(name: SnapshotName): Digest | null;
  /** The live snapshot whose own directory has this path; null for one of nobody's. */
  owner(path: string): SnapshotName | null;
  /** Frees on disk what was removed, as far as that does not wait for its grace period. */
  cleanup(): Promise<void>;
}

export type OnSnapshotProgress = (progress: Progress) => void;

/** What becomes of uppers that were committed as they are. */
export interface ConversionsApi {
  /**
   * Begins to make layers of what is committed in the spaces of a prefix. `delayMs`: a client may take so long after a commit
   * to say which bytes it came from.
   */
  enable(spacePrefix: string, original: FindOriginal, delayMs?: number): void;
}
