/** Which mounts read around the page cache of their tars, where the setting leaves that to us. */
import { statSync } from 'node:fs';
import { bytesOf } from '../../src/core/bytes.js';
import { bytesInCache } from '../../src/disk/cache.js';
import { directAlignment } from '../../src/linux/stat.js';
import { BLOCK_BYTES } from './format.js';
import { inodesOf } from './index-file.js';
import type { MountImage } from './mounts.js';

/**
 * From about 400 KiB to a file on, reading cold takes no longer by directio: each file costs some 80 µs more, each GB that
 * does not go through the cache 0.1 to 0.3 s less. Twice that, and more, to be sure of it.
 */
const LARGE_BYTES = 1024 * 1024;

/**
 * Whether directio is better for this image, mounted now: its files are large on average, and less than half of what they
 * lie in is in the page cache. What import left there serves the first start.
 */
export function suitsDirectio({ index, tars }: MountImage): boolean {
  const bytes = sum(tars.map((tar) => statSync(tar).size));
  return (
    bytes / inodesOf(index) >= LARGE_BYTES && tars.every(canReadDirectly) && sum(tars.map(bytesInCache)) < bytes / 2
  );
}

/** A disk with larger sectors would refuse to read what starts in the middle of one. */
function canReadDirectly(tar: string): boolean {
  const alignment = directAlignment(bytesOf(tar));
  return alignment !== null && alignment <= BLOCK_BYTES;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
