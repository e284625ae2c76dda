import type { Digest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import type { Lease } from '../../core/words.js';
import type { ImageRow, LayerRow } from '../rows.js';
import { requireLease } from './layers.js';
import type { Transaction } from './transaction.js';

export interface NewLease {
  id: string;
  /** Made by an operation of the daemon: it ends with the daemon. */
  internal: boolean;
  labels: Record<string, string>;
  expires: number | null;
  holds: Digest[];
}

/** Protects images and layers from collection until it is released or expires. */
export function addLease(tx: Transaction, lease: NewLease): Lease {
  if (tx.sql.get('SELECT 1 FROM lease WHERE id = ?', lease.id) !== undefined) {
    throw new LayerdError('LEASE_EXISTS', `lease ${lease.id} exists`, {
      details: { lease: lease.id },
      hint: 'Take another id, or remove that lease.',
    });
  }
  tx.sql.run(
    'INSERT INTO lease (id, internal, labels, created, expires) VALUES (?, ?, ?, ?, ?)',
    lease.id,
    lease.internal ? 1 : 0,
    JSON.stringify(lease.labels),
    tx.now,
    lease.expires,
  );
  for (const digest of lease.holds) hold(tx, lease.id, digest);
  const { id, labels, expires, holds } = lease;
  return { id, created: tx.now, expires, labels, holds: [...new Set(holds)] };
}

/** The lease of an operation of the daemon. It need not be durable: what a power cut leaves of it ends with the next start. */
export function beginOperation(tx: Transaction, lease: Pick<NewLease, 'id' | 'labels' | 'holds'>): void {
  addLease(tx, { ...lease, internal: true, expires: null });
}

/** The operation is over, with its lease, if that is still there. */
export function endOperation(tx: Transaction, args: { id: string }): void {
  tx.sql.run('DELETE FROM lease WHERE id = ?', args.id);
}

/** Adds what it protects; `expires` undefined leaves the time as it is. */
export function updateLease(tx: Transaction, args: { id: string; expires?: number | null; add: Digest[] }): void {
  requireLease(tx, args.id);
  if (args.expires !== undefined) tx.sql.run('UPDATE lease SET expires = ? WHERE id = ?', args.expires, args.id);
  for (const digest of args.add) hold(tx, args.id, digest);
}

export function removeLease(tx: Transaction, args: { id: string }): void {
  requireLease(tx, args.id);
  tx.sql.run('DELETE FROM lease WHERE id = ?', args.id);
}

/** Makes a lease that outlives the operation, or sets its end anew. */
export function renewLease(
  tx: Transaction,
  args: { id: string; labels: Record<string, string>; expires: number },
): void {
  tx.sql.run(
    `INSERT INTO lease (id, internal, labels, created, expires) VALUES (?, 0, ?, ?, ?)
     ON CONFLICT (id) DO UPDATE SET expires = excluded.expires`,
    args.id,
    JSON.stringify(args.labels),
    tx.now,
    args.expires,
  );
}

/** Ends a lease that may be gone already; `ifEmpty`: only where it holds nothing. */
export function dropLease(tx: Transaction, args: { id: string; ifEmpty: boolean }): void {
  tx.sql.run(
    `DELETE FROM lease WHERE id = ? AND (? = 0 OR (
       NOT EXISTS (SELECT 1 FROM lease_layer WHERE lease_id = lease.id)
       AND NOT EXISTS (SELECT 1 FROM lease_image WHERE lease_id = lease.id)
       AND NOT EXISTS (SELECT 1 FROM partial WHERE lease_id = lease.id)))`,
    args.id,
    args.ifEmpty ? 1 : 0,
  );
}

/** At start: operations that a lease was made for are gone. Returns how many there were. */
export function removeInternalLeases(tx: Transaction, _args: null): number {
  return tx.sql.run('DELETE FROM lease WHERE internal = 1');
}

function hold(tx: Transaction, leaseId: string, digest: Digest): void {
  const image = tx.sql.get<ImageRow>('SELECT * FROM image WHERE image_id = ?', digest);
  if (image !== undefined) {
    tx.sql.run('INSERT OR IGNORE INTO lease_image (lease_id, image_id) VALUES (?, ?)', leaseId, image.id);
    return;
  }
  const layer = tx.sql.get<LayerRow>('SELECT * FROM layer WHERE diff_id = ?', digest);
  if (layer === undefined) {
    throw new LayerdError('LAYER_NOT_FOUND', `nothing here has the digest ${digest}`, {
      details: { digest },
      hint: 'A lease holds image ids and diff IDs of what is in the store.',
    });
  }
  tx.sql.run('INSERT OR IGNORE INTO lease_layer (lease_id, layer_id) VALUES (?, ?)', leaseId, layer.id);
}
