/** Which blocks of a file are shared with others: FS_IOC_FIEMAP (Documentation/filesystems/fiemap.rst). */
import { libc } from './libc.js';
import { failed, scratch } from './system-error.js';

/** A run of bytes on the device that several files have. */
export interface SharedExtent {
  physical: number;
  length: number;
}

/** _IOWR('f', 11, struct fiemap) */
const FS_IOC_FIEMAP = 0xc020_660b;
const HEADER = 32;
const EXTENT = 56;
const EXTENTS = 128;
const LAST = 0x1;
const SHARED = 0x2000;

const request = scratch(HEADER + EXTENTS * EXTENT);

/** The extents of an open file that other files have, too. Throws ENOTSUP where the file system has no extent map. */
export function sharedExtents(fd: number): SharedExtent[] {
  const shared: SharedExtent[] = [];
  for (let start = 0n; ;) {
    request.fill(0, 0, HEADER);
    request.writeBigUInt64LE(start, 0);
    request.writeBigUInt64LE(0xffff_ffff_ffff_ffffn - start, 8);
    request.writeUInt32LE(EXTENTS, 24);
    if (libc().ioctl(fd, FS_IOC_FIEMAP, request) < 0) throw failed('FS_IOC_FIEMAP');
    const mapped = request.readUInt32LE(20);
    for (let index = 0; index < mapped; index += 1) {
      const at = HEADER + index * EXTENT;
      const length = request.readBigUInt64LE(at + 16);
      const flags = request.readUInt32LE(at + 40);
      if ((flags & SHARED) !== 0) {
        shared.push({ physical: Number(request.readBigUInt64LE(at + 8)), length: Number(length) });
      }
      if ((flags & LAST) !== 0) return shared;
      start = request.readBigUInt64LE(at) + length;
    }
    if (mapped === 0) return shared;
  }
}
