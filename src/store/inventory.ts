/** Where database, disk and mount table disagree. Recovery puts it right; check tells it. */
import type { TrashList } from '../disk/trash.js';
import { digestFromHex } from '../core/digest.js';
import type { Places } from '../core/places.js';
import type { ContainerWithSnapshot } from '../metadata/reader.js';
import type { LiveSnapshotRow, UpperRow } from '../metadata/rows.js';
import type { StoreContext } from './context.js';
import { partialName } from './partials.js';

export interface Disagreements {
  /** On disk without a row, and nothing that is being made. */
  strays: Required<TrashList>;
  /** Names directly below the root that layerd makes nothing of. */
  others: string[];
  /** Snapshots with a row whose directory is gone. */
  missing: LiveSnapshotRow[];
  /** Committed uppers that are gone. */
  missingUppers: UpperRow[];
  /** Containers with mounts that are counted and not there. */
  lost: ContainerWithSnapshot[];
  /** Mounted below the run directory without a row that accounts for it, the innermost first. */
  mounts: string[];
  /** Layers that are mounted while no snapshot lies on them. */
  idle: string[];
}

/** Looks at the disk first and at the rows then: what is made or removed meanwhile may show, but nothing else. */
export async function disagreements(context: StoreContext): Promise<Disagreements> {
  const { pool, reader, places, staging, stock, boot } = context;
  const names = await pool.run('short', 'store.scan', undefined);
  const layers = reader.layerDirs();
  const live = reader.snapshots.liveDirs();
  const uppers = reader.snapshots.uppers();
  const upperDirs = new Set(uppers.map((row) => row.dir));
  const kept = reader.keptBlobs().map((row) => row.file);
  const blobs = new Set([...kept, ...reader.partials().map((row) => partialName(row.digest))]);
  const images = reader.imageIds();
  const there = new Set(names.snapshots);
  const mounted = new Set(names.mounted);
  const counted = reader.mountedContainers(boot);
  const merged = new Set(counted.map((row) => row.path));
  // doors count their mounts themselves
  const ofDoor = (path: string): boolean => {
    const row = reader.snapshots.byDir(dirOf(path));
    return row !== undefined && row.space !== 'native';
  };
  const layerMounts = names.mounted.filter((path) => isDirectlyBelow(path, places.layerMounts)).map(dirOf);
  const needed = layerMounts.length > 0 ? reader.layersUnderSnapshots() : new Set();
  return {
    strays: {
      layers: names.layers.filter((name) => !layers.has(name) && !staging.has(name)),
      snapshots: names.snapshots.filter(
        (name) => !live.has(name) && !upperDirs.has(name) && !staging.has(name) && !stock.has(name),
      ),
      // A tree whose name has an appendix is not finished. Trees that nobody needs are a cache, and no disagreement.
      trees: staging.size > 0 ? [] : names.trees.filter((name) => name.includes('.')),
      blobs: names.blobs.filter((name) => !blobs.has(name) && !staging.has(name)),
      images: names.images.filter((name) => !images.has(digestFromHex(name))),
    },
    others: names.others,
    missing: [...live].filter((dir) => !there.has(dir)).flatMap((dir) => reader.snapshots.byDir(dir) ?? []),
    missingUppers: uppers.filter((row) => !there.has(row.dir)),
    lost: counted.filter((row) => isMountPath(row.path, places) && !mounted.has(row.path)),
    mounts: [
      ...names.mounted.filter((path) => isDirectlyBelow(path, places.merged) && !merged.has(path) && !ofDoor(path)),
      ...layerMounts.filter((dir) => !layers.has(dir)).map((dir) => places.layerMount(dir)),
    ].toReversed(),
    idle: layerMounts.filter((dir) => layers.has(dir) && !needed.has(dir)).map((dir) => places.layerMount(dir)),
  };
}

/** What shows in both. */
export function agreed(one: Disagreements, other: Disagreements): Disagreements {
  return {
    strays: {
      layers: both(one.strays.layers, other.strays.layers),
      snapshots: both(one.strays.snapshots, other.strays.snapshots),
      trees: both(one.strays.trees, other.strays.trees),
      blobs: both(one.strays.blobs, other.strays.blobs),
      images: both(one.strays.images, other.strays.images),
    },
    others: both(one.others, other.others),
    missing: sameRows(one.missing, other.missing),
    missingUppers: sameRows(one.missingUppers, other.missingUppers),
    lost: sameRows(one.lost, other.lost),
    mounts: both(one.mounts, other.mounts),
    idle: both(one.idle, other.idle),
  };
}

/** Idle mounts are no disagreement: they save the next container a mount. */
export function isEmpty({ strays, others, missing, missingUppers, lost, mounts }: Disagreements): boolean {
  return [...Object.values(strays), others, missing, missingUppers, lost, mounts].every(
    (list: readonly unknown[]) => list.length === 0,
  );
}

/** The paths of strays, for people. */
export function strayPaths(places: Places, strays: TrashList): string[] {
  return [
    ...strays.layers.map((name) => places.layer(name)),
    ...strays.snapshots.map((name) => places.snapshot(name)),
    ...strays.trees.map((name) => places.tree(name)),
    ...strays.blobs.map((name) => places.blob(name)),
    ...(strays.images ?? []).map((name) => places.image(name)),
  ];
}

function both(left: readonly string[], right: readonly string[]): string[] {
  const names = new Set(right);
  return left.filter((name) => names.has(name));
}

function sameRows<Row extends { id: unknown }>(left: readonly Row[], right: readonly Row[]): Row[] {
  const ids = new Set(right.map(({ id }) => id));
  return left.filter(({ id }) => ids.has(id));
}

/** Not every driver mounts: a container may be a directory of its own. */
function isMountPath(path: string | null, places: Places): path is string {
  return path !== null && isDirectlyBelow(path, places.merged);
}

function isDirectlyBelow(path: string, parent: string): boolean {
  return path.startsWith(`${parent}/`) && !path.slice(parent.length + 1).includes('/');
}

function dirOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}
