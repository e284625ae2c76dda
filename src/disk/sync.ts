/** Making files and directories durable by their paths. */
import { closeSync, fsync, fsyncSync, openSync } from 'node:fs';
import { promisify } from 'node:util';

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
