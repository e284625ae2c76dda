/** What is on its way from registries, and what they have. */
import type { Digest } from '../../core/digest.js';
import type { LayerRow } from '../rows.js';
import { requireLease } from './layers.js';
import type { Transaction } from './transaction.js';

/** The beginning of a blob that is here, or comes now, is kept by this lease from now on. */
export function holdPartial(tx: Transaction, args: { digest: Digest; leaseId: string }): void {
  requireLease(tx, args.leaseId);
  tx.sql.run(
    `INSERT INTO partial (digest, lease_id) VALUES (?, ?)
     ON CONFLICT (digest) DO UPDATE SET lease_id = excluded.lease_id`,
    args.digest,
    args.leaseId,
  );
}

export interface SeenBlob {
  digest: Digest;
  /** The layer that it holds, which this store has. */
  diffId: Digest;
  size: number;
  compression: string;
}

/** Remembers blobs that a repository was seen to have. */
export function noteRemoteBlobs(
  tx: Transaction,
  args: { registry: string; repository: string; blobs: SeenBlob[] },
): void {
  for (const { digest, diffId, size, compression } of args.blobs) {
    const layer = tx.sql.get<LayerRow>('SELECT * FROM layer WHERE diff_id = ?', diffId);
    if (layer === undefined) continue;
    tx.sql.run(
      `INSERT INTO remote_blob (registry, repository, digest, layer_id, size, compression, seen)
       VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET seen = excluded.seen`,
      args.registry,
      args.repository,
      digest,
      layer.id,
      size,
      compression,
      tx.now,
    );
  }
}
