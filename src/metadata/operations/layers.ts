import type { Digest } from '../../core/digest.js';
import type { DriverName } from '../../core/words.js';
import { LayerdError } from '../../core/errors.js';
import type { LayerRow, StoredLayerRow } from '../rows.js';
import type { Transaction } from './transaction.js';

export interface NewStoredLayer {
  leaseId: string;
  diffId: Digest;
  size: number;
  entries: number;
  opaqueRoot: boolean;
  implied: boolean;
  driver: DriverName;
  dir: string;
  disk: number;
  inodes: number;
  blob: { digest: Digest; size: number; compression: string; kept: boolean; disk: number } | null;
}

/**
 * Makes a layer that is complete and durable in l/DIR known, under a lease. Where the driver has it already (another
 * load was faster) nothing is added, and `added` is false: the caller's directory is garbage.
 */
export function addStoredLayer(tx: Transaction, layer: NewStoredLayer): { layerId: number; added: boolean } {
  const layerId = layerOf(tx, layer);
  const inherited = layer.implied ? 'open' : '';
  const there = tx.sql.get<StoredLayerRow>(
    'SELECT * FROM stored_layer WHERE layer_id = ? AND driver = ? AND damaged = 0 AND (? = 0 OR inherited = ?)',
    layerId,
    layer.driver,
    layer.implied ? 1 : 0,
    inherited,
  );
  if (there === undefined) {
    tx.sql.run(
      'INSERT INTO stored_layer (layer_id, driver, dir, inherited, disk, inodes) VALUES (?, ?, ?, ?, ?, ?)',
      layerId,
      layer.driver,
      layer.dir,
      inherited,
      layer.disk,
      layer.inodes,
    );
    tx.event('layer.create', layer.diffId, { size: layer.size, entries: layer.entries, driver: layer.driver });
  }
  if (layer.blob !== null) addBlob(tx, layerId, layer.blob);
  holdLayer(tx, layer.leaseId, layerId);
  return { layerId, added: there === undefined };
}

function layerOf(tx: Transaction, layer: NewStoredLayer): number {
  const there = tx.sql.get<LayerRow>('SELECT * FROM layer WHERE diff_id = ?', layer.diffId);
  if (there !== undefined) return there.id;
  return tx.sql.insert(
    'INSERT INTO layer (diff_id, size, entries, opaque_root, implied, created) VALUES (?, ?, ?, ?, ?, ?)',
    layer.diffId,
    layer.size,
    layer.entries,
    layer.opaqueRoot ? 1 : 0,
    layer.implied ? 1 : 0,
    tx.now,
  );
}

/** Remembers which compressed blob was verified to hold which layer; a kept one also lies in b/HEX. */
function addBlob(tx: Transaction, layerId: number, blob: NonNullable<NewStoredLayer['blob']>): void {
  tx.sql.run(
    `INSERT INTO blob (digest, layer_id, size, compression, kept, disk) VALUES (?, ?, ?, ?, ?, ?)
     ON CONFLICT (digest) DO UPDATE SET kept = max(kept, excluded.kept), disk = max(disk, excluded.disk)`,
    blob.digest,
    layerId,
    blob.size,
    blob.compression,
    blob.kept ? 1 : 0,
    blob.disk,
  );
}

function holdLayer(tx: Transaction, leaseId: string, layerId: number): void {
  requireLease(tx, leaseId);
  tx.sql.run('INSERT OR IGNORE INTO lease_layer (lease_id, layer_id) VALUES (?, ?)', leaseId, layerId);
}

export function requireLease(tx: Transaction, leaseId: string): void {
  if (tx.sql.get('SELECT 1 FROM lease WHERE id = ?', leaseId) === undefined) {
    throw new LayerdError('LEASE_NOT_FOUND', `lease ${leaseId} does not exist or has expired`, {
      details: { lease: leaseId },
      hint: 'Make a new lease, or give it a longer time to live.',
    });
  }
}

/** Protects a layer that is there already. False if it is not (any more): it must be loaded. */
export function holdPresentLayer(
  tx: Transaction,
  args: { leaseId: string; diffId: Digest; blob: NewStoredLayer['blob'] },
): boolean {
  const layer = tx.sql.get<LayerRow>(
    `SELECT * FROM layer WHERE diff_id = ?
     AND EXISTS (SELECT 1 FROM stored_layer WHERE layer_id = layer.id AND damaged = 0)`,
    args.diffId,
  );
  if (layer === undefined) return false;
  holdLayer(tx, args.leaseId, layer.id);
  if (args.blob !== null) addBlob(tx, layer.id, args.blob);
  return true;
}

/** `check` or recovery found the bytes wrong: the copy is not taken for present any more. */
export function markDamaged(tx: Transaction, args: { dir: string; damaged: boolean }): void {
  tx.sql.run('UPDATE stored_layer SET damaged = ? WHERE dir = ?', args.damaged ? 1 : 0, args.dir);
}

/** The directory of a damaged copy now holds whole bytes again (they were exchanged on disk). */
export function healStoredLayer(tx: Transaction, args: { dir: string; disk: number; inodes: number }): void {
  tx.sql.run(
    'UPDATE stored_layer SET damaged = 0, disk = ?, inodes = ? WHERE dir = ?',
    args.disk,
    args.inodes,
    args.dir,
  );
  const row = tx.sql.get<{ diff_id: Digest }>(
    'SELECT diff_id FROM layer JOIN stored_layer ON layer.id = layer_id WHERE dir = ?',
    args.dir,
  );
  if (row !== undefined) tx.event('layer.heal', row.diff_id, { dir: args.dir });
}

/** Fixes the inherited attributes of a copy that no chain uses yet; `disk` may have changed by it. */
export function fixInherited(tx: Transaction, args: { dir: string; inherited: string; disk: number }): void {
  tx.sql.run('UPDATE stored_layer SET inherited = ?, disk = ? WHERE dir = ?', args.inherited, args.disk, args.dir);
}
