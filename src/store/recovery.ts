/**
 * What a start does before anybody is served: database, disk and mount table are brought together, in both directions.
 * Nothing here is needed after an orderly stop; after a crash it is what makes the laws of the store true again.
 */
import { rm } from 'node:fs/promises';
import { backupFile } from './backups.js';
import { storedLayer, type StoreContext } from './context.js';
import { ImageFiles } from './image-files.js';
import { disagreements, strayPaths } from './inventory.js';

export interface RecoveryReport {
  /** Directories and files without a row, moved into the trash. */
  strays: string[];
  /** Mounts below the run directory that no row accounts for, let go. */
  mounts: string[];
  /** Containers whose mounts went with a reboot, or by another hand. */
  unmounted: string[];
  /** Leases of operations that died with the daemon. */
  leases: number;
  /** Layers with a row whose files are gone: loading them again heals them. */
  damaged: string[];
}

/** Layers that one job looks at: several threads share many, and a few are not worth the starting of a second. */
const LOOK_AT = 500;

export async function recover(context: StoreContext): Promise<RecoveryReport> {
  const { pool, writer, places, boot } = context;
  const leases = await writer.run('removeInternalLeases', null);
  const { strays, mounts, idle, lost } = await disagreements(context);
  for (const { id } of lost) await writer.run('countUnmount', { id, boot, all: true });
  // Mounts first: nothing may be trashed under them.
  const unneeded = [...mounts, ...idle];
  if (unneeded.length > 0) await pool.run('unmount', 'mounts.detach', { paths: unneeded });
  if (Object.values(strays).some((names: readonly string[]) => names.length > 0)) {
    await pool.run('short', 'trash.move', strays);
  }
  await pool.run('short', 'mounts.tidy', undefined);
  for (const suffix of ['', '-journal']) await rm(backupFile(places.database) + suffix, { force: true });
  await new ImageFiles(context).writeAll();
  return {
    strays: strayPaths(places, strays),
    mounts,
    unmounted: lost.map((row) => row.id),
    leases,
    damaged: await damagedLayers(context),
  };
}

/** A quick look at every stored layer; what is not whole is marked, and its diff ID returned. */
async function damagedLayers({ pool, reader, writer }: StoreContext): Promise<string[]> {
  const rows = reader.allStoredLayers();
  const looks: Promise<boolean[]>[] = [];
  for (let at = 0; at < rows.length; at += LOOK_AT) {
    looks.push(pool.run('short', 'layers.look', { layers: rows.slice(at, at + LOOK_AT).map(storedLayer) }));
  }
  const whole = (await Promise.all(looks)).flat();
  const damaged = rows.filter((_row, index) => whole[index] === false);
  for (const { dir } of damaged.filter((row) => row.damaged === 0)) {
    await writer.run('markDamaged', { dir, damaged: true });
  }
  return damaged.map((row) => row.diff_id);
}
