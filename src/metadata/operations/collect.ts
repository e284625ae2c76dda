/**
 * Garbage collection by candidates. Triggers note what lost a reference and since when; a pass looks at these only, so
 * its cost follows the garbage and not the store. A candidate that is referenced again is forgotten; one that is not
 * and has waited for the grace period goes, and what it referred to becomes a candidate since the same moment, so that
 * a whole chain goes in one pass.
 */
import { candidateClock } from '../database.js';
import type { Digest } from '../../core/digest.js';
import type { DriverName } from '../../core/words.js';
import { trimBuildCache, type BuildCacheLimits } from './build-cache.js';
import type { ImageRow, KeptBlobRow, LayerRow, LeaseRow, PartialRow, StoredLayerRow } from '../rows.js';
import { deleteImage } from './images.js';
import type { Transaction } from './transaction.js';

export interface CollectArgs {
  graceMs: number;
  /** Say what would go, change nothing. */
  dryRun: boolean;
  buildCache: BuildCacheLimits;
}

export interface Collected {
  buildCache: { id: string; why: string }[];
  leases: string[];
  images: Digest[];
  blobs: { digest: Digest; file: string; bytes: number }[];
  /** Beginnings of blobs that no lease holds any more. */
  partials: Digest[];
  layers: { diffId: Digest; dir: string; bytes: number; driver: DriverName; why: string }[];
  /** Committed uppers. */
  uppers: { dir: string; bytes: number }[];
}

interface Candidate {
  kind: 'image' | 'chain' | 'stack' | 'layer' | 'upper' | 'blob' | 'partial';
  item: number;
  since: number;
}

class DryRun extends Error {
  readonly collected: Collected;
  constructor(collected: Collected) {
    super('dry run');
    this.collected = collected;
  }
}

/** Deletes the rows of what nothing references; the directories of `layers` and the files of `blobs` are garbage from then on. */
export function collect(tx: Transaction, args: CollectArgs): Collected {
  if (!args.dryRun) return collectRows(tx, args);
  try {
    tx.sql.db.transaction(() => {
      throw new DryRun(collectRows(tx, args));
    })();
  } catch (thrown) {
    if (thrown instanceof DryRun) return thrown.collected;
    throw thrown;
  }
  throw new Error('unreachable: a dry run always rolls back');
}

function collectRows(tx: Transaction, { graceMs, buildCache }: CollectArgs): Collected {
  const collected: Collected = {
    buildCache: trimBuildCache(tx, buildCache),
    leases: [],
    images: [],
    blobs: [],
    partials: [],
    layers: [],
    uppers: [],
  };
  for (const lease of tx.sql.all<LeaseRow>('SELECT * FROM lease WHERE expires <= ?', tx.now)) {
    tx.sql.run('DELETE FROM lease WHERE id = ?', lease.id);
    collected.leases.push(lease.id);
  }
  const limit = tx.now - graceMs;
  try {
    for (;;) {
      const candidates = tx.sql.all<Candidate>('SELECT * FROM candidate WHERE since <= ? ORDER BY since', limit);
      if (candidates.length === 0) return collected;
      for (const candidate of candidates) {
        tx.sql.run('DELETE FROM candidate WHERE kind = ? AND item = ?', candidate.kind, candidate.item);
        candidateClock.since = candidate.since;
        SWEEP[candidate.kind](tx, candidate.item, collected);
      }
    }
  } finally {
    candidateClock.since = tx.now;
  }
}

const SWEEP: Record<Candidate['kind'], (tx: Transaction, id: number, collected: Collected) => void> = {
  image: (tx, id, collected) => {
    const image = tx.sql.get<ImageRow>(
      `SELECT * FROM image WHERE id = ?
       AND NOT EXISTS (SELECT 1 FROM ref WHERE image_id = image.id)
       AND NOT EXISTS (SELECT 1 FROM container WHERE image_id = image.id)
       AND NOT EXISTS (SELECT 1 FROM lease_image WHERE image_id = image.id)`,
      id,
    );
    if (image === undefined) return;
    deleteImage(tx, image);
    collected.images.push(image.image_id);
  },
  chain: (tx, id) => {
    tx.sql.run(
      `DELETE FROM chain WHERE id = ?
       AND NOT EXISTS (SELECT 1 FROM chain AS child WHERE child.parent_id = chain.id)
       AND NOT EXISTS (SELECT 1 FROM image WHERE image.chain_id = chain.id)
       AND NOT EXISTS (SELECT 1 FROM snapshot WHERE snapshot.chain_id = chain.id)
       AND NOT EXISTS (SELECT 1 FROM lease_layer WHERE lease_layer.layer_id = chain.layer_id)`,
      id,
    );
  },
  stack: (tx, id) => {
    tx.sql.run(
      `DELETE FROM stack WHERE id = ?
       AND NOT EXISTS (SELECT 1 FROM stack AS child WHERE child.parent_id = stack.id)
       AND NOT EXISTS (SELECT 1 FROM chain WHERE chain.stack_id = stack.id)
       AND NOT EXISTS (SELECT 1 FROM snapshot WHERE snapshot.stack_id = stack.id)`,
      id,
    );
  },
  layer: sweepLayer,
  blob: (tx, id, collected) => {
    const blob = tx.sql.get<KeptBlobRow>(
      `SELECT * FROM blob WHERE id = ? AND file IS NOT NULL
       AND NOT EXISTS (SELECT 1 FROM image_blob WHERE image_blob.digest = blob.digest)
       AND NOT EXISTS (SELECT 1 FROM lease_layer WHERE lease_layer.layer_id = blob.layer_id)`,
      id,
    );
    if (blob === undefined) return;
    tx.sql.run('UPDATE blob SET file = NULL, disk = 0 WHERE id = ?', id);
    collected.blobs.push(collectedBlob(blob));
  },
  partial: (tx, id, collected) => {
    const partial = tx.sql.get<PartialRow>('SELECT * FROM partial WHERE id = ? AND lease_id IS NULL', id);
    if (partial === undefined) return;
    tx.sql.run('DELETE FROM partial WHERE id = ?', id);
    collected.partials.push(partial.digest);
  },
  upper: (tx, id, collected) => {
    const [upper] = tx.sql.all<{ dir: string; disk: number }>(
      `DELETE FROM stored_layer WHERE id = ? AND layer_id IS NULL
       AND NOT EXISTS (SELECT 1 FROM stack WHERE stored_layer_id = stored_layer.id) RETURNING dir, disk`,
      id,
    );
    if (upper !== undefined) collected.uppers.push({ dir: upper.dir, bytes: upper.disk });
  },
};

/** Copies that no stack uses go: all of them with the layer, or those that another copy makes superfluous. */
function sweepLayer(tx: Transaction, id: number, collected: Collected): void {
  const layer = tx.sql.get<LayerRow>('SELECT * FROM layer WHERE id = ?', id);
  if (layer === undefined) return;
  const copies = tx.sql.all<StoredLayerRow & { used: number }>(
    `SELECT *, EXISTS (SELECT 1 FROM stack WHERE stored_layer_id = stored_layer.id) AS used
     FROM stored_layer WHERE layer_id = ? ORDER BY damaged, used DESC, id DESC`,
    id,
  );
  // What a lease holds is being put together: a copy that nothing uses yet may be the one that a chain is about to use.
  if (tx.sql.get('SELECT 1 FROM lease_layer WHERE layer_id = ?', id) !== undefined) return;
  const needed = tx.sql.get<{ needed: number }>(
    `SELECT EXISTS (SELECT 1 FROM chain WHERE chain.layer_id = layer.id)
         OR EXISTS (SELECT 1 FROM image_layer WHERE image_layer.layer_id = layer.id)
         OR EXISTS (SELECT 1 FROM snapshot WHERE snapshot.layer_id = layer.id)
         OR EXISTS (SELECT 1 FROM build_cache WHERE build_cache.layer_id = layer.id) AS needed
     FROM layer WHERE id = ?`,
    id,
  );
  const keepOne = needed?.needed === 1;
  for (const [position, copy] of copies.entries()) {
    if (copy.used === 1 || (keepOne && position === 0)) continue;
    tx.sql.run('DELETE FROM stored_layer WHERE id = ?', copy.id);
    collected.layers.push({
      diffId: layer.diff_id,
      dir: copy.dir,
      bytes: copy.disk,
      driver: copy.driver,
      why: keepOne ? 'another copy serves the layer' : 'no image, container or lease needs it',
    });
  }
  if (keepOne || copies.some((copy) => copy.used === 1)) return;
  const blobs = tx.sql.all<KeptBlobRow>('SELECT * FROM blob WHERE layer_id = ? AND file IS NOT NULL', id);
  collected.blobs.push(...blobs.map(collectedBlob));
  tx.sql.run('DELETE FROM layer WHERE id = ?', id);
  tx.event('layer.delete', layer.diff_id, { size: layer.size });
}

function collectedBlob({ digest, file, disk }: KeptBlobRow): Collected['blobs'][number] {
  return { digest, file, bytes: disk };
}
