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
  /** JSON of the root's attributes where the tar lists its root. */
  root: string | null;
  driver: DriverName;
  dir: string;
  disk: number;
  inodes: number;
  blob: NewBlob | null;
}

/** A compressed blob that was verified to hold a layer. */
export interface NewBlob {
  digest: Digest;
  size: number;
  compression: string;
  /** Its name below b/ and the bytes that it occupies, if it is kept. */
  file: string | null;
  disk: number;
}

/** What became of a stored layer that was to be made known. */
export interface StoredLayerOutcome {
  layerId: number;
  /**
   * added: it has a row now. present: the driver has a whole copy (another load was faster), the directory is garbage.
   * heals: the driver's copies are damaged; the directory is to be exchanged with the first of them.
   */
  outcome: 'added' | 'present' | 'heals';
  /** The file of the blob that was brought is garbage: one is kept already. */
  blobSpare: boolean;
}

/** Makes a layer that is complete and durable in l/DIR known, under a lease. */
export function addStoredLayer(tx: Transaction, layer: NewStoredLayer): StoredLayerOutcome {
  const layerId = layerOf(tx, layer);
  const copies = tx.sql.all<StoredLayerRow>(
    'SELECT * FROM stored_layer WHERE layer_id = ? AND driver = ?',
    layerId,
    layer.driver,
  );
  const blobSpare = layer.blob !== null && !addBlob(tx, layerId, layer.blob);
  // its beginning is no use any more, now that it came whole
  tx.sql.run('DELETE FROM partial WHERE digest = ?', layer.blob?.digest ?? layer.diffId);
  holdLayer(tx, layer.leaseId, layerId);
  if (copies.some((copy) => copy.damaged === 0)) return { layerId, outcome: 'present', blobSpare };
  if (copies.length > 0) return { layerId, outcome: 'heals', blobSpare };
  insertStoredLayer(tx, layerId, layer);
  tx.event('layer.create', layer.diffId, { size: layer.size, entries: layer.entries, driver: layer.driver });
  return { layerId, outcome: 'added', blobSpare };
}

/** Makes one more copy of a known layer known, whose implied directories have other attributes than those there are. */
export function addVariant(
  tx: Transaction,
  args: { layerId: number; driver: DriverName; dir: string; inherited: string; disk: number; inodes: number },
): number {
  return insertStoredLayer(tx, args.layerId, args);
}

function insertStoredLayer(
  tx: Transaction,
  layerId: number,
  copy: { driver: DriverName; dir: string; disk: number; inodes: number; implied?: boolean; inherited?: string },
): number {
  return tx.sql.insert(
    'INSERT INTO stored_layer (layer_id, driver, dir, inherited, disk, inodes) VALUES (?, ?, ?, ?, ?, ?)',
    layerId,
    copy.driver,
    copy.dir,
    copy.inherited ?? (copy.implied === true ? 'open' : ''),
    copy.disk,
    copy.inodes,
  );
}

function layerOf(tx: Transaction, layer: NewStoredLayer): number {
  const there = tx.sql.get<LayerRow>('SELECT * FROM layer WHERE diff_id = ?', layer.diffId);
  if (there !== undefined) return there.id;
  return tx.sql.insert(
    'INSERT INTO layer (diff_id, size, entries, opaque_root, implied, root, created) VALUES (?, ?, ?, ?, ?, ?, ?)',
    layer.diffId,
    layer.size,
    layer.entries,
    layer.opaqueRoot ? 1 : 0,
    layer.implied ? 1 : 0,
    layer.root,
    tx.now,
  );
}

/** Remembers which compressed blob was verified to hold which layer. False where its file is kept already. */
function addBlob(tx: Transaction, layerId: number, blob: NewBlob): boolean {
  const added = tx.sql.run(
    `INSERT INTO blob (digest, layer_id, size, compression, file, disk) VALUES (?, ?, ?, ?, ?, ?)
     ON CONFLICT (digest) DO UPDATE SET file = excluded.file, disk = excluded.disk WHERE blob.file IS NULL`,
    blob.digest,
    layerId,
    blob.size,
    blob.compression,
    blob.file,
    blob.disk,
  );
  return added > 0 || blob.file === null;
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

/**
 * Protects a layer that is there already, and its kept blob where one is asked for. False if either is not there (any
 * more): it must be loaded.
 */
export function holdPresentLayer(
  tx: Transaction,
  args: { leaseId: string; diffId: Digest; keptBlob: Digest | null },
): boolean {
  const layer = tx.sql.get<LayerRow>(
    `SELECT * FROM layer WHERE diff_id = ?
     AND EXISTS (SELECT 1 FROM stored_layer WHERE layer_id = layer.id AND damaged = 0)`,
    args.diffId,
  );
  if (layer === undefined) return false;
  if (args.keptBlob !== null) {
    const kept = tx.sql.get('SELECT 1 FROM blob WHERE digest = ? AND file IS NOT NULL', args.keptBlob);
    if (kept === undefined) return false;
  }
  holdLayer(tx, args.leaseId, layer.id);
  return true;
}

/** The bytes of a kept blob are wrong: it is kept no more. */
export function dropBlob(tx: Transaction, args: { file: string }): void {
  tx.sql.run('UPDATE blob SET file = NULL, disk = 0 WHERE file = ?', args.file);
}

/** `check` or recovery found the bytes wrong: the copy is not taken for present any more. */
export function markDamaged(tx: Transaction, args: { dir: string; damaged: boolean }): void {
  tx.sql.run('UPDATE stored_layer SET damaged = ? WHERE dir = ?', args.damaged ? 1 : 0, args.dir);
}

/** The directory of a damaged copy holds whole bytes again: it was exchanged with a fresh one. */
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

/** Fixes the inherited attributes of a copy that no chain uses yet. */
export function fixInherited(
  tx: Transaction,
  args: { dir: string; inherited: string; disk: number; inodes: number },
): void {
  tx.sql.run(
    'UPDATE stored_layer SET inherited = ?, disk = ?, inodes = ? WHERE dir = ?',
    args.inherited,
    args.disk,
    args.inodes,
    args.dir,
  );
}
