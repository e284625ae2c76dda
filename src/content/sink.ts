import type { ByteString } from '../core/bytes.js';
import type { DriverName } from '../core/words.js';
import type { TarEntry } from '../tar/entry.js';
import type { LayerNode, LayerStep, LayerTree } from './layer-tree.js';

/** Attributes that an implied directory takes from the layers below. */
export interface InheritedDirectory {
  path: ByteString;
  mode: number;
  uid: number;
  gid: number;
  mtime: { sec: number; nsec: number };
  xattrs: ReadonlyMap<ByteString, Buffer> | null;
}

/** Attributes of the root of a tree. JSON holds them as they are. */
export interface RootAttributes {
  mode: number;
  uid: number;
  gid: number;
  mtime: { sec: number; nsec: number };
  /** Names and values, both as bytes; left out where there are none. */
  xattrs?: readonly (readonly [name: ByteString, value: ByteString])[];
}

/** What is known of a layer when its last byte has gone through. */
export interface StoredFacts {
  /** Allocated bytes and inodes of `l/DIR`. */
  disk: number;
  inodes: number;
}

/**
 * Takes one layer while its bytes stream by; made by a driver, driven by ingest(). Calls come in the order of the tar:
 * for every chunk first `bytes(chunk)`, then, for what the chunk completes, `step`, `payload`…, `payloadEnd`.
 * `payloadEnd` comes for every entry of type 'file', an empty one too. `commit` and then `settle` end it; whatever throws,
 * these two included, `abort` follows.
 */
export interface LayerSink {
  /** Who keeps the layer; the catalog says so. */
  readonly driver: DriverName;
  /** Every byte of the uncompressed tar. The chunk is the sink's until the promise is done (undefined: done now). */
  bytes(chunk: Buffer): Promise<void> | undefined;
  /** One entry, resolved. `entry.storedSize` bytes of payload follow, whatever the step is. */
  step(step: LayerStep, entry: TarEntry): void;
  payload(chunk: Buffer): void;
  payloadEnd(): void;
  /**
   * The tar is whole and its digests are right: complete the layer, write `catalog`, the finished catalog file, into its
   * directory. All of it is on its way to the disk then, and nothing need be durable.
   */
  commit(tree: LayerTree, catalog: readonly Buffer[]): Promise<void>;
  /** Makes the layer durable, the name of its directory too. `synced`: its file system has been synced since `commit`. */
  settle(synced: boolean): Promise<StoredFacts>;
  /** Leaves nothing behind (best effort: recovery removes what a crash leaves). */
  abort(): Promise<void>;
}

export type { LayerNode, LayerStep, LayerTree };
