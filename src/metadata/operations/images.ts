import type { Digest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import { counted } from '../../core/units.js';
import type { RemovedImage } from '../../core/words.js';
import type { ContainerRow, ImageRow } from '../rows.js';
import type { Transaction } from './transaction.js';

export interface NewImage {
  imageId: Digest;
  config: Buffer;
  platform: string;
  chainId: number | null;
  layerIds: number[];
  manifest: { bytes: Buffer; digest: Digest; mediaType: string; blobs: Digest[] } | null;
  created: number;
  refs: string[];
  /** Holds the image until it is released; null where refs hold it. */
  leaseId: string | null;
  /** The container that it was committed from. */
  container: string | null;
}

/** Makes an image known whose layers are all there, and names it. Idempotent; a ref moves from the image it named. */
export function addImage(tx: Transaction, image: NewImage): { id: number } {
  const there = tx.sql.get<ImageRow>('SELECT * FROM image WHERE image_id = ?', image.imageId);
  const id = there?.id ?? insertImage(tx, image);
  if (there !== undefined && image.manifest !== null) setManifest(tx, id, image.manifest);
  if (image.leaseId !== null) {
    tx.sql.run('INSERT OR IGNORE INTO lease_image (lease_id, image_id) VALUES (?, ?)', image.leaseId, id);
  }
  for (const name of image.refs) setRef(tx, name, id);
  tx.event('image.load', image.imageId, { refs: image.refs.join(' ') });
  if (image.container !== null) {
    tx.event('container.commit', image.container, { image: image.imageId, ref: image.refs[0] ?? null });
  }
  return { id };
}

function insertImage(tx: Transaction, image: NewImage): number {
  const id = tx.sql.insert(
    'INSERT INTO image (image_id, config, platform, chain_id, created, added) VALUES (?, ?, ?, ?, ?, ?)',
    image.imageId,
    image.config,
    image.platform,
    image.chainId,
    image.created,
    tx.now,
  );
  for (const [position, layerId] of image.layerIds.entries()) {
    tx.sql.run('INSERT INTO image_layer (image_id, position, layer_id) VALUES (?, ?, ?)', id, position, layerId);
  }
  if (image.manifest !== null) setManifest(tx, id, image.manifest);
  return id;
}

function setManifest(tx: Transaction, id: number, manifest: NonNullable<NewImage['manifest']>): void {
  tx.sql.run(
    'UPDATE image SET manifest = ?, manifest_digest = ?, manifest_type = ? WHERE id = ?',
    manifest.bytes,
    manifest.digest,
    manifest.mediaType,
    id,
  );
  tx.sql.run('DELETE FROM image_blob WHERE image_id = ?', id);
  for (const [position, digest] of manifest.blobs.entries()) {
    tx.sql.run('INSERT INTO image_blob (image_id, position, digest) VALUES (?, ?, ?)', id, position, digest);
  }
}

function setRef(tx: Transaction, name: string, imageId: number): void {
  tx.sql.run(
    `INSERT INTO ref (name, image_id, updated) VALUES (?, ?, ?)
     ON CONFLICT (name) DO UPDATE SET image_id = excluded.image_id, updated = excluded.updated`,
    name,
    imageId,
    tx.now,
  );
}

/** Names an image; the name moves if another image had it. */
export function tagImage(tx: Transaction, args: { imageId: Digest; name: string }): void {
  const image = tx.sql.get<ImageRow>('SELECT * FROM image WHERE image_id = ?', args.imageId);
  if (image === undefined) {
    throw new LayerdError('IMAGE_NOT_FOUND', `image ${args.imageId} was removed meanwhile`, {
      details: { image: args.imageId },
    });
  }
  setRef(tx, args.name, image.id);
  tx.event('image.tag', args.imageId, { ref: args.name });
}

/**
 * Takes names from an image, and removes the image's row with its last name unless a lease holds it. `refs` null: all
 * of them.
 * Refused where a container needs an image that would go.
 */
export function removeImage(tx: Transaction, args: { imageId: Digest; refs: string[] | null }): RemovedImage {
  const image = tx.sql.get<ImageRow>('SELECT * FROM image WHERE image_id = ?', args.imageId);
  if (image === undefined) return { untagged: [], deleted: [] };
  const names = tx.sql.all<{ name: string }>('SELECT name FROM ref WHERE image_id = ?', image.id).map((r) => r.name);
  const untagged = names.filter((name) => args.refs === null || args.refs.includes(name));
  const last = untagged.length === names.length;
  if (last) refuseIfUsed(tx, image);
  for (const name of untagged) {
    tx.sql.run('DELETE FROM ref WHERE name = ?', name);
    tx.event('image.untag', image.image_id, { ref: name });
  }
  // An image under a lease (one that is being saved, say) goes with the lease: the collector takes it then.
  const held = tx.sql.get<{ lease_id: string }>('SELECT lease_id FROM lease_image WHERE image_id = ?', image.id);
  if (held !== undefined && names.length === 0) throw leased(image, held.lease_id);
  if (!last || held !== undefined) return { untagged, deleted: [] };
  deleteImage(tx, image);
  return { untagged, deleted: [image.image_id] };
}

/** Deletes the row; layers and kept blobs that nothing else needs become candidates of collection. */
export function deleteImage(tx: Transaction, image: ImageRow): void {
  tx.sql.run('DELETE FROM image WHERE id = ?', image.id);
  tx.event('image.delete', image.image_id);
}

function leased(image: ImageRow, lease: string): LayerdError {
  return new LayerdError('IMAGE_IN_USE', `image ${image.image_id.slice(7, 19)} is held by the lease ${lease}`, {
    details: { image: image.image_id, lease },
    hint: 'It goes with the lease; `layerctl lease rm` ends one.',
  });
}

function refuseIfUsed(tx: Transaction, image: ImageRow): void {
  const users = tx.sql.all<ContainerRow>('SELECT * FROM container WHERE image_id = ? ORDER BY created', image.id);
  if (users.length === 0) return;
  const names = users.map((row) => `${row.name} (${row.id.slice(0, 12)})`);
  throw new LayerdError(
    'IMAGE_IN_USE',
    `image ${image.image_id.slice(7, 19)} is needed by ${counted(users.length, 'container')}: ${names.slice(0, 5).join(', ')}`,
    {
      details: { image: image.image_id, containers: users.map((row) => row.id) },
      hint: 'Remove the containers first.',
    },
  );
}
