/** The data of files: holes, preallocation, copies that share blocks. */
import { constants as os } from 'node:os';
import { lastErrno, libc } from './libc.js';
import { failed, scratch } from './system-error.js';

/** A run of bytes that is data, not hole. */
export interface DataSegment {
  offset: number;
  length: number;
}

const SEEK_DATA = 3;
const SEEK_HOLE = 4;

const FALLOC_KEEP_SIZE = 0x01;
const FALLOC_PUNCH_HOLE = 0x02;

/** _IOW(0x94, 13, struct file_clone_range) of linux/fs.h; the same on x86_64 and arm64. */
const FICLONERANGE = 0x4020_940d;

/** ftruncate(2). */
export function ftruncate(fd: number, size: number): void {
  if (libc().ftruncate(fd, size) < 0) throw failed('ftruncate');
}

/** fallocate(2): reserves blocks, so that later writes there cannot meet a full disk. `keepSize` leaves the file's size. */
export function fallocate(fd: number, offset: number, length: number, keepSize = false): void {
  if (libc().fallocate(fd, keepSize ? FALLOC_KEEP_SIZE : 0, offset, length) < 0) throw failed('fallocate');
}

/** fallocate(2) with PUNCH_HOLE: gives the blocks back, the bytes read as zero. ENOTSUP where the file system cannot. */
export function punchHole(fd: number, offset: number, length: number): void {
  if (libc().fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, offset, length) < 0) throw failed('fallocate');
}

/** pread(2) into `buffer`; may be short, 0 at the end of the file. */
export function pread(fd: number, buffer: Uint8Array, offset: number): number {
  const length = libc().pread(fd, buffer, buffer.length, offset);
  if (length < 0) throw failed('pread');
  return length;
}

/** pwrite(2) of all of `buffer`. */
export function pwrite(fd: number, buffer: Uint8Array, offset: number): void {
  for (let done = 0; done < buffer.length;) {
    const rest = done === 0 ? buffer : buffer.subarray(done);
    const length = libc().pwrite(fd, rest, rest.length, offset + done);
    if (length < 0) throw failed('pwrite');
    done += length;
  }
}

/**
 * Where a file of `size` bytes has data: lseek(2) with SEEK_DATA and SEEK_HOLE. One segment over everything where the
 * file system does not know holes. Moves the descriptor's position.
 */
export function dataSegments(fd: number, size: number): DataSegment[] {
  const segments: DataSegment[] = [];
  for (let at = 0; at < size;) {
    const offset = seek(fd, at, SEEK_DATA);
    if (offset === null || offset >= size) break;
    const end = Math.min(seek(fd, offset, SEEK_HOLE) ?? size, size);
    segments.push({ offset, length: end - offset });
    at = end;
  }
  return segments;
}

/** Null for ENXIO: nothing of that kind behind `offset`. */
function seek(fd: number, offset: number, whence: number): number | null {
  const found = libc().lseek(fd, offset, whence);
  if (found >= 0) return Number(found);
  if (lastErrno() === os.errno.ENXIO) return null;
  throw failed('lseek');
}

/** Two loff_t in and out, for copy_file_range(2). */
const offsets = [scratch(8), scratch(8)] as const;

/**
 * copy_file_range(2): copies inside the kernel, sharing blocks where the file system can. Returns how many bytes,
 * fewer than `length` at the end of the source. EXDEV, EINVAL or ENOTSUP where it cannot be done: copy by reading.
 */
export function copyFileRange(from: number, fromOffset: number, to: number, toOffset: number, length: number): number {
  let done = 0;
  while (done < length) {
    offsets[0].writeBigInt64LE(BigInt(fromOffset + done));
    offsets[1].writeBigInt64LE(BigInt(toOffset + done));
    const copied = libc().copyFileRange(from, offsets[0], to, offsets[1], length - done, 0);
    if (copied < 0) throw failed('copy_file_range');
    if (copied === 0) break;
    done += copied;
  }
  return done;
}

/** struct file_clone_range of linux/fs.h. */
const cloneRange = scratch(32);

/**
 * FICLONERANGE (ioctl_ficlonerange(2)): lets `to` share the blocks of `from`; offsets and length are multiples of the
 * block size, but for the end of the source. Throws ENOTSUP, EXDEV or EINVAL where the file system cannot.
 */
export function cloneFileRange(from: number, fromOffset: number, to: number, toOffset: number, length: number): void {
  cloneRange.writeBigInt64LE(BigInt(from), 0);
  cloneRange.writeBigUInt64LE(BigInt(fromOffset), 8);
  cloneRange.writeBigUInt64LE(BigInt(length), 16);
  cloneRange.writeBigUInt64LE(BigInt(toOffset), 24);
  if (libc().ioctl(to, FICLONERANGE, cloneRange) < 0) throw failed('FICLONERANGE');
}

/** FICLONE: the whole of `from` becomes the content of `to`. A range of length 0 means up to the end. */
export function cloneFile(from: number, to: number): void {
  cloneFileRange(from, 0, to, 0, 0);
}
