/**
 * What a start does before anybody is served: database, disk and mount table are brought together, in both directions, by
 * names alone, so that it takes a moment in a large store, too. What asks for a look into every layer or image goes on while
 * it serves. Nothing here is needed after an orderly stop; after a crash it is what makes the laws of the store true again.
 */
import { rm } from 'node:fs/promises';
import type { Digest } from '../core/digest.js';
import type { StackedRow } from '../metadata/rows.js';
import { backupFile } from './backups.js';
import { storedLayer, type StoreContext } from './context.js';
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
}

/** Layers that one job looks at: what a client waits for comes between. */
const LOOK_AT = 50;

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
  return {
    strays: strayPaths(places, strays),
    mounts,
    unmounted: lost.map((row) => row.id),
    leases,
  };
}

/**
 * A quick look at every stored layer: what is not whole is marked, so that loading it again heals it, and its diff ID
 * returned. Ends early by the signal. What is used meanwhile is looked at where it is used.
 */
export async function damagedLayers(context: StoreContext, signal: AbortSignal): Promise<Digest[]> {
  const damaged: Digest[] = [];
  let rows: StackedRow[] = [];
  for (const row of context.reader.allStoredLayers()) {
    rows.push(row);
    if (rows.length < LOOK_AT) continue;
    damaged.push(...(await damagedOf(context, rows)));
    if (signal.aborted) return damaged;
    rows = [];
  }
  return damaged.concat(await damagedOf(context, rows));
}

async function damagedOf({ pool, reader, writer }: StoreContext, rows: readonly StackedRow[]): Promise<Digest[]> {
  if (rows.length === 0) return [];
  const whole = await pool.run('short', 'layers.look', { layers: rows.map(storedLayer) });
  // it may have been collected meanwhile: then nothing is missing
  const damaged = rows.filter(({ dir }, index) => whole[index] === false && reader.storedLayerByDir(dir) !== undefined);
  for (const { dir } of damaged.filter((row) => row.damaged === 0)) {
    await writer.run('markDamaged', { dir, damaged: true });
  }
  return damaged.map((row) => row.diff_id);
}
