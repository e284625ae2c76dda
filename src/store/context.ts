import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import type { Lower, RootAttributes, SnapshotSpec, StoredLayer } from '../../drivers/driver.js';
import type { Places } from '../core/places.js';
import type { DriverName } from '../core/words.js';
import type { MetadataReader } from '../metadata/reader.js';
import type { LiveSnapshotRow, LowerRow, StackedRow } from '../metadata/rows.js';
import type { MetadataWriter } from '../metadata/writer.js';
import type { SnapshotArgs } from '../workers/snapshot-jobs.js';
import type { WorkerPool } from '../workers/pool.js';

/** What every part of the store works with; owned by the engine. */
export interface StoreContext {
  places: Places;
  reader: MetadataReader;
  writer: MetadataWriter;
  pool: WorkerPool;
  log: Logger;
  /** The driver that new layers and snapshots get; a migration changes it. */
  driver: DriverName;
  /** Drivers whose layers overlay takes as lowers, and whose snapshots need such. */
  overlays: ReadonlySet<DriverName>;
  /** Drivers that keep tars: several of their layers come in on one thread. */
  keepingTars: ReadonlySet<DriverName>;
  keepBlobs: boolean;
  /** The kernel's boot id: mounts of an earlier boot are gone. */
  boot: string;
  /** Directories that are being made: on disk, without a row yet, and not garbage. */
  staging: Set<string>;
  /** Directories of snapshots that were made ahead. */
  stock: Set<string>;
  /** Names of directories and blobs that a failed operation may have left behind; see leftovers.ts. */
  leftovers: Set<string>;
  /** Ids of leases whose operations are over, and that could not be ended; see leftovers.ts. */
  overdue: Set<string>;
}

const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567';

/** A new name of 8 characters for a directory; 40 random bits, and rows have it unique. */
export function newDir(): string {
  return Array.from(randomBytes(8), (byte) => BASE32.charAt(byte & 31)).join('');
}

/** A stored layer as drivers know it. */
export function storedLayer(row: StackedRow): StoredLayer {
  return {
    driver: row.driver,
    dir: row.dir,
    diffId: row.diff_id,
    size: row.size,
    opaqueRoot: row.opaque_root === 1,
  };
}

function lowerOf(row: LowerRow): Lower {
  if (row.driver !== 'upper') return storedLayer(row);
  return { driver: 'upper', dir: row.dir, opaqueRoot: row.opaque_root === 1 };
}

const PLAIN_ROOT: RootAttributes = { mode: 0o755, uid: 0, gid: 0, mtime: { sec: 0, nsec: 0 } };

type Stack = Pick<SnapshotSpec, 'stack' | 'root'>;

/** Stacks never change, and their ids are never used again. */
const KNOWN_STACKS = 128;
const known = new WeakMap<MetadataReader, Map<number, Stack>>();

/** What a snapshot lies on: its stored layers, bottom first, and the attributes of its root. */
export function stackOf(reader: MetadataReader, stackId: number | null): Stack {
  if (stackId === null) return { stack: [], root: PLAIN_ROOT };
  const stacks = known.get(reader) ?? new Map<number, Stack>();
  known.set(reader, stacks);
  const stack = stacks.get(stackId) ?? readStack(reader, stackId);
  // the one that was used last is the last to go
  stacks.delete(stackId);
  stacks.set(stackId, stack);
  const [first] = stacks.keys();
  if (stacks.size > KNOWN_STACKS && first !== undefined) stacks.delete(first);
  return stack;
}

function readStack(reader: MetadataReader, stackId: number): Stack {
  const rows = reader.lowers(stackId);
  const listed = rows.findLast((row) => row.root !== null)?.root;
  const root = typeof listed === 'string' ? (JSON.parse(listed) as RootAttributes) : PLAIN_ROOT;
  return { stack: rows.map(lowerOf), root };
}

/**
 * The driver for a new snapshot on a stack: that of the store, unless it mounts layers and cannot mount one of these; then the
 * one that keeps it. Upon a committed upper it must be one that mounts.
 */
export function driverFor({ driver, overlays }: StoreContext, stack: readonly Lower[]): DriverName {
  if (overlays.has(driver)) {
    const layers = stack.filter((lower) => lower.driver !== 'upper');
    return layers.find((layer) => !overlays.has(layer.driver))?.driver ?? driver;
  }
  if (!stack.some((lower) => lower.driver === 'upper')) return driver;
  const [mounting] = overlays;
  return mounting ?? driver;
}

/** What a row says of a snapshot that has a directory. */
export type SnapshotPlace = Pick<
  LiveSnapshotRow,
  'dir' | 'driver' | 'stack_id' | 'read_only' | 'size_limit' | 'volatile'
>;

/** A snapshot with a directory (a container's, say) as its driver knows it. */
export function snapshotOf(reader: MetadataReader, row: SnapshotPlace): SnapshotArgs {
  const spec: SnapshotSpec = {
    dir: row.dir,
    ...stackOf(reader, row.stack_id),
    readOnly: row.read_only === 1,
    sizeLimit: row.size_limit,
    volatile: row.volatile === 1,
  };
  return { driver: row.driver, spec };
}
