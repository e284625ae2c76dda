/**
 * The files of a layer, in its directory l/DIR:
 *
 *   tar         the uncompressed tar, byte for byte
 *   index       the EROFS image whose files lie in it
 *   catalog     the tar without its payloads
 *   inherited   attributes that implied directories took from below; only where they took any
 */
import { closeSync, fsyncSync, openSync } from 'node:fs';
import { join } from 'node:path';

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

/** fsync(2) of a file or directory by its path. */
export function syncPath(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
