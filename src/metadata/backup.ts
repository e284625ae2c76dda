/** A consistent copy of the database while it is written to. */
import { Worker } from 'node:worker_threads';
import { LayerdError, type ErrorBody } from '../core/errors.js';

export interface BackupPaths {
  from: string;
  to: string;
}

/** Copies the database as it is at one moment, on a thread of its own. Throws NO_SPACE, IO_ERROR, STORE_DAMAGED. */
export async function backupDatabase(paths: BackupPaths): Promise<void> {
  const worker = new Worker(new URL('backup-thread.js', import.meta.url), { name: 'layerd-backup', workerData: paths });
  const failed = await new Promise<ErrorBody | null>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  if (failed !== null) throw LayerdError.fromBody(failed);
}
