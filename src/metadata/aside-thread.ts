import { parentPort, workerData } from 'node:worker_threads';
import type Database from 'better-sqlite3';
import { toLayerdError } from '../core/errors.js';
import type { AsideAnswer, AsideTask } from './aside.js';
import { openReader } from './database.js';
import { sqlError } from './sql.js';

const work = workerData as AsideTask & { database: string };
const ALL_PAGES = 2 ** 31 - 1;
/** Problems that are told. */
const TOLD = 20;

run().then(
  (result) => answer({ result }),
  (thrown: unknown) => answer({ failed: toLayerdError(sqlError(thrown)).toBody() }),
);

async function run(): Promise<string[] | null> {
  const db = openReader(work.database);
  try {
    return work.task === 'backup' ? await backup(db, work.args.to) : integrity(db);
  } finally {
    db.close();
  }
}

/** SQLite's backup API, all of it in one step, so that what is written meanwhile cannot restart it. */
async function backup(db: Database.Database, to: string): Promise<null> {
  await db.backup(to, { progress: () => ALL_PAGES });
  return null;
}

function integrity(db: Database.Database): string[] {
  const found = db.pragma(`integrity_check(${TOLD})`) as { integrity_check: string }[];
  const problems = found.map((row) => row.integrity_check).filter((text) => text !== 'ok');
  for (const row of db.pragma('foreign_key_check') as { table: string; rowid: number; parent: string }[]) {
    problems.push(`row ${row.rowid} of ${row.table} refers to a missing row of ${row.parent}`);
  }
  return problems;
}

function answer(message: AsideAnswer): void {
  parentPort?.postMessage(message);
}
