/** Durability and the page cache; fsync(2) and fdatasync(2) are Node's. */
import { readFileSync } from 'node:fs';
import { libc, SYS } from './libc.js';
import { failed, scratch, SystemError } from './system-error.js';

/** sync_file_range(2) flags. */
export const SYNC_RANGE = {
  /** Wait for writeback that is under way. */
  waitBefore: 1,
  /** Start writeback of what is dirty. */
  write: 2,
  /** Wait for the writeback of all of it. */
  waitAfter: 4,
} as const;

/** posix_fadvise(2) advice; the same numbers on x86_64 and arm64. */
export const ADVICE = { normal: 0, random: 1, sequential: 2, willNeed: 3, dontNeed: 4, noReuse: 5 } as const;

/** syncfs(2): waits until all dirty data and metadata of the file system of `fd` is durable. */
export function syncfs(fd: number): void {
  if (libc().syncfs(fd) < 0) throw failed('syncfs');
}

/** Bytes of the page cache, of all file systems, that wait to be written. */
export function dirtyBytes(): number {
  const [, pages = '0'] = /^nr_dirty (\d+)$/m.exec(readFileSync('/proc/vmstat', 'latin1')) ?? [];
  return Number(pages) * libc().getpagesize();
}

/**
 * sync_file_range(2): starts or awaits writeback of a part of a file (length 0: to its end); `flags` is a sum of
 * {@link SYNC_RANGE}. Makes nothing durable by itself: neither metadata nor the disk's cache are flushed.
 */
export function syncFileRange(fd: number, offset: number, length: number, flags: number): void {
  if (libc().syncFileRange(fd, offset, length, flags) < 0) throw failed('sync_file_range');
}

/**
 * Starts writeback of a part of a file and waits for it as {@link syncFileRange} does, on a thread of libuv's pool. The
 * error must be heeded: the kernel tells a failed writeback once, and fsync would not tell it again.
 */
export function writeBack(fd: number, offset: number, length: number): Promise<void> {
  return syncFileRangeElsewhere(fd, offset, length, SYNC_RANGE.waitBefore | SYNC_RANGE.write | SYNC_RANGE.waitAfter);
}

/** Starts writeback of a part of a file, on a thread of libuv's pool: where the disk's queue is full, that waits, too. */
export function startWriteBack(fd: number, offset: number, length: number): Promise<void> {
  return syncFileRangeElsewhere(fd, offset, length, SYNC_RANGE.write);
}

function syncFileRangeElsewhere(fd: number, offset: number, length: number, flags: number): Promise<void> {
  return new Promise((resolve, reject) => {
    libc().syncFileRange.async(fd, offset, length, flags, (error, result) => {
      if (error !== null) reject(error);
      else if (result < 0) reject(failed('sync_file_range'));
      else resolve();
    });
  });
}

/** posix_fadvise(2) on a part of a file (length 0: to its end). `dontNeed` drops clean pages only: sync first. */
export function fadvise(
  fd: number,
  offset: number,
  length: number,
  advice: (typeof ADVICE)[keyof typeof ADVICE],
): void {
  // this call returns its errno
  const errno = libc().posixFadvise(fd, offset, length, advice);
  if (errno !== 0) throw new SystemError(errno, 'posix_fadvise', new Uint8Array());
}

/** struct cachestat_range of linux/mman.h: offset and length; 0 and 0 are the whole file. */
const wholeFile = scratch(16);
/** struct cachestat; nr_cache comes first. */
const cacheStat = scratch(40);

/**
 * Bytes of an open file that are in the page cache, in whole pages: cachestat(2). Null where the kernel does not tell:
 * before Linux 6.5, or where a filter of system calls forbids it.
 */
export function cachedBytes(fd: number): number | null {
  if (libc().cachestat(SYS.cachestat, fd, wholeFile, cacheStat, 0) < 0) return null;
  return Number(cacheStat.readBigUInt64LE(0)) * libc().getpagesize();
}
