/**
 * The C functions that linux/ calls, declared once, bound by koffi on first use.
 *
 * Every argument that is a pointer is a Uint8Array, handed over without a copy; the callers keep theirs preallocated.
 * Wrappers of glibc 2.31 are used where they exist, else syscall(2). Loading may fail (no Linux, no koffi, switched
 * off): {@link linuxAvailable} says so, and {@link libc} throws DRIVER_UNAVAILABLE.
 */
import { createRequire } from 'node:module';
import type Koffi from 'koffi';
import { LayerdError } from '../core/errors.js';

/** C types of arguments and results, and what stands for them here. A pointer may be null. */
interface CTypes {
  int: number;
  uint: number;
  long: number;
  ulong: number;
  size_t: number;
  int64_t: number | bigint;
  str: string;
  'void *': Uint8Array | null;
}
type CType = keyof CTypes;

/** Symbol, result, arguments. */
type Prototype = readonly [symbol: string, result: CType, args: readonly CType[]];

const PROTOTYPES = {
  close: ['close', 'int', ['int']],
  copyFileRange: ['copy_file_range', 'long', ['int', 'void *', 'int', 'void *', 'size_t', 'uint']],
  fallocate: ['fallocate', 'int', ['int', 'int', 'int64_t', 'int64_t']],
  fchmod: ['fchmod', 'int', ['int', 'uint']],
  fchmodat: ['fchmodat', 'int', ['int', 'void *', 'uint', 'int']],
  fchown: ['fchown', 'int', ['int', 'uint', 'uint']],
  fchownat: ['fchownat', 'int', ['int', 'void *', 'uint', 'uint', 'int']],
  fcntl: ['fcntl', 'int', ['int', 'int', 'int']],
  fgetxattr: ['fgetxattr', 'long', ['int', 'void *', 'void *', 'size_t']],
  flistxattr: ['flistxattr', 'long', ['int', 'void *', 'size_t']],
  flock: ['flock', 'int', ['int', 'int']],
  fremovexattr: ['fremovexattr', 'int', ['int', 'void *']],
  fsetxattr: ['fsetxattr', 'int', ['int', 'void *', 'void *', 'size_t', 'int']],
  ftruncate: ['ftruncate', 'int', ['int', 'int64_t']],
  futimens: ['futimens', 'int', ['int', 'void *']],
  getdents64: ['getdents64', 'long', ['int', 'void *', 'size_t']],
  getpagesize: ['getpagesize', 'int', []],
  getrlimit: ['getrlimit', 'int', ['int', 'void *']],
  getsockopt: ['getsockopt', 'int', ['int', 'int', 'int', 'void *', 'void *']],
  ioctl: ['ioctl', 'int', ['int', 'ulong', 'void *']],
  lgetxattr: ['lgetxattr', 'long', ['void *', 'void *', 'void *', 'size_t']],
  linkat: ['linkat', 'int', ['int', 'void *', 'int', 'void *', 'int']],
  llistxattr: ['llistxattr', 'long', ['void *', 'void *', 'size_t']],
  lremovexattr: ['lremovexattr', 'int', ['void *', 'void *']],
  lseek: ['lseek', 'int64_t', ['int', 'int64_t', 'int']],
  lsetxattr: ['lsetxattr', 'int', ['void *', 'void *', 'void *', 'size_t', 'int']],
  mkdirat: ['mkdirat', 'int', ['int', 'void *', 'uint']],
  mount: ['mount', 'int', ['void *', 'void *', 'void *', 'ulong', 'void *']],
  openat: ['openat', 'int', ['int', 'void *', 'int', 'uint']],
  posixFadvise: ['posix_fadvise', 'int', ['int', 'int64_t', 'int64_t', 'int']],
  pread: ['pread', 'long', ['int', 'void *', 'size_t', 'int64_t']],
  pwrite: ['pwrite', 'long', ['int', 'void *', 'size_t', 'int64_t']],
  read: ['read', 'long', ['int', 'void *', 'size_t']],
  readlinkat: ['readlinkat', 'long', ['int', 'void *', 'void *', 'size_t']],
  renameat2: ['renameat2', 'int', ['int', 'void *', 'int', 'void *', 'uint']],
  sendto: ['sendto', 'long', ['int', 'void *', 'size_t', 'int', 'void *', 'uint']],
  socket: ['socket', 'int', ['int', 'int', 'int']],
  statx: ['statx', 'int', ['int', 'void *', 'int', 'uint', 'void *']],
  strerror: ['strerror', 'str', ['int']],
  symlinkat: ['symlinkat', 'int', ['void *', 'int', 'void *']],
  syncFileRange: ['sync_file_range', 'int', ['int', 'int64_t', 'int64_t', 'uint']],
  syncfs: ['syncfs', 'int', ['int']],
  umount2: ['umount2', 'int', ['void *', 'int']],
  unlinkat: ['unlinkat', 'int', ['int', 'void *', 'int']],
  utimensat: ['utimensat', 'int', ['int', 'void *', 'void *', 'int']],
  // Without a wrapper in glibc 2.31: the first argument is the number of the call, from SYS.
  cachestat: ['syscall', 'long', ['long', 'int', 'void *', 'void *', 'uint']],
  fchmodat2: ['syscall', 'long', ['long', 'int', 'void *', 'uint', 'int']],
  fsconfig: ['syscall', 'long', ['long', 'int', 'uint', 'void *', 'void *', 'int']],
  fsmount: ['syscall', 'long', ['long', 'int', 'uint', 'uint']],
  fsopen: ['syscall', 'long', ['long', 'void *', 'uint']],
  fspick: ['syscall', 'long', ['long', 'int', 'void *', 'uint']],
  mknodat: ['syscall', 'long', ['long', 'int', 'void *', 'uint', 'uint']],
  mountSetattr: ['syscall', 'long', ['long', 'int', 'void *', 'uint', 'void *', 'size_t']],
  moveMount: ['syscall', 'long', ['long', 'int', 'void *', 'int', 'void *', 'uint']],
  openTree: ['syscall', 'long', ['long', 'int', 'void *', 'uint']],
  openat2: ['syscall', 'long', ['long', 'int', 'void *', 'void *', 'size_t']],
  pidfdGetfd: ['syscall', 'long', ['long', 'int', 'int', 'uint']],
  pidfdOpen: ['syscall', 'long', ['long', 'int', 'uint']],
} as const satisfies Record<string, Prototype>;

type Arguments<A extends readonly CType[]> = { -readonly [I in keyof A]: CTypes[A[I]] };
interface CFunction<P extends Prototype> {
  (...args: Arguments<P[2]>): CTypes[P[1]];
  /** The same call on a thread of libuv's pool; {@link lastErrno} tells of it at the start of `done`. */
  async(...args: [...Arguments<P[2]>, done: (error: Error | null, result: CTypes[P[1]]) => void]): void;
}

/** The bound functions. They return what C returns; errno is {@link lastErrno}, read before any other call. */
export type Libc = { -readonly [Name in keyof typeof PROTOTYPES]: CFunction<(typeof PROTOTYPES)[Name]> };

/** Numbers for syscall(2). Those above 402 are the same on every architecture. */
export const SYS = {
  mknodat: process.arch === 'arm64' ? 33 : 259,
  openTree: 428,
  moveMount: 429,
  fsopen: 430,
  fsconfig: 431,
  fsmount: 432,
  fspick: 433,
  pidfdOpen: 434,
  openat2: 437,
  pidfdGetfd: 438,
  mountSetattr: 442,
  cachestat: 451,
  fchmodat2: 452,
} as const;

export interface Availability {
  available: boolean;
  /** In plain words why not; '' when available. */
  reason: string;
}

interface Binding {
  libc: Libc;
  errno(): number;
  /** Errno names by number. */
  names: ReadonlyMap<number, string>;
}

let binding: Binding | string | null = null;

/** Whether system calls beyond Node's can be made here. Loads the library on first use. */
export function linuxAvailable(): Availability {
  binding ??= bind();
  return typeof binding === 'string' ? { available: false, reason: binding } : { available: true, reason: '' };
}

/** The bound C functions. Throws DRIVER_UNAVAILABLE where {@link linuxAvailable} says no. */
export function libc(): Libc {
  return bound().libc;
}

/** errno of the last call in this thread; only meaningful right after a call that failed. */
export function lastErrno(): number {
  return bound().errno();
}

/** `ENOENT` for 2; `ERRNO_4000` for a number without a name. */
export function errnoName(errno: number): string {
  return bound().names.get(errno) ?? `ERRNO_${errno}`;
}

/** Errno names to numbers, for errors that we raise ourselves. */
export function errnoNumber(name: string): number {
  for (const [number, known] of bound().names) if (known === name) return number;
  throw new RangeError(`no errno is called ${name}`);
}

function bound(): Binding {
  if (binding !== null && typeof binding !== 'string') return binding;
  const { available, reason } = linuxAvailable();
  if (available) return bound();
  throw new LayerdError('DRIVER_UNAVAILABLE', `this needs Linux system calls that are not available: ${reason}`, {
    details: { reason },
    hint: 'Use the copy driver, or run on Linux with the koffi package installed and LAYERD_NO_FFI unset.',
  });
}

function bind(): Binding | string {
  if (process.platform !== 'linux') return `the operating system is ${process.platform}, not Linux`;
  if (process.env['LAYERD_NO_FFI'] === '1') return 'LAYERD_NO_FFI=1 switches them off';
  if (process.arch !== 'x64' && process.arch !== 'arm64') return `no call numbers are known for ${process.arch}`;
  try {
    const koffi = createRequire(import.meta.url)('koffi') as typeof Koffi;
    // The symbols of the running program: whatever C library Node itself is linked to.
    const program = koffi.load(null);
    const functions = Object.entries(PROTOTYPES).map(([name, [symbol, result, args]]) => [
      name,
      program.func(symbol, result, [...args]),
    ]);
    return {
      libc: Object.fromEntries(functions) as Libc,
      errno: () => koffi.errno(),
      names: namesByNumber(koffi.os.errno),
    };
  } catch (thrown) {
    return thrown instanceof Error ? thrown.message : String(thrown);
  }
}

/** Of two names for one number the one that Node uses. */
function namesByNumber(codes: Record<string, number>): Map<number, string> {
  const names = new Map<number, string>();
  for (const [name, number] of Object.entries(codes)) names.set(number, name);
  for (const name of ['EAGAIN', 'ENOTSUP', 'EDEADLK']) {
    const number = codes[name];
    if (number !== undefined) names.set(number, name);
  }
  return names;
}
