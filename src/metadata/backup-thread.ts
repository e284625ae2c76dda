/** Copies the database with SQLite's backup API, all of it in one step, so that what is written meanwhile cannot restart it. */
import { parentPort, workerData } from 'node:worker_threads';
import { toLayerdError } from '../core/errors.js';
import type { BackupPaths } from './backup.js';
import { openReader } from './database.js';
import { sqlError } from './sql.js';

const { from, to } = workerData as BackupPaths;
const ALL_PAGES = 2 ** 31 - 1;

try {
  const db = openReader(from);
  try {
    await db.backup(to, { progress: () => ALL_PAGES });
  } finally {
    db.close();
  }
  parentPort?.postMessage(null);
} catch (thrown) {
  parentPort?.postMessage(toLayerdError(sqlError(thrown)).toBody());
}
