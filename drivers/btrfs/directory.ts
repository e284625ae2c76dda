import { closeSync, openSync } from 'node:fs';

/** Runs with an open directory. */
export function withDirectory<T>(path: string, work: (fd: number) => T): T {
  const fd = openSync(path, 'r');
  try {
    return work(fd);
  } finally {
    closeSync(fd);
  }
}
