/** Rows as queries return them; the names are those of the columns. */
import type { Digest } from '../core/digest.js';
import type { SnapshotKind } from '../core/snapshots.js';
import type { DriverName } from '../core/words.js';

export interface LayerRow {
  id: number;
  diff_id: Digest;
  size: number;
  entries: number;
  opaque_root: number;
  implied: number;
  /** JSON of the root's attributes where the tar lists its root. */
  root: string | null;
  created: number;
}

export interface StoredLayerRow {
  id: number;
  layer_id: number;
  driver: DriverName;
  dir: string;
  inherited: string;
  disk: number;
  inodes: number;
  damaged: number;
}

/** A stored layer with what its layer says: enough for a driver. */
export interface StackedRow extends StoredLayerRow {
  diff_id: Digest;
  size: number;
  opaque_root: number;
  root: string | null;
}

/** An upper that was committed as it is: a stored layer without a layer. */
export interface UpperRow extends Omit<StoredLayerRow, 'layer_id' | 'driver'> {
  layer_id: null;
  driver: 'upper';
  /** JSON of the root's attributes. */
  root: string;
  opaque_root: number;
}

/** What a stack is made of. */
export type LowerRow = StackedRow | UpperRow;

export interface ChainRow {
  id: number;
  chain_id: Digest;
  parent_id: number | null;
  layer_id: number;
  stack_id: number;
  depth: number;
}

/** A chain, and how it is kept: the copy of its own layer, and the stack below that. */
export interface PlacedChainRow extends ChainRow {
  diff_id: Digest;
  driver: DriverName;
  damaged: number;
  below_id: number | null;
}

export interface ImageRow {
  id: number;
  image_id: Digest;
  config: Buffer;
  platform: string;
  chain_id: number | null;
  manifest: Buffer | null;
  manifest_digest: Digest | null;
  manifest_type: string | null;
  created: number;
  added: number;
}

export interface SnapshotRow {
  id: number;
  space: string;
  key: string;
  kind: SnapshotKind;
  parent_id: number | null;
  /** Null for committed ones, and `driver` with it. */
  dir: string | null;
  driver: DriverName | null;
  chain_id: number | null;
  stack_id: number | null;
  layer_id: number | null;
  read_only: number;
  volatile: number;
  size_limit: number | null;
  labels: string;
  /** Microseconds since the epoch, and `updated` too. */
  created: number;
  updated: number;
}

/** A snapshot that has a directory: an active one or a view. */
export type LiveSnapshotRow = SnapshotRow & { dir: string; driver: DriverName };

export interface ContainerRow {
  id: string;
  name: string;
  snapshot_id: number;
  image_id: number;
  image: string;
  labels: string;
  mounts: number;
  boot: string;
  /** The merged root, while mounts are held. */
  path: string | null;
  created: number;
}

export interface LeaseRow {
  id: string;
  internal: number;
  labels: string;
  created: number;
  expires: number | null;
}

/** An entry of the build cache with its layer: null and 0 where the step made none. */
export interface BuildCacheRow {
  id: number;
  parent: Digest | '';
  instruction: string;
  inputs: Digest;
  layer_id: number | null;
  created: number;
  used: number;
  diff_id: Digest | null;
  disk: number;
  in_image: number;
}

export interface EventRow {
  seq: number;
  time: number;
  type: string;
  subject: string;
  data: string;
}

/** The beginning of a blob that is on its way in. */
export interface PartialRow {
  id: number;
  digest: Digest;
  lease_id: string | null;
}

/** A blob that a repository was seen to have. */
export interface RemoteBlobRow {
  registry: string;
  repository: string;
  digest: Digest;
  layer_id: number;
  size: number;
  compression: string;
  seen: number;
}

export interface BlobRow {
  id: number;
  digest: Digest;
  layer_id: number;
  size: number;
  compression: string;
  /** Its name below b/, if it is kept. */
  file: string | null;
  disk: number;
}

export type KeptBlobRow = BlobRow & { file: string };
