/** Files and directories of who calls us: what is wrong with a place is said in words, as it is no fault of ours. */
import { mkdir, stat } from 'node:fs/promises';
import { isErrno, LayerdError, type ErrorCode } from '../core/errors.js';
import { UsageError } from './exit-codes.js';

const ANOTHER = 'Choose another place.';

/** What errno names say of a place that is written to. Without a code it was named wrongly. */
const PROBLEMS: Record<string, { what: string; hint: string; code?: ErrorCode }> = {
  ENOENT: { what: 'its directory does not exist', hint: 'Create the directory, or choose another place.' },
  ENOTDIR: { what: 'a part of its path is no directory', hint: ANOTHER },
  EISDIR: { what: 'it is a directory', hint: 'Name a file in it, or choose another place.' },
  EEXIST: { what: 'it exists, and is no directory', hint: ANOTHER },
  ENXIO: { what: 'it is a socket, or a device that is not there', hint: ANOTHER },
  ELOOP: { what: 'its symbolic links lead round in circles', hint: ANOTHER },
  ENAMETOOLONG: { what: 'the name is too long', hint: 'Choose a shorter one.' },
  EROFS: { what: 'its file system is read-only', hint: ANOTHER },
  EACCES: { what: 'you may not write there', hint: ANOTHER, code: 'NOT_PERMITTED' },
  EPERM: { what: 'you may not write there', hint: ANOTHER, code: 'NOT_PERMITTED' },
  ENOSPC: { what: 'its file system is full', hint: 'Free space there, or choose another place.', code: 'NO_SPACE' },
  EDQUOT: { what: 'your quota there is used up', hint: 'Free space there, or choose another place.', code: 'NO_SPACE' },
};

/** Runs work that writes to `place`. Throws UsageError, NOT_PERMITTED or NO_SPACE where the place is to blame. */
export async function writingTo<T>(place: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const errno = Object.keys(PROBLEMS).find((name) => isErrno(error, name));
    const problem = errno === undefined ? undefined : PROBLEMS[errno];
    if (errno === undefined || problem === undefined) throw error;
    const { what, hint, code } = problem;
    const message = `cannot write to ${place}: ${what}`;
    const details = { path: place, errno };
    if (code === undefined) throw new UsageError(message, hint, details);
    throw new LayerdError(code, message, { details, hint, cause: error });
  }
}

/** The directory is there afterwards. The one that it is in has to be before: a mistyped path is not made. */
export function makeDirectory(directory: string): Promise<void> {
  return writingTo(directory, async () => {
    try {
      await mkdir(directory);
    } catch (error) {
      if (!isErrno(error, 'EEXIST') || !(await stat(directory)).isDirectory()) throw error;
    }
  });
}
