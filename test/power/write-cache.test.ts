/** The cache of the disk that forgets, against a plain model: what is read back, and what a cut keeps. */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BLOCK_BYTES, WriteCache, type Choose } from './fuse/write-cache.js';
import { noise, Random } from './random.js';

const BYTES = 16 * BLOCK_BYTES;
let home: string;

beforeAll(() => {
  home = mkdtempSync(join(tmpdir(), 'layerd-cache-'));
});
afterAll(() => rmSync(home, { recursive: true }));

describe('the write cache of a disk', () => {
  it.each([1, 2, 3, 4, 5])('reads what was written, and keeps of it what is chosen (seed %i)', (seed) => {
    const random = new Random(`cache ${seed}`);
    const fd = diskOf(Buffer.alloc(BYTES));
    const cache = new WriteCache(fd);
    const now = Buffer.alloc(BYTES);
    // What the whole disk held after each write since the last flush, the flush first.
    let states = [Buffer.from(now)];
    for (let step = 0; step < 100; step += 1) {
      if (random.chance(0.05)) {
        cache.flush();
        states = [Buffer.from(now)];
      }
      // A disk is written by sectors.
      const at = random.below(BYTES / 512) * 512;
      const bytes = noise(`${seed} ${step}`, Math.min(BYTES - at, (1 + random.below(20)) * 512));
      cache.write(at, bytes);
      bytes.copy(now, at);
      states.push(Buffer.from(now));
      expect(cache.read(0, BYTES).equals(now)).toBe(true);
    }
    closeSync(fd);
    const [flushed = now] = states;
    expect(cutOf(cache, flushed, () => -1).equals(flushed)).toBe(true);
    expect(cutOf(cache, flushed, (versions) => versions - 1).equals(now)).toBe(true);
    const torn = cutOf(cache, flushed, (versions) => random.below(versions + 1) - 1);
    for (let at = 0; at < BYTES; at += BLOCK_BYTES) {
      const block = torn.subarray(at, at + BLOCK_BYTES);
      expect(states.some((state) => state.subarray(at, at + BLOCK_BYTES).equals(block))).toBe(true);
    }
  });
});

function diskOf(content: Buffer): number {
  writeFileSync(join(home, 'disk'), content);
  return openSync(join(home, 'disk'), 'r+');
}

/** What the disk holds after a cut. */
function cutOf(cache: WriteCache, flushed: Buffer, choose: Choose): Buffer {
  const fd = diskOf(flushed);
  try {
    cache.settle(fd, choose);
    return readFileSync(join(home, 'disk'));
  } finally {
    closeSync(fd);
  }
}
