import { LayerdError } from '../../core/errors.js';
import type { Digest } from '../../core/digest.js';
import type { ContainerSummary, DriverName, MountResult } from '../../core/words.js';
import type { ContainerRow, ImageRow } from '../rows.js';
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

/** Makes a container whose snapshot directory is there and durable known. */
export function addContainer(tx: Transaction, container: NewContainer): ContainerSummary {
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
    `INSERT INTO snapshot (space, key, kind, dir, driver, chain_id, stack_id, read_only, volatile, size_limit, labels,
                           created, updated) VALUES ('native', ?, ?, ?, ?, ?, ?, ?, ?, ?, '{}', ?, ?)`,
    container.id,
    container.readOnly ? 'view' : 'active',
    container.dir,
    container.driver,
    container.chainId,
    container.stackId,
    container.readOnly ? 1 : 0,
    container.volatile ? 1 : 0,
    container.sizeLimit,
    tx.now * 1000,
    tx.now * 1000,
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
  const { id, name, imageId, image: asked, readOnly, labels, driver } = container;
  return { id, name, imageId, image: asked, created: tx.now, readOnly, labels, mounts: 0, path: null, driver };
}

/** One more mount is held, at `path`. */
export function countMount(tx: Transaction, { path, ...args }: MountArgs & { path: string }): MountResult {
  const before = mountsHeld(tx, args);
  const mounts = before + 1;
  tx.sql.run('UPDATE container SET mounts = ?, boot = ?, path = ? WHERE id = ?', mounts, args.boot, path, args.id);
  tx.event('container.mount', args.id, { mounts });
  return { path, mounts };
}

/** One mount is given back, or all of them are. */
export function countUnmount(tx: Transaction, { all, ...args }: MountArgs & { all: boolean }): { mounts: number } {
  const before = mountsHeld(tx, args);
  const mounts = all ? 0 : Math.max(0, before - 1);
  tx.sql.run(
    'UPDATE container SET mounts = ?, boot = ?, path = iif(?, path, NULL) WHERE id = ?',
    mounts,
    args.boot,
    mounts,
    args.id,
  );
  if (before !== mounts) tx.event('container.unmount', args.id, { mounts });
  return { mounts };
}

/** `boot` is the present one. */
interface MountArgs {
  id: string;
  boot: string;
}

/** Those of an earlier boot are gone. */
function mountsHeld(tx: Transaction, { id, boot }: MountArgs): number {
  const row = requireContainer(tx, id);
  return row.boot === boot ? row.mounts : 0;
}

/** Removes container and snapshot, whose directory is garbage from now on. */
export function removeContainer(tx: Transaction, args: { id: string }): { id: string } {
  const row = requireContainer(tx, args.id);
  tx.sql.run('DELETE FROM container WHERE id = ?', row.id);
  tx.sql.run('DELETE FROM snapshot WHERE id = ?', row.snapshot_id);
  tx.event('container.delete', row.id, { name: row.name });
  return { id: row.id };
}

function requireContainer(tx: Transaction, id: string): ContainerRow {
  const row = tx.sql.get<ContainerRow>('SELECT * FROM container WHERE id = ?', id);
  if (row === undefined) {
    throw new LayerdError('CONTAINER_NOT_FOUND', `container ${id} was removed meanwhile`, { details: { id } });
  }
  return row;
}
