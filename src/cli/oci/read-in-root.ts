/** Reading a file of a container's root as the container would see it: links are followed inside the root only. */
import { constants } from 'node:fs';
import { lstat, open, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno, LayerdError } from '../../core/errors.js';

/** As many links as the kernel follows in one path. */
const MAX_LINKS = 40;
const MAX_BYTES = 16 * 1024 * 1024;

/**
 * The bytes of a file below `root`, or null where there is none (or where it is no regular file). For roots that nobody
 * changes meanwhile: of a container that does not run yet. Throws INVALID_ARGUMENT for links that run in a circle and for
 * files above 16 MiB.
 */
export async function readInRoot(root: string, path: string): Promise<Buffer | null> {
  const found = await resolveInRoot(root, path);
  if (found === null) return null;
  // Without NONBLOCK an image with a fifo for a file would keep us waiting for ever.
  const handle = await open(found, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const stat = await handle.stat();
    if (!stat.isFile()) return null;
    if (stat.size > MAX_BYTES) throw refused(path, `has ${stat.size} bytes, more than ${MAX_BYTES}`);
    return await handle.readFile();
  } finally {
    await handle.close();
  }
}

async function resolveInRoot(root: string, path: string): Promise<string | null> {
  const rest = path.split('/');
  let done: string[] = [];
  let links = 0;
  for (let name = rest.shift(); name !== undefined; name = rest.shift()) {
    if (name === '' || name === '.') continue;
    if (name === '..') {
      done.pop();
      continue;
    }
    const here = join(root, ...done, name);
    const stat = await lstat(here).catch(nothingThere);
    if (stat === null) return null;
    if (!stat.isSymbolicLink()) {
      done.push(name);
      continue;
    }
    if (++links > MAX_LINKS) throw refused(path, 'is behind too many symbolic links');
    const target = await readlink(here);
    if (target.startsWith('/')) done = [];
    rest.unshift(...target.split('/'));
  }
  return join(root, ...done);
}

function nothingThere(error: unknown): null {
  if (isErrno(error, 'ENOENT', 'ENOTDIR')) return null;
  throw error;
}

function refused(path: string, what: string): LayerdError {
  return new LayerdError('INVALID_ARGUMENT', `${path} of the image ${what}`, { details: { path } });
}
