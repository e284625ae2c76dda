/**
 * The files of a layer, in its directory l/DIR:
 *
 *   tar         the uncompressed tar, byte for byte
 *   index       the EROFS image whose files lie in it
 *   catalog     the tar without its payloads
 *   inherited   attributes that implied directories took from below; only where they took any
 */
import { closeSync, fsync, openSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

export interface LayerFiles {
  directory: string;
  tar: string;
  index: string;
  inherited: string;
}

export function layerFiles(directory: string): LayerFiles {
  const at = (name: string): string => join(directory, name);
  return { directory, tar: at('tar'), index: at('index'), inherited: at('inherited') };
}

const sync = promisify(fsync);

/** fsync(2) of files and directories by their paths, all at once on other threads. */
export async function syncAll(...paths: string[]): Promise<void> {
  const fds = paths.map((path) => openSync(path, 'r'));
  try {
    await Promise.all(fds.map((fd) => sync(fd)));
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}
