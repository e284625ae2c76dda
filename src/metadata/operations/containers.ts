import { LayerdError } from '../../core/errors.js';
import type { Digest } from '../../core/digest.js';
import type { DriverName } from '../../core/words.js';
import type { ContainerRow, ImageRow, SnapshotRow } from '../rows.js';
import type { Transaction } from './transaction.js';

export interface NewContainer {
  id: string;
  name: string;
  imageId: Digest;
  image: string;
  labels: Record<string, string>;
  dir: string;
  driver: DriverName;
  chainId: number | null;
  stackId: number | null;
  readOnly: boolean;
  volatile: boolean;
  sizeLimit: number | null;
}

/** Makes a container whose snapshot directory is there and durable known; returns when it was created. */
export function addContainer(tx: Transaction, container: NewContainer): number {
  if (tx.sql.get('SELECT 1 FROM container WHERE name = ?', container.name) !== undefined) {
    throw new LayerdError('CONTAINER_EXISTS', `a container named ${container.name} exists`, {
      details: { name: container.name },
      hint: 'Take another name, or remove that container.',
    });
  }
  const image = tx.sql.get<ImageRow>('SELECT * FROM image WHERE image_id = ?', container.imageId);
  if (image === undefined) {
    throw new LayerdError('IMAGE_NOT_FOUND', `image ${container.image} was removed meanwhile`, {
      details: { image: container.image },
    });
  }
  const snapshotId = tx.sql.insert(
    `INSERT INTO snapshot (space, key, dir, driver, chain_id, stack_id, read_only, volatile, size_limit, created)
     VALUES ('native', ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    container.id,
    container.dir,
    container.driver,
    container.chainId,
    container.stackId,
    container.readOnly ? 1 : 0,
    container.volatile ? 1 : 0,
    container.sizeLimit,
    tx.now,
  );
  tx.sql.run(
    `INSERT INTO container (id, name, snapshot_id, image_id, image, labels, mounts, boot, created)
     VALUES (?, ?, ?, ?, ?, ?, 0, '', ?)`,
    container.id,
    container.name,
    snapshotId,
    image.id,
    container.image,
    JSON.stringify(container.labels),
    tx.now,
  );
  tx.event('container.create', container.id, { name: container.name, image: container.image });
  return tx.now;
}

/** A mount at `path` is held, one is given back, or all of them are. */
export type MountChange = { change: 1; path: string } | { change: -1 | 'none' };

/** Records that mounts changed; those of an earlier boot count for nothing. Returns the new count. */
export function countMount(tx: Transaction, args: { id: string; boot: string } & MountChange): number {
  const row = requireContainer(tx, args.id);
  const before = row.boot === args.boot ? row.mounts : 0;
  const mounts = args.change === 'none' ? 0 : Math.max(0, before + args.change);
  const path = args.change === 1 ? args.path : row.path;
  tx.sql.run(
    'UPDATE container SET mounts = ?, boot = ?, path = ? WHERE id = ?',
    mounts,
    args.boot,
    mounts === 0 ? null : path,
    args.id,
  );
  if (before !== mounts) tx.event(mounts > before ? 'container.mount' : 'container.unmount', args.id, { mounts });
  return mounts;
}

/** Removes container and snapshot; returns the snapshot's directory, which is garbage from now on. */
export function removeContainer(tx: Transaction, args: { id: string }): { dir: string } {
  const row = requireContainer(tx, args.id);
  const snapshot = tx.sql.get<SnapshotRow>('SELECT * FROM snapshot WHERE id = ?', row.snapshot_id);
  if (snapshot === undefined) throw new LayerdError('INTERNAL', `container ${args.id} has no snapshot`);
  tx.sql.run('DELETE FROM container WHERE id = ?', row.id);
  tx.sql.run('DELETE FROM snapshot WHERE id = ?', snapshot.id);
  tx.event('container.delete', row.id, { name: row.name });
  return { dir: snapshot.dir };
}

function requireContainer(tx: Transaction, id: string): ContainerRow {
  const row = tx.sql.get<ContainerRow>('SELECT * FROM container WHERE id = ?', id);
  if (row === undefined) {
    throw new LayerdError('CONTAINER_NOT_FOUND', `container ${id} was removed meanwhile`, { details: { id } });
  }
  return row;
}
