import { chainId, type Digest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import type { BuildCacheEntry, BuildCacheKey } from '../../core/words.js';
import type { BuildCacheRow, LayerRow } from '../rows.js';
import type { Transaction } from './transaction.js';

/** What the cache may keep: entries that were not asked for so long go, and the oldest above so many bytes. */
export interface BuildCacheLimits {
  maxAgeMs: number;
  /** Of layers that no image has. */
  maxBytes: number;
}

/** The query of every entry with its layer. */
export const BUILD_CACHE = `
  SELECT build_cache.*, layer.diff_id, coalesce((SELECT max(disk) FROM stored_layer WHERE layer_id = layer.id), 0) AS disk,
         EXISTS (SELECT 1 FROM image_layer WHERE image_layer.layer_id = layer.id) AS in_image
  FROM build_cache LEFT JOIN layer ON layer.id = build_cache.layer_id`;

/** Binds a step of a build to the layer it made, in place of what it was bound to before. */
export function bindBuildCache(tx: Transaction, step: BuildCacheKey & { layer: Digest | null }): BuildCacheEntry {
  const layerId = step.layer === null ? null : requireLayer(tx, step.layer);
  tx.sql.run(
    `INSERT INTO build_cache (parent, instruction, inputs, layer_id, created, used) VALUES (?, ?, ?, ?, ?, ?)
     ON CONFLICT (parent, instruction, inputs)
     DO UPDATE SET layer_id = excluded.layer_id, created = excluded.created, used = excluded.used`,
    ...columnsOf(step),
    layerId,
    tx.now,
    tx.now,
  );
  const entry = find(tx, step);
  if (entry === null) throw new LayerdError('INTERNAL', 'an entry of the build cache vanished as it was made');
  return entry;
}

/** The entry of a step whose layer is here whole; null otherwise. It counts as used now. */
export function useBuildCache(tx: Transaction, step: BuildCacheKey): BuildCacheEntry | null {
  const used = tx.sql.run(
    `UPDATE build_cache SET used = ? WHERE parent = ? AND instruction = ? AND inputs = ?
     AND (layer_id IS NULL
          OR EXISTS (SELECT 1 FROM stored_layer WHERE stored_layer.layer_id = build_cache.layer_id AND damaged = 0))`,
    tx.now,
    ...columnsOf(step),
  );
  return used === 0 ? null : find(tx, step);
}

/** Forgets entries, or all of them; returns their ids. */
export function removeBuildCache(tx: Transaction, args: { ids: readonly number[] | null }): number[] {
  const all = tx.sql.all<{ id: number }>('SELECT id FROM build_cache').map(({ id }) => id);
  const going = all.filter((id) => args.ids === null || args.ids.includes(id));
  for (const id of going) remove(tx, id);
  return going;
}

/** Forgets what the limits do not allow; says what and why. Goes through the whole cache, which is small. */
export function trimBuildCache(tx: Transaction, limits: BuildCacheLimits): { id: string; why: string }[] {
  const gone: { id: string; why: string }[] = [];
  const drop = (id: number, why: string): void => {
    remove(tx, id);
    gone.push({ id: String(id), why });
  };
  const kept = new Set<number>();
  let bytes = 0;
  for (const row of tx.sql.all<BuildCacheRow>(`${BUILD_CACHE} ORDER BY used DESC, build_cache.id DESC`)) {
    if (row.used <= tx.now - limits.maxAgeMs) {
      drop(row.id, 'no build has asked for it for long');
      continue;
    }
    if (row.layer_id === null || row.in_image === 1 || kept.has(row.layer_id)) continue;
    if (bytes + row.disk > limits.maxBytes) {
      drop(row.id, 'the build cache is full, and others were used later');
      continue;
    }
    kept.add(row.layer_id);
    bytes += row.disk;
  }
  return gone;
}

/** A row as the engine answers it. */
export function buildCacheEntry(row: BuildCacheRow): BuildCacheEntry {
  const parent = row.parent === '' ? null : row.parent;
  return {
    id: row.id,
    parent,
    instruction: row.instruction,
    inputs: row.inputs,
    diffId: row.diff_id,
    chainId: row.diff_id === null ? parent : chainId(parent, row.diff_id),
    disk: row.disk,
    created: row.created,
    used: row.used,
  };
}

function find(tx: Transaction, step: BuildCacheKey): BuildCacheEntry | null {
  const row = tx.sql.get<BuildCacheRow>(
    `${BUILD_CACHE} WHERE parent = ? AND instruction = ? AND inputs = ?`,
    ...columnsOf(step),
  );
  return row === undefined ? null : buildCacheEntry(row);
}

function remove(tx: Transaction, id: number): void {
  tx.sql.run('DELETE FROM build_cache WHERE id = ?', id);
}

function columnsOf({ parent, instruction, inputs }: BuildCacheKey): [string, string, string] {
  return [parent ?? '', instruction, inputs];
}

function requireLayer(tx: Transaction, diffId: Digest): number {
  const layer = tx.sql.get<LayerRow>('SELECT * FROM layer WHERE diff_id = ?', diffId);
  if (layer !== undefined) return layer.id;
  throw new LayerdError('LAYER_NOT_FOUND', `no layer here has the diff ID ${diffId}`, {
    details: { diffId },
    hint: 'Commit or load the layer first, and hold it by a lease until it is bound.',
  });
}
