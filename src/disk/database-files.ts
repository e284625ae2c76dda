/** The directory of the database as a thing on disk: is it there, and putting it aside. */
import {
  accessSync,
  constants,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
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

/** Moves the database into lost/, where it stays until somebody removes it; returns its new path, null where there is none. */
export function setDatabaseAside(places: Places): string | null {
  const directory = dirname(places.database);
  if (!existsSync(directory)) return null;
  mkdirSync(places.lost, { recursive: true, mode: 0o700 });
  const aside = join(places.lost, `db-${new Date().toISOString().replaceAll(':', '')}`);
  renameSync(directory, aside);
  for (const path of [places.lost, places.root]) syncPath(path);
  return aside;
}

/** Throws INVALID_ARGUMENT for what is no file that can be read. */
export function refuseUnreadable(file: string): void {
  try {
    accessSync(file, constants.R_OK);
    if (statSync(file).isFile()) return;
  } catch (cause) {
    throw notReadable(file, cause instanceof Error ? cause.message : String(cause), cause);
  }
  throw notReadable(file, 'it is not a file');
}

function notReadable(file: string, why: string, cause?: unknown): LayerdError {
  return new LayerdError('INVALID_ARGUMENT', `${file} cannot be read: ${why}`, {
    details: { file },
    hint: 'Name a file that `layerctl backup -o FILE` wrote. Nothing was changed.',
    cause,
  });
}

/**
 * Puts a copy of `file` in the place of the database, which is set aside; durable when it returns where that lies now.
 * `check` looks at the copy before, and throws what is wrong with it: nothing is changed then.
 */
export function placeDatabase(places: Places, file: string, check: (copy: string) => void): string | null {
  const fresh = join(places.trash, 'restored');
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh, { recursive: true, mode: 0o700 });
  const copy = join(fresh, basename(places.database));
  try {
    copyFileSync(file, copy);
    check(copy);
  } catch (thrown) {
    rmSync(fresh, { recursive: true });
    throw noBackup(file, thrown);
  }
  for (const beside of ['-wal', '-shm']) rmSync(copy + beside, { force: true });
  for (const path of [copy, fresh]) syncPath(path);
  const aside = setDatabaseAside(places);
  renameSync(fresh, dirname(places.database));
  for (const path of [places.trash, places.root]) syncPath(path);
  return aside;
}

/** What is wrong with the copy is wrong with the file that the user named. */
function noBackup(file: string, thrown: unknown): unknown {
  if (!(thrown instanceof LayerdError) || thrown.code !== 'STORE_DAMAGED') return thrown;
  return new LayerdError('STORE_DAMAGED', `${file} is no whole backup of a database of layerd: ${thrown.message}`, {
    details: { file },
    hint: 'Take another backup. Without one, `layerd rebuild` makes the database anew from the files. Nothing was changed.',
    cause: thrown,
  });
}
