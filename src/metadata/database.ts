import { closeSync, existsSync, fsyncSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import Database from 'better-sqlite3';
import { LayerdError } from '../core/errors.js';
import { MIGRATIONS } from './schema.js';
import { sqlError } from './sql.js';

const BUSY_MS = 10_000;

/** Since when a candidate of garbage collection is one: the transaction's time, or its cause's (operations/collect.ts). */
export const candidateClock = { since: 0 };

/**
 * The writing connection, migrated to the present schema. There is one per store, in the writer's thread.
 * synchronous=FULL: a commit is on disk before it is acknowledged.
 */
export function openWriter(path: string): Database.Database {
  const fresh = !existsSync(path);
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  try {
    const db = new Database(path);
    db.pragma(`busy_timeout = ${BUSY_MS}`);
    db.pragma('journal_mode = WAL');
    db.pragma('synchronous = FULL');
    db.function('candidate_since', () => candidateClock.since);
    // a migration may make a table anew that others refer to
    db.pragma('foreign_keys = OFF');
    migrate(db);
    db.pragma('foreign_keys = ON');
    if (fresh) syncDirectories(path);
    return db;
  } catch (thrown) {
    throw sqlError(thrown);
  }
}

/** A connection for queries, anywhere. The database must exist. */
export function openReader(path: string): Database.Database {
  try {
    const db = new Database(path, { readonly: true, fileMustExist: true });
    db.pragma(`busy_timeout = ${BUSY_MS}`);
    return db;
  } catch (thrown) {
    throw sqlError(thrown);
  }
}

/** Looks whether a file is a whole database that this layerd can open. Throws STORE_DAMAGED, STORE_NEWER. */
export function checkBackup(path: string): void {
  const db = openReader(path);
  try {
    const version = Number(db.pragma('user_version', { simple: true }));
    if (version > MIGRATIONS.length) throw newer(version);
    const found = db.pragma('integrity_check', { simple: true });
    const tables = db.prepare("SELECT count(*) AS n FROM sqlite_master WHERE name = 'stored_layer'").get() as {
      n: number;
    };
    if (found !== 'ok' || tables.n !== 1) {
      const problem = tables.n === 1 ? String(found) : 'it has no table of layers';
      throw new LayerdError('STORE_DAMAGED', problem, { details: { path }, hint: 'Take another backup.' });
    }
  } catch (thrown) {
    throw sqlError(thrown);
  } finally {
    db.close();
  }
}

function migrate(db: Database.Database): void {
  const version = Number(db.pragma('user_version', { simple: true }));
  if (version > MIGRATIONS.length) throw newer(version);
  for (const [index, migration] of MIGRATIONS.entries()) {
    if (index < version) continue;
    db.transaction(() => {
      db.exec(migration);
      refuseDangling(db, index + 1);
      db.pragma(`user_version = ${index + 1}`);
    }).immediate();
  }
}

function refuseDangling(db: Database.Database, version: number): void {
  const [broken] = db.pragma('foreign_key_check') as { table: string; parent: string }[];
  if (broken === undefined) return;
  throw new LayerdError(
    'STORE_DAMAGED',
    `a row of ${broken.table} refers to a missing row of ${broken.parent}: schema ${version} was not taken`,
    { details: broken, hint: 'Restore a backup of the database; nothing was changed.' },
  );
}

/** A new database's name must survive a power cut as its content does. */
function syncDirectories(path: string): void {
  for (const directory of [dirname(path), dirname(dirname(path))]) {
    const fd = openSync(directory, 'r');
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  }
}

function newer(version: number): LayerdError {
  return new LayerdError('STORE_NEWER', `the store has schema ${version}, this layerd knows ${MIGRATIONS.length}`, {
    details: { found: version, expected: MIGRATIONS.length },
    hint: 'Use the layerd that wrote the store, or a newer one; nothing was changed.',
  });
}
