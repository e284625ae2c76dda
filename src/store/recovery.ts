/**
 * What a start does before anybody is served: database, disk and mount table are brought together, in both directions.
 * Nothing here is needed after an orderly stop; after a crash it is what makes the laws of the store true again.
 */
import { storedLayer, type StoreContext } from './context.js';

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
  const { pool, reader, writer, places } = context;
  const names = await pool.run('short', 'store.scan', undefined);
  const layers = reader.allStoredLayers();
  const snapshots = reader.snapshots();
  const report: RecoveryReport = {
    strays: [],
    mounts: [],
    unmounted: [],
    leases: await writer.run('removeInternalLeases', null),
    damaged: [],
  };

  const layerDirs = new Set(layers.map((row) => row.dir));
  const snapshotDirs = new Set(snapshots.map((row) => row.dir));
  const neededLayers = reader.layersUnderSnapshots();

  // Mounts first: nothing may be trashed under them.
  const mounted = new Set(names.mounted);
  const heldMerged = new Set<string>();
  for (const container of reader.containers()) {
    const merged = places.mergedRoot(container.dir);
    const counted = container.boot === context.boot && container.mounts > 0;
    if (counted && mounted.has(merged)) heldMerged.add(merged);
    if (counted && !mounted.has(merged)) {
      await writer.run('countMount', { id: container.id, boot: context.boot, change: 'none' });
      report.unmounted.push(container.id);
    }
  }
  const layerMounts = new Set([...neededLayers].map((dir) => places.layerMount(dir)));
  for (const path of names.mounted.toReversed()) {
    const merged = path.startsWith(`${places.merged}/`) && !heldMerged.has(path) && isDirect(path, places.merged);
    const layer = isDirect(path, places.layerMounts) && !layerMounts.has(path);
    if (merged || layer) report.mounts.push(path);
  }
  await pool.run('unmount', 'mounts.detach', { paths: report.mounts });

  const strays = {
    layers: names.layers.filter((name) => !layerDirs.has(name)),
    snapshots: names.snapshots.filter((name) => !snapshotDirs.has(name)),
    trees: [],
    blobs: strayBlobs(context, names.blobs),
  };
  await pool.run('short', 'trash.move', strays);
  report.strays.push(
    ...strays.layers.map((name) => places.layer(name)),
    ...strays.snapshots.map((name) => places.snapshot(name)),
    ...strays.blobs.map((name) => places.blob(name)),
  );

  const there = new Set(names.layers);
  for (const row of layers) {
    const whole = there.has(row.dir);
    const faults = whole ? await pool.run('short', 'layer.verify', { layer: storedLayer(row), quick: true }) : null;
    const damaged = faults === null || faults.length > 0;
    if (damaged && row.damaged === 0) await writer.run('markDamaged', { dir: row.dir, damaged: true });
    if (damaged) report.damaged.push(row.diff_id);
  }
  return report;
}

function strayBlobs(context: StoreContext, names: readonly string[]): string[] {
  const kept = new Set(context.reader.keptBlobs().map((row) => row.digest.slice('sha256:'.length)));
  return names.filter((name) => !kept.has(name));
}

function isDirect(path: string, parent: string): boolean {
  return path.startsWith(`${parent}/`) && !path.slice(parent.length + 1).includes('/');
}
