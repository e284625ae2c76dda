/** The directory of the database as a thing on disk: is it there, and putting it aside. */
import { copyFileSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { LayerdError } from '../core/errors.js';
import type { Places } from '../core/places.js';
import { syncPath } from './sync.js';

/**
 * A store without its database is not an empty one: what lies there would be taken for garbage. Throws STORE_DAMAGED.
 */
export function refuseLostDatabase(places: Places): void {
  if (existsSync(places.database)) return;
  const kept = [places.layers, places.snapshots, places.images].flatMap((path) =>
    existsSync(path) ? readdirSync(path) : [],
  );
  if (kept.filter((name) => !name.startsWith('probe-')).length === 0) return;
  throw new LayerdError('STORE_DAMAGED', `${places.database} is gone, and ${places.root} holds layers`, {
    details: { database: places.database, root: places.root },
    hint: '`layerd restore FILE` puts a backup back; `layerd rebuild` makes the database anew from the files.',
  });
}

/** Moves the database into lost/, where it stays until somebody removes it. */
export function setDatabaseAside(places: Places): void {
  const directory = dirname(places.database);
  if (!existsSync(directory)) return;
  mkdirSync(places.lost, { recursive: true, mode: 0o700 });
  renameSync(directory, join(places.lost, `db-${new Date().toISOString().replaceAll(':', '')}`));
  for (const path of [places.lost, places.root]) syncPath(path);
}

/**
 * Puts a copy of `file` in the place of the database, which is set aside; durable when it returns. `check` looks at the
 * copy before, and throws what is wrong with it.
 */
export function placeDatabase(places: Places, file: string, check: (copy: string) => void): void {
  const fresh = join(places.trash, 'restored');
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh, { recursive: true, mode: 0o700 });
  const copy = join(fresh, basename(places.database));
  copyFileSync(file, copy);
  check(copy);
  for (const beside of ['-wal', '-shm']) rmSync(copy + beside, { force: true });
  for (const path of [copy, fresh]) syncPath(path);
  setDatabaseAside(places);
  renameSync(fresh, dirname(places.database));
  for (const path of [places.trash, places.root]) syncPath(path);
}
