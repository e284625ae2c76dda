/** What takes long on the database, beside those who read and write it. */
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type Database from 'better-sqlite3';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { backupDatabase, checkDatabase } from '../../src/metadata/aside.js';
import { checkBackup, openReader, openWriter } from '../../src/metadata/database.js';

let home: string;
let path: string;
let open: Database.Database[];

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'layerd-aside-'));
  path = join(home, 'layerd.db');
  open = [openWriter(path), openReader(path)];
});

afterEach(() => {
  for (const db of open) db.close();
  rmSync(home, { recursive: true });
});

it.runIf(process.platform === 'linux')('needs one more descriptor, however many ask at a time', async () => {
  const copies = [1, 2, 3].map((index) => join(home, `copy-${index}.db`));
  await Promise.all([...copies.map((to) => backupDatabase(path, to)), checkDatabase(path), checkDatabase(path)]);
  for (const copy of copies) checkBackup(copy);
  expect(descriptorsOf(path)).toBeLessThanOrEqual(open.length + 1);
});

it('goes on after one that failed', async () => {
  const failing = backupDatabase(path, join(home, 'nowhere', 'copy.db'));
  const checked = checkDatabase(path);
  await expect(failing).rejects.toThrow();
  expect(await checked).toEqual([]);
});

/** How many descriptors this process has of a file. */
function descriptorsOf(file: string): number {
  return readdirSync('/proc/self/fd').filter((fd) => targetOf(fd) === file).length;
}

/** Empty for one that was closed meanwhile. */
function targetOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return '';
  }
}
