import { gzipSync } from 'node:zlib';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { inflate, inflaterName, type Inflater } from '../../src/content/compression.js';
import { LayerdError } from '../../src/core/errors.js';
import { chunked, collect, sampleBytes } from '../unit/content-samples.js';
import { runs } from './runs.js';

const inflaters: Inflater[] = inflaterName().includes('libisal') ? ['native', 'zlib'] : ['zlib'];

/** Members of any content, and the sizes of the chunks they come in. */
const stream = fc.record({
  members: fc.array(
    fc.record({
      content: fc.oneof(
        fc.uint8Array({ maxLength: 3000 }).map((bytes) => Buffer.from(bytes)),
        fc.tuple(fc.nat(400_000), fc.nat(99)).map(([length, seed]) => sampleBytes(length, seed)),
      ),
      level: fc.integer({ min: 0, max: 9 }),
    }),
    { minLength: 1, maxLength: 4 },
  ),
  chunks: fc.array(fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 100_000 })), {
    minLength: 1,
    maxLength: 12,
  }),
});

/** The bytes that come out, or the code of the error. */
async function outcome(bytes: Buffer, chunks: number[], inflater: Inflater): Promise<Buffer | string> {
  try {
    return await collect(inflate(chunked(bytes, ...chunks, 65_536), 'gzip', { inflater }));
  } catch (thrown) {
    if (thrown instanceof LayerdError) return thrown.code;
    throw thrown;
  }
}

describe('inflating anything', () => {
  it('gives what was deflated, however it is cut into members and chunks', async () => {
    await fc.assert(
      fc.asyncProperty(stream, async ({ members, chunks }) => {
        const bytes = Buffer.concat(members.map(({ content, level }) => gzipSync(content, { level })));
        const expected = Buffer.concat(members.map(({ content }) => content));
        for (const inflater of inflaters) {
          const found = await outcome(bytes, chunks, inflater);
          expect(Buffer.isBuffer(found) && found.equals(expected), inflater).toBe(true);
        }
      }),
      { numRuns: runs(60) },
    );
  });

  it('never gives other bytes than were deflated: damage is an error, or harmless', async () => {
    const damage = fc.record({
      length: fc.integer({ min: 1, max: 60_000 }),
      seed: fc.nat(1000),
      chunks: fc.array(fc.integer({ min: 1, max: 30_000 }), { minLength: 1, maxLength: 5 }),
      position: fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
      change: fc.oneof(
        fc.integer({ min: 1, max: 255 }).map((mask) => ({ kind: 'flip' as const, mask })),
        fc.constant({ kind: 'cut' as const, mask: 0 }),
        fc.integer({ min: 0, max: 255 }).map((mask) => ({ kind: 'insert' as const, mask })),
      ),
    });
    await fc.assert(
      fc.asyncProperty(damage, async ({ length, seed, chunks, position, change }) => {
        const content = sampleBytes(length, seed);
        const half = content.subarray(0, length / 2);
        const first = gzipSync(half);
        const whole = Buffer.concat([first, gzipSync(content.subarray(length / 2))]);
        const at = Math.floor(position * whole.length);
        // what ends between two members is whole: only its digest tells that something is missing
        const expected = change.kind === 'cut' && at === first.length ? half : content;
        const spoilt = damaged(whole, at, change);
        for (const inflater of inflaters) {
          const found = await outcome(spoilt, chunks, inflater);
          const fine = Buffer.isBuffer(found) ? found.equals(expected) : found === 'COMPRESSION_INVALID';
          expect(fine, `${inflater}: ${change.kind} at ${at} of ${whole.length}`).toBe(true);
        }
      }),
      { numRuns: runs(300) },
    );
  });
});

function damaged(bytes: Buffer, at: number, { kind, mask }: { kind: 'flip' | 'cut' | 'insert'; mask: number }): Buffer {
  if (kind === 'cut') return bytes.subarray(0, at);
  if (kind === 'insert') return Buffer.concat([bytes.subarray(0, at), Buffer.from([mask]), bytes.subarray(at)]);
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] ?? 0) ^ mask;
  return copy;
}
