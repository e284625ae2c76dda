/** Copies of the database for keeping elsewhere, made while the store serves. */
import { open, rm } from 'node:fs/promises';
import { KeyedLock } from '../core/keyed-lock.js';
import { backupDatabase } from '../metadata/aside.js';
import type { StoreContext } from './context.js';

const CHUNK_BYTES = 1 << 20;

export class Backups {
  private readonly context: StoreContext;
  private readonly locks = new KeyedLock();

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** The database as it is at one moment. The copy that is read has no name any more: nothing can be left of it. */
  async take(signal: AbortSignal): Promise<AsyncIterable<Buffer>> {
    const handle = await this.locks.run('backup', async () => {
      const to = backupFile(this.context.places.database);
      await rm(to, { force: true });
      try {
        await backupDatabase(this.context.places.database, to);
        return await open(to, 'r');
      } finally {
        await rm(to, { force: true });
      }
    });
    return handle.createReadStream({ highWaterMark: CHUNK_BYTES, signal }) as AsyncIterable<Buffer>;
  }
}

/** Where the copy lies while it is made; a start removes what a crash left. */
export function backupFile(database: string): string {
  return `${database}.backup`;
}
