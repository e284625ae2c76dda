/**
 * The files of a layer, in its directory l/DIR:
 *
 *   tar         the uncompressed tar, byte for byte
 *   index       the EROFS image whose files lie in it
 *   catalog     the tar without its payloads
 *   inherited   attributes that implied directories took from below; only where they took any
 */
import { join } from 'node:path';
import { inheritedFile } from '../../src/content/inherited.js';
import { tarFile } from '../tar-sink.js';

export interface LayerFiles {
  directory: string;
  tar: string;
  index: string;
  inherited: string;
}

export function layerFiles(directory: string): LayerFiles {
  const at = (name: string): string => join(directory, name);
  return { directory, tar: tarFile(directory), index: at('index'), inherited: inheritedFile(directory) };
}
