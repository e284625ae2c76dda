import { closeSync, existsSync, openSync, rmdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Drivers } from '../../drivers/index.js';
import { DRIVERS } from '../../drivers/index.js';
import type { Lower, StoredLayer } from '../../drivers/driver.js';
import { bytesOf } from '../core/bytes.js';
import type { Digest } from '../core/digest.js';
import { isErrno, LayerdError } from '../core/errors.js';
import type { Places } from '../core/places.js';
import type { DriverName } from '../core/words.js';
import {
  measureAll,
  measureFrame,
  mountedBelow,
  mountPointsOf,
  namesIn,
  scanStore,
  type StoreNames,
} from '../disk/scan.js';
import { countedTwice } from '../disk/shared.js';
import { emptyTrash, moveToTrash, setAside, type Emptied, type TrashList } from '../disk/trash.js';
import type { Measure } from '../disk/usage.js';
import { AT_FDCWD, RENAME, renameat } from '../linux/files.js';
import { linuxAvailable } from '../linux/libc.js';
import { detach } from '../linux/mount-point.js';
import { dirtyBytes, syncfs } from '../linux/sync.js';
import { partsOfMounts } from '../linux/mountinfo.js';
import type { JobContext } from './job.js';

/** Between two looks at how much is dirty. */
const WRITE_BEHIND_MS = 20;

/** A layer that lost its row. */
export interface CollectedLayer {
  diffId: Digest;
  dir: string;
  driver: DriverName;
  bytes: number;
}

/** Calls on the directories of the store as such. */
export function diskJobs(drivers: Drivers, places: Places) {
  return {
    'trash.move': async (args: TrashList): Promise<void> => {
      for (const tree of args.trees) for (const { name } of DRIVERS) drivers(name).trees?.release(tree);
      moveToTrash(places, args);
    },

    'store.setAside': async (args: TrashList): Promise<void> => setAside(places, args),

    'trash.empty': async (args: { entries: number }, context: JobContext): Promise<Emptied> =>
      emptyTrash(places, args.entries, context.signal),

    /** Unmounts what layers without a row still have mounted; `pinned`: bytes of those that are mounted elsewhere. */
    'trash.layers': async ({ layers }: { layers: CollectedLayer[] }): Promise<{ pinned: number }> => {
      for (const { driver, dir, diffId } of layers) {
        try {
          drivers(driver).layers.release({ driver, dir, diffId, size: 0, opaqueRoot: false });
        } catch (thrown) {
          if (!(thrown instanceof LayerdError) || thrown.code !== 'MOUNT_BUSY') throw thrown;
        }
      }
      if (!linuxAvailable().available) return { pinned: 0 };
      const part = (layer: CollectedLayer): string => `/l/${layer.dir}`;
      const mounted = partsOfMounts(layers.map(part));
      return { pinned: layers.reduce((sum, layer) => sum + (mounted.has(part(layer)) ? layer.bytes : 0), 0) };
    },

    /** Names below t/, half-made ones (`NAME.…`) among them. */
    'trees.there': async (): Promise<string[]> => namesIn(places.trees),

    /** Which of them each stack needs. */
    'trees.names': async (args: { stacks: { driver: DriverName; stack: readonly Lower[] }[] }): Promise<string[][]> =>
      args.stacks.map(({ driver, stack }) => [...(drivers(driver).trees?.names([stack]) ?? [])]),
    /** Puts a whole copy in the place of a damaged one, in one step; a mount of the damaged one is let go. */
    'layer.exchange': async (args: { fresh: StoredLayer; damaged: StoredLayer }): Promise<void> => {
      const [fresh, damaged] = [places.layer(args.fresh.dir), places.layer(args.damaged.dir)];
      if (!existsSync(damaged)) {
        renameat(AT_FDCWD, bytesOf(fresh), AT_FDCWD, bytesOf(damaged), RENAME.noReplace);
        return;
      }
      renameat(AT_FDCWD, bytesOf(fresh), AT_FDCWD, bytesOf(damaged), RENAME.exchange);
      drivers(args.damaged.driver).layers.release(args.damaged);
    },

    /** Writes out what is dirty again and again, until the signal. */
    'store.writeBehind': async (args: { limit: number }, context: JobContext): Promise<void> => {
      const fd = openSync(places.snapshots, 'r');
      try {
        while (!context.signal.aborted) {
          if (dirtyBytes() > args.limit) syncfs(fd);
          await sleep(WRITE_BEHIND_MS);
        }
      } finally {
        closeSync(fd);
      }
    },

    'store.scan': async (): Promise<StoreNames> => scanStore(places),

    'store.measure': async (args: { paths: string[] }): Promise<(Measure | null)[]> => measureAll(args.paths),

    'store.shared': async (): Promise<number | null> => countedTwice([places.trees, places.snapshots]),

    'store.frame': async (): Promise<Measure> => measureFrame(places),

    /** Removes mount points below the run directory on which nothing is mounted: mounting makes its own. */
    'mounts.tidy': async (): Promise<void> => {
      const mounted = mountedBelow(places);
      for (const path of mountPointsOf(places)) if (!mounted.has(path)) removeEmpty(path);
    },

    /** Lets go of mounts below the run directory that no row accounts for. */
    'mounts.detach': async (args: { paths: string[] }): Promise<void> => {
      for (const path of args.paths) detach(path);
    },
  };
}

/** What is in use, or holds something, stays. */
function removeEmpty(path: string): void {
  try {
    rmdirSync(path);
  } catch (thrown) {
    if (!isErrno(thrown, 'EBUSY', 'ENOTEMPTY', 'ENOENT', 'ENOTDIR')) throw thrown;
  }
}
