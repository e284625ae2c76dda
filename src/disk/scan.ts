/** What lies in the store's directories, by name: recovery, check and df hold it against the rows. */
import { readdirSync, statSync } from 'node:fs';
import { toBuffer } from '../core/bytes.js';
import { isErrno } from '../core/errors.js';
import type { Places } from '../core/places.js';
import { linuxAvailable } from '../linux/libc.js';
import { mountsBelow } from '../linux/mountinfo.js';
import { measureTree, type Measure } from './usage.js';

export interface StoreNames {
  layers: string[];
  snapshots: string[];
  trees: string[];
  blobs: string[];
  images: string[];
  trash: string[];
  /** Anything else directly below the root. */
  others: string[];
  /** What is mounted below the run directory. */
  mounted: string[];
}

const KNOWN = new Set(['lock', 'db', 'l', 's', 't', 'b', 'i', 'e', 'trash', 'lost']);

export function scanStore(places: Places): StoreNames {
  return {
    layers: namesIn(places.layers),
    snapshots: namesIn(places.snapshots),
    trees: namesIn(places.trees),
    blobs: namesIn(places.blobs),
    images: namesIn(places.images),
    trash: namesIn(places.trash),
    others: namesIn(places.root).filter((name) => !KNOWN.has(name)),
    mounted: [...mountedBelow(places)],
  };
}

/** What is mounted below the run directory. */
export function mountedBelow(places: Places): Set<string> {
  const mounts = linuxAvailable().available ? mountsBelow(places.run) : [];
  return new Set(mounts.map((mount) => toBuffer(mount.mountPoint).toString('utf8')));
}

/** Mount points of layers and of snapshots, mounted or not. */
export function mountPointsOf(places: Places): string[] {
  return [
    ...namesIn(places.layerMounts).map((name) => places.layerMount(name)),
    ...namesIn(places.merged).map((name) => places.mergedRoot(name)),
  ];
}

/** Measures what lies at these paths, each by itself; null for what is not there. */
export function measureAll(paths: readonly string[]): (Measure | null)[] {
  return paths.map((path) => {
    try {
      if (statSync(path).isDirectory()) return measureTree(path);
      return { disk: statSync(path).blocks * 512, inodes: 1 };
    } catch (thrown) {
      if (isErrno(thrown, 'ENOENT')) return null;
      throw thrown;
    }
  });
}

/** Allocated bytes of the directories that hold the named things, and of the root itself. */
export function measureFrame(places: Places): Measure {
  const total: Measure = { disk: 0, inodes: 0 };
  const frame = [
    places.root,
    places.layers,
    places.snapshots,
    places.trees,
    places.blobs,
    places.trash,
    places.empty,
    places.lock,
  ];
  for (const path of frame) {
    try {
      total.disk += statSync(path).blocks * 512;
      total.inodes += 1;
    } catch (thrown) {
      if (!isErrno(thrown, 'ENOENT')) throw thrown;
    }
  }
  return total;
}

/** None where there is no such directory. */
export function namesIn(path: string): string[] {
  try {
    return readdirSync(path);
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return [];
    throw thrown;
  }
}
