import { displayBytes, fromBuffer, type ByteString } from '../core/bytes.js';
import { errnoName, errnoNumber, lastErrno, libc } from './libc.js';

/** A path or name as bytes: from an archive, from a directory, or `bytesOf(text)` of the configuration. */
export type PathBytes = ByteString | Uint8Array;

/**
 * A system call that failed, shaped like Node's own: `code` is the errno's name, so that isErrno() and toLayerdError()
 * work. Its `errno` is positive.
 */
export class SystemError extends Error {
  override readonly name = 'SystemError';
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;
  readonly path: string;

  /** `detail` follows the text of the errno: what the kernel's log of a mount said, say. */
  constructor(errno: number, syscall: string, path: PathBytes, detail = '') {
    const code = errnoName(errno);
    const shown = displayBytes(typeof path === 'string' ? path : fromBuffer(path));
    super(
      `${code}: ${libc().strerror(errno)}${detail === '' ? '' : ` (${detail})`}, ${syscall}${shown === '' ? '' : ` '${shown}'`}`,
    );
    this.code = code;
    this.errno = errno;
    this.syscall = syscall;
    this.path = shown;
  }
}

const NO_PATH = '' as ByteString;

/** The error of the call that failed just now. Nothing may come between the call and this. */
export function failed(syscall: string, path: PathBytes = NO_PATH): SystemError {
  return new SystemError(lastErrno(), syscall, path);
}

/** An error that the kernel would raise as well, found before asking it. */
export function refused(code: string, syscall: string, path: PathBytes = NO_PATH): SystemError {
  return new SystemError(errnoNumber(code), syscall, path);
}

/** In the place of a directory descriptor: paths are relative to the working directory. */
export const AT_FDCWD = -100;

/** Bytes that the kernel reads as a path, the terminating NUL included (PATH_MAX). */
export const PATH_MAX = 4096;

/** Room for one C string, reused by every call: system calls here are synchronous and a module belongs to one thread. */
export function scratch(size = PATH_MAX): Buffer {
  return Buffer.from(new ArrayBuffer(size));
}

const first = scratch();
const second = scratch();

/** The path as a C string in a buffer that the next call of cPath() overwrites. Throws ENAMETOOLONG, and EINVAL for a NUL. */
export function cPath(path: PathBytes, syscall: string): Buffer {
  return terminated(path, first, syscall);
}

/** As {@link cPath}, for the second path of a call that takes two. */
export function cPath2(path: PathBytes, syscall: string): Buffer {
  return terminated(path, second, syscall);
}

function terminated(path: PathBytes, into: Buffer, syscall: string): Buffer {
  const { length } = path;
  if (length >= PATH_MAX) throw refused('ENAMETOOLONG', syscall, path);
  if (typeof path === 'string') {
    if (path.includes('\0')) throw refused('EINVAL', syscall, path);
    into.write(path, 0, 'latin1');
  } else {
    if (path.includes(0)) throw refused('EINVAL', syscall, path);
    into.set(path);
  }
  into[length] = 0;
  return into;
}
