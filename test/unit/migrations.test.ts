/** A database of an earlier layerd is brought to the present schema, with what it holds. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { openWriter } from '../../src/metadata/database.js';
import { MIGRATIONS } from '../../src/metadata/schema.js';

let home: string;
let path: string;

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'layerd-migrations-'));
  path = join(home, 'layerd.db');
});

afterEach(() => rmSync(home, { recursive: true, force: true }));

/** A database as the layerd of that schema version left it. */
function databaseOf(version: number, content: string): void {
  const db = new Database(path);
  db.function('candidate_since', () => 0);
  for (const migration of MIGRATIONS.slice(0, version)) db.exec(migration);
  db.exec(content);
  db.pragma(`user_version = ${version}`);
  db.close();
}

it('from version 1: kept blobs keep their files', () => {
  databaseOf(
    1,
    `INSERT INTO layer VALUES (7, 'sha256:d', 1, 1, 0, 0, NULL, 1);
     INSERT INTO blob VALUES ('sha256:kept', 7, 5, 'gzip', 1, 4096), ('sha256:seen', 7, 6, 'zstd', 0, 0);`,
  );
  const db = openWriter(path);
  try {
    expect(db.prepare('SELECT digest, layer_id, size, file, disk FROM blob ORDER BY digest').all()).toEqual([
      { digest: 'sha256:kept', layer_id: 7, size: 5, file: 'kept', disk: 4096 },
      { digest: 'sha256:seen', layer_id: 7, size: 6, file: null, disk: 0 },
    ]);
    expect(db.pragma('user_version', { simple: true })).toBe(MIGRATIONS.length);
    expect(db.pragma('integrity_check', { simple: true })).toBe('ok');
    db.exec("DELETE FROM layer WHERE diff_id = 'sha256:d'");
    expect(db.prepare('SELECT * FROM blob').all()).toEqual([]);
  } finally {
    db.close();
  }
});

it('not from a later version', () => {
  databaseOf(MIGRATIONS.length, '');
  const db = new Database(path);
  db.pragma(`user_version = ${MIGRATIONS.length + 1}`);
  db.close();
  expect(() => openWriter(path)).toThrow(/knows/);
});
