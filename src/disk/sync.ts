/** Making files and directories durable by their paths. */
import { closeSync, fsync, fsyncSync, openSync } from 'node:fs';
import { promisify } from 'node:util';
import { linuxAvailable } from '../linux/libc.js';
import { dirtyBytes, syncfs } from '../linux/sync.js';

const sync = promisify(fsync);

/** fsync(2) of a file or directory. */
export function syncPath(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** fsync(2) of files and directories, all at once on other threads. */
export async function syncPaths(paths: readonly string[]): Promise<void> {
  const fds = paths.map((path) => openSync(path, 'r'));
  try {
    await Promise.all(fds.map((fd) => sync(fd)));
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

/** Above this a sync of everything may take far longer than that of one's own files. */
const LITTLE_BYTES = 64 * 1024 * 1024;

/** A file system that is synced as a whole where that is cheap: a thousand small files in one pass. */
export class WholeSync {
  private readonly fd: number;

  /** To be made before the files are written: it is told of all writes that fail from here on. */
  constructor(path: string) {
    this.fd = openSync(path, 'r');
  }

  /** False where others have much to be written, too, or where this cannot be done: then nothing has happened. */
  async run(): Promise<boolean> {
    if (!linuxAvailable().available || dirtyBytes() > LITTLE_BYTES) return false;
    syncfs(this.fd);
    return true;
  }

  close(): void {
    closeSync(this.fd);
  }
}
