/**
 * Extended attributes, values as bytes: xattr(7). A target is a descriptor (a number, not O_PATH) or a path as bytes,
 * of which a symbolic link at the end is not followed. For a name in an open directory pass `fdPathOf(dirFd, name)`.
 */
import { constants as os } from 'node:os';
import { fromBuffer, type ByteString } from '../core/bytes.js';
import { lastErrno, libc } from './libc.js';
import { cPath, cPath2, failed, scratch, type PathBytes, type SystemError } from './system-error.js';

export type XattrTarget = number | PathBytes;

/** XATTR_SIZE_MAX and XATTR_LIST_MAX: no value and no list is longer, so that a call never needs a second try. */
const XATTR_MAX = 65_536;

const value = scratch(XATTR_MAX);
const list = scratch(XATTR_MAX);

/** A map for the many files without attributes. */
const NONE: ReadonlyMap<ByteString, Buffer> = new Map();

/** lgetxattr(2), fgetxattr(2): the value, or null where there is no such attribute (or the file system has none). */
export function getXattr(target: XattrTarget, name: ByteString): Buffer | null {
  const length = get(target, name);
  if (length >= 0) return copy(length);
  if (isAbsence()) return null;
  throw error('getxattr', target);
}

/** lsetxattr(2), fsetxattr(2). `security.capability` must come after any chown, which clears it. */
export function setXattr(target: XattrTarget, name: ByteString, bytes: Uint8Array): void {
  const c = libc();
  const key = cPath2(name, 'setxattr');
  const result =
    typeof target === 'number'
      ? c.fsetxattr(target, key, bytes, bytes.length, 0)
      : c.lsetxattr(cPath(target, 'setxattr'), key, bytes, bytes.length, 0);
  if (result < 0) throw error('setxattr', target);
}

/** lremovexattr(2), fremovexattr(2). False where there was no such attribute. */
export function removeXattr(target: XattrTarget, name: ByteString): boolean {
  const c = libc();
  const key = cPath2(name, 'removexattr');
  const result =
    typeof target === 'number' ? c.fremovexattr(target, key) : c.lremovexattr(cPath(target, 'removexattr'), key);
  if (result === 0) return true;
  if (isAbsence()) return false;
  throw error('removexattr', target);
}

/** llistxattr(2), flistxattr(2): names in the kernel's order; none where the file system has no attributes. */
export function listXattrs(target: XattrTarget): ByteString[] {
  const c = libc();
  const length =
    typeof target === 'number'
      ? c.flistxattr(target, list, list.length)
      : c.llistxattr(cPath(target, 'listxattr'), list, list.length);
  if (length === 0) return [];
  if (length < 0) {
    if (lastErrno() === os.errno.ENOTSUP) return [];
    throw error('listxattr', target);
  }
  // every name ends with a NUL
  return fromBuffer(list.subarray(0, length - 1)).split('\0') as ByteString[];
}

/** Every attribute with its value, in the kernel's order. One that goes while we read is left out. */
export function readXattrs(target: XattrTarget): ReadonlyMap<ByteString, Buffer> {
  const names = listXattrs(target);
  if (names.length === 0) return NONE;
  const xattrs = new Map<ByteString, Buffer>();
  for (const name of names) {
    const bytes = getXattr(target, name);
    if (bytes !== null) xattrs.set(name, bytes);
  }
  return xattrs;
}

function get(target: XattrTarget, name: ByteString): number {
  const c = libc();
  const key = cPath2(name, 'getxattr');
  return typeof target === 'number'
    ? c.fgetxattr(target, key, value, value.length)
    : c.lgetxattr(cPath(target, 'getxattr'), key, value, value.length);
}

function copy(length: number): Buffer {
  return Buffer.from(value.subarray(0, length));
}

function isAbsence(): boolean {
  const errno = lastErrno();
  return errno === os.errno.ENODATA || errno === os.errno.ENOTSUP;
}

function error(syscall: string, target: XattrTarget): SystemError {
  return typeof target === 'number' ? failed(syscall) : failed(syscall, target);
}
