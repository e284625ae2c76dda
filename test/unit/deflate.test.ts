/** What is compressed for registries comes out as it went in, for us and for others, and the same each time. */
import { randomBytes } from 'node:crypto';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { sha256 } from '../../src/core/digest.js';
import { inflate } from '../../src/content/compression.js';
import { deflate, type DeflateCompression } from '../../src/content/deflate.js';
import type { ByteSource } from '../../src/content/source.js';

/** The bytes in pieces that all lie in one buffer, as a source may give them. */
async function* inPieces(bytes: Buffer, length: number): AsyncGenerator<Buffer> {
  const piece = Buffer.alloc(length);
  for (let at = 0; at < bytes.length; at += length) {
    await Promise.resolve();
    const copied = bytes.copy(piece, 0, at, at + length);
    yield piece.subarray(0, copied);
  }
}

async function allOf(source: ByteSource): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of source) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

const SAMPLES: [name: string, bytes: Buffer][] = [
  ['nothing', Buffer.alloc(0)],
  ['one byte', Buffer.from('x')],
  ['zeros', Buffer.alloc(5_000_000)],
  ['noise', randomBytes(3_000_001)],
  ['text', Buffer.from(Array.from({ length: 200_000 }, (_, index) => `line ${index * index}\n`).join(''))],
];

describe.each(['gzip', 'zstd'] satisfies DeflateCompression[])('%s', (compression) => {
  it.each(SAMPLES)('gives back %s', async (_name, bytes) => {
    const blob = await allOf(deflate(inPieces(bytes, 65_537), compression));
    const back = await allOf(inflate(inPieces(blob, 65_537), compression));
    expect(sha256(back)).toBe(sha256(bytes));
    if (compression === 'gzip') expect(sha256(gunzipSync(blob))).toBe(sha256(bytes));
  });

  it('makes the same of the same, and less of what repeats', async () => {
    const [, bytes] = SAMPLES[4] ?? ['', Buffer.alloc(0)];
    const [one, two] = [
      await allOf(deflate(inPieces(bytes, 65_537), compression)),
      await allOf(deflate(inPieces(bytes, 65_537), compression)),
    ];
    expect(sha256(one)).toBe(sha256(two));
    expect(one.length).toBeLessThan(bytes.length / 2);
  });

  it('fails as its source does', async () => {
    const broken = async function* (): AsyncGenerator<Buffer> {
      yield* inPieces(Buffer.alloc(100_000), 1000);
      throw new Error('no more');
    };
    await expect(allOf(deflate(broken(), compression))).rejects.toThrow('no more');
  });
});
