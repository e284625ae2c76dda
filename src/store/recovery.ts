/**
 * What a start does before anybody is served: database, disk and mount table are brought together, in both directions.
 * Nothing here is needed after an orderly stop; after a crash it is what makes the laws of the store true again.
 */
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
  /** Layers with a row whose files are gone: loading them again heals them. */
  damaged: string[];
}

export async function recover(context: StoreContext): Promise<RecoveryReport> {
  const { pool, writer, places, boot } = context;
  const leases = await writer.run('removeInternalLeases', null);
  const { strays, mounts, idle, lost } = await disagreements(context);
  for (const { id } of lost) await writer.run('countMount', { id, boot, change: 'none' });
  // Mounts first: nothing may be trashed under them.
  await pool.run('unmount', 'mounts.detach', { paths: [...mounts, ...idle] });
  await pool.run('short', 'trash.move', strays);
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
  const damaged: string[] = [];
  for (const row of reader.allStoredLayers()) {
    const faults = await pool.run('short', 'layer.verify', { layer: storedLayer(row), quick: true });
    if (faults.length === 0) continue;
    damaged.push(row.diff_id);
    if (row.damaged === 0) await writer.run('markDamaged', { dir: row.dir, damaged: true });
  }
  return damaged;
}
