import { renameSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { isErrno } from '../core/errors.js';
import { syncPath } from './sync.js';

/**
 * Puts the file that `write` makes in the place of what is at `path`, durably. The old one or the new one is there,
 * whatever happens; only something that is no file goes first. What a crash left of an earlier try is written over.
 */
export function replaceFile(path: string, write: (part: string) => void): void {
  const part = `${path}.new`;
  rmSync(part, { recursive: true, force: true });
  write(part);
  syncPath(part);
  try {
    renameSync(part, path);
  } catch (thrown) {
    if (!isErrno(thrown, 'EISDIR')) throw thrown;
    rmSync(path, { recursive: true });
    renameSync(part, path);
  }
  syncPath(dirname(path));
}
