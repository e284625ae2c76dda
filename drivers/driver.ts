/**
 * The contract of a driver.
 *
 * A driver answers two questions: how one layer is kept on disk ({@link LayerKeeper}), and how a writable or read-only
 * snapshot over a stack of layers comes to be ({@link SnapshotKeeper}). It is stateless between calls: everything it
 * needs is in the arguments and on disk, so that any worker thread can run any call and a crash loses nothing that
 * matters. Calls may block (system calls are synchronous); they run on worker threads, never on the main thread.
 *
 * Words. A *stored layer* is one driver's copy of one layer, in one directory `l/DIR` of its own that describes itself.
 * A *stack* is the list of stored layers a snapshot lies on, bottom first; layers of several drivers may stand in one
 * stack. A *snapshot* has a directory `s/DIR`.
 *
 * Laws every driver keeps:
 *  - What it makes is complete and durable when `sink.settle()` or `create()` has returned; before that nobody refers to
 *    it. A row follows, never precedes. So a half-made directory is garbage that nobody will miss.
 *  - It never changes a stored layer once committed, but for `inherit()` before the first chain uses it.
 *  - It removes nothing recursively in a call: the store renames a directory into the trash and unlinks it later.
 *    `release()` undoes whatever would keep that from working (mounts, subvolumes).
 *  - Nothing from an archive steers the kernel: names are resolved by content/ before a driver sees them, overlay's
 *    private xattrs never come from a tar, a real 0/0 device in a tar is never made.
 *  - It imports content/, tar/, linux/ and core/ only: no metadata, no store, no other driver.
 */
import { LayerdError } from '../src/core/errors.js';
import type { Digest } from '../src/core/digest.js';
import type { Change, DriverName, MountInstruction, Usage } from '../src/core/words.js';
import type { DriverOptions } from '../src/core/engine-config.js';
import type { Places } from '../src/core/places.js';
import type { ByteString } from '../src/core/bytes.js';
import type { ByteSource } from '../src/content/source.js';
import type { InheritedDirectory, LayerSink, RootAttributes } from '../src/content/sink.js';

export type { RootAttributes };

/** A layer as a driver keeps it: what rows and drivers both know. */
export interface StoredLayer {
  driver: DriverName;
  /** Name of its directory below `l/`. */
  dir: string;
  diffId: Digest;
  /** Bytes of the uncompressed tar. */
  size: number;
  /** The layer's root is opaque: no layer below it shows. */
  opaqueRoot: boolean;
}

/** A snapshot's upper that was committed as it is, at `s/DIR`: it lies in stacks as a layer does, and is none (yet). */
export interface CommittedUpper {
  driver: 'upper';
  dir: string;
  /** As a layer's. */
  opaqueRoot: boolean;
}

/** What a snapshot may lie on. */
export type Lower = StoredLayer | CommittedUpper;

/** A snapshot as its row pins it. */
export interface SnapshotSpec {
  /** Name of its directory below `s/`, and of its mount point below `m/`. */
  dir: string;
  /** Bottom first; may be empty. Committed uppers are for drivers whose snapshots can be {@link SnapshotKeeper.seal}ed. */
  stack: readonly Lower[];
  /** As the topmost layer that lists its root has them. */
  root: RootAttributes;
  readOnly: boolean;
  /** Bytes the upper may hold; null without a limit. */
  sizeLimit: number | null;
  /** The upper need not survive a crash. */
  volatile: boolean;
}

/** What the conformance suite may expect of a driver; tests read it, never the driver's name. */
export interface DriverProperties {
  /** A stored layer serves every chain it lies in (but for inherited directories). */
  positionIndependent: boolean;
  /** Containers on one image share its pages in memory. */
  sharedPageCache: boolean;
  /** `sizeLimit` is enforced. */
  sizeLimit: boolean;
  /**
   * A read-only snapshot cannot be written, not even by root; false where nothing can be mounted, and permissions must do.
   * What is told of it and exported is its image in any case.
   */
  readOnlyViews: boolean;
  /** `mounts()` answers instructions that another program can carry out. */
  mountInstructions: boolean;
  /** A directory of a lower layer can be renamed in a snapshot. */
  renamesLowerDirectories: boolean;
  /** Hard links between files of one lower layer survive the copy-up of one name. */
  hardLinksSurviveCopyUp: boolean;
  /**
   * An ACL can be set on a file that comes from a layer. Where layers lie on a read-only file system, overlay takes one
   * only once something else has copied the file up.
   */
  setsAclsOnLayerFiles: boolean;
  /** Every attribute is on disk; false where Node alone keeps some in the catalog only. */
  fullFidelity: boolean;
  /** Deepest stack it serves. */
  maxDepth: number;
}

/** Something `verify` found; the store turns it into a Problem that names images and containers. */
export interface LayerFault {
  code: 'LAYER_MISSING' | 'LAYER_CORRUPT' | 'CATALOG_CORRUPT' | 'INDEX_CORRUPT';
  /** The file of the layer, shown for people; '' for the whole. */
  path: string;
  message: string;
  /** The driver can make it good from what is intact (an index from its tar). */
  repairable: boolean;
}

/** One driver's layers. */
export interface LayerKeeper {
  /**
   * Starts a stored layer in `l/DIR`, which must not exist. The bytes then go through content/ingest, which drives the
   * sink. Throws NO_SPACE, NAME_UNSUPPORTED, LAYER_LIMIT.
   */
  begin(dir: string): LayerSink;
  /**
   * Gives the directories that the layer's tar implies without listing them the attributes they have below. Called
   * once, before the first chain uses the stored layer. Durable when it returns.
   */
  inherit(layer: StoredLayer, directories: readonly InheritedDirectory[]): Promise<void>;
  /** The uncompressed tar, bit for bit. Throws LAYER_DAMAGED where it cannot be told any more. */
  tar(layer: StoredLayer): ByteSource;
  /**
   * The directory that overlay takes as a lower for this layer; mounts what must be mounted first (idempotent). A path
   * inside the layer, so that a layer that is not there gives ENOENT. Null where the driver has none.
   */
  lower(layer: StoredLayer): string | null;
  /** Takes back what keeps `l/DIR` from being renamed and unlinked. Idempotent; MOUNT_BUSY names the holder. */
  release(layer: StoredLayer): void;
  /** Gives back memory in which what was read of the layer lies a second time. Costs nothing but that memory. */
  settle?(layer: StoredLayer): void;
  /** Whether the layer's own files are there: a few calls, for a start with thousands of layers. */
  looksWhole(layer: StoredLayer): boolean;
  /** Re-reads every byte and compares with the catalog and the diff ID. `quick`: presence and sizes only. */
  verify(layer: StoredLayer, options: { quick: boolean }): Promise<LayerFault[]>;
  /** Makes good what `verify` called repairable; returns the faults that remain. */
  repair(layer: StoredLayer): Promise<LayerFault[]>;
}

/** Finds the keeper of a stored layer: stacks may hold layers of several drivers. */
export type KeeperOf = (layer: StoredLayer) => LayerKeeper;

/** One driver's snapshots. */
export interface SnapshotKeeper {
  /** Makes `s/DIR` for the snapshot; durable when it returns. */
  create(spec: SnapshotSpec): Promise<void>;
  /** Whether `create` would take time with the size of the image now: its chain's tree is not there, files are copied. */
  takesLong?(spec: SnapshotSpec): boolean;
  /**
   * Makes `s/DIR` for each of `dirs`, all durable when it returns, for snapshots to come that differ from `spec` in nothing
   * but their directory. Only where that is what `create` does.
   */
  createAhead?(spec: SnapshotSpec, dirs: readonly string[]): Promise<void>;
  /** The mount instructions of the snapshot; the same answer every time. Makes sure that the lowers are there. */
  instructions(spec: SnapshotSpec): MountInstruction[];
  /** Mounts the merged root at `m/DIR` (idempotent) and returns the path of the root. */
  mount(spec: SnapshotSpec): string;
  /** Unmounts `m/DIR` (idempotent). MOUNT_BUSY names who holds it, unless `force` detaches it. */
  unmount(spec: SnapshotSpec, options: { force: boolean }): void;
  /** What the snapshot changed against its stack, in byte order of the paths. */
  changes(spec: SnapshotSpec): AsyncIterable<Change>;
  /** The same in some milliseconds, where there are at most `most`; else null. Only where that takes no longer with a larger image. */
  fewChanges?(spec: SnapshotSpec, most: number): Change[] | null;
  /** The same as a layer tar with whiteouts; ends with the end-of-archive blocks. An empty diff is 1,024 zero bytes. */
  diff(spec: SnapshotSpec): ByteSource;
  /** The merged root as one tar, mounted or not. */
  root(spec: SnapshotSpec): ByteSource;
  /**
   * The upper is to be a lower, as it lies there: says what a stack needs to know of it. `sync`: what was written is durable
   * when this returns. `root`: for an upper that was made as if upon nothing and comes to lie on a stack whose root has
   * these attributes; where it was left as it was made, it takes them. Only where a snapshot is an upper over lowers.
   */
  seal?(spec: SnapshotSpec, options: { sync: boolean; root: RootAttributes | null }): SealedUpper;
  /** Whether anything in a sealed upper was changed after that moment (microseconds since the epoch). */
  changedSince?(spec: SnapshotSpec, micros: number): boolean;
  /** Bytes (allocated) and inodes of what the snapshot holds for itself. */
  usage(spec: SnapshotSpec): Usage;
  /** Takes back what keeps `s/DIR` from being renamed and unlinked: mounts. Idempotent. */
  release(spec: SnapshotSpec, options: { force: boolean }): void;
}

/** What {@link SnapshotKeeper.seal} says of an upper. */
export interface SealedUpper {
  root: RootAttributes;
  opaqueRoot: boolean;
}

/** Drivers whose snapshots need a tree of the whole chain keep it as a cache below `t/`. */
export interface TreeKeeper {
  /** Makes (or finds) the tree of this stack; returns the directory's name below `t/`. */
  ensure(stack: readonly StoredLayer[]): Promise<string>;
  /** Names below `t/` that the given stacks need; everything else there may go. */
  names(stacks: readonly (readonly Lower[])[]): Set<string>;
  /** Takes back what keeps `t/NAME` from being renamed and unlinked: mounts. Idempotent; no snapshot needs it any more. */
  release(name: string): void;
}

export interface Driver {
  readonly name: DriverName;
  readonly properties: DriverProperties;
  readonly layers: LayerKeeper;
  readonly snapshots: SnapshotKeeper;
  readonly trees: TreeKeeper | null;
}

/** What a driver is made from. */
export interface DriverContext {
  places: Places;
  keeperOf: KeeperOf;
  options: DriverOptions;
}

/** What a probe found out on this machine, for this root. */
export interface ProbeResult {
  available: boolean;
  /** In plain words: what was tried and what came of it. */
  reason: string;
}

/** One entry of the explicit list in drivers/index.ts. */
export interface DriverModule {
  readonly name: DriverName;
  /** `auto` may choose it; others are there for those who ask for them. */
  readonly auto: boolean;
  /** Its layers are directories that overlay takes as lowers, and its snapshots need such; else it makes trees of any layers. */
  readonly overlays: boolean;
  /** A layer is its tar, whose bytes other threads write: one worker can take in several layers at a time. */
  readonly keepsTars: boolean;
  /**
   * Really tries (a mount of a tiny layer) in a directory below `s/`; leaves nothing behind. What a crash leaves there has
   * no row, like any half-made snapshot.
   */
  probe(places: Places, options: DriverOptions): ProbeResult;
  create(context: DriverContext): Driver;
}

/** The layers of a stack. Throws DRIVER_UNSUPPORTED where committed uppers are among them. */
export function onlyLayers(stack: readonly Lower[]): StoredLayer[] {
  return stack.map((lower) => {
    if (lower.driver !== 'upper') return lower;
    throw new LayerdError(
      'DRIVER_UNSUPPORTED',
      'this driver makes trees of layers, and a committed upper is none yet',
      {
        details: { upper: lower.dir },
        hint: 'Wait until it is a layer, or use overlay2 or erofs.',
      },
    );
  });
}

/** A path of a layer, resolved by content/: no leading slash, no `.` or `..`, no symbolic link on the way. */
export type LayerPath = ByteString;
