/** Bytes to feed to content/, and what takes them. */
import { createHash } from 'node:crypto';
import type { ByteSource } from '../../src/content/source.js';
import { inflaterName } from '../../src/content/compression.js';
import { digestFromHex, type Digest } from '../../src/core/digest.js';
import { LayerdError } from '../../src/core/errors.js';
import type { Prerequisite } from '../support.js';

export const KIB = 1024;
export const MIB = 1024 * 1024;

/** Deterministic bytes, by turns repetitive, random and zero, as in a layer. */
export function sampleBytes(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed >>> 0 || 1;
  for (let at = 0; at < length;) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const run = Math.min(length - at, 64 + (state >>> 18));
    const kind = (state >>> 8) % 3;
    for (let i = 0; i < run; i++) {
      if (kind === 0) state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      if (kind < 2) bytes[at + i] = kind === 0 ? state >>> 24 : 97 + (i % 23);
    }
    at += run;
  }
  return bytes;
}

/**
 * The bytes in chunks of the given sizes (the last one repeats). A chunk is spoilt as soon as the next is asked for, as
 * the contract of ByteSource allows: who still looks at it fails.
 */
export async function* chunked(bytes: Buffer, ...sizes: number[]): AsyncGenerator<Buffer> {
  let index = 0;
  for (let at = 0; at < bytes.length;) {
    const size = sizes[Math.min(index++, sizes.length - 1)] ?? bytes.length;
    const chunk = Buffer.from(bytes.subarray(at, at + size));
    at += chunk.length;
    yield chunk;
    chunk.fill(0xee);
  }
}

/** All of a source, copied as it comes. */
export async function collect(source: ByteSource): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const chunk of source) parts.push(Buffer.from(chunk));
  return Buffer.concat(parts);
}

/** The LayerdError that a promise rejects with; fails for anything else. */
export async function refusal(promise: Promise<unknown>): Promise<LayerdError> {
  const outcome = await promise.then(
    () => 'nothing was refused',
    (thrown: unknown) => thrown,
  );
  if (outcome instanceof LayerdError) return outcome;
  throw new Error(`expected a LayerdError, got ${String(outcome)}`);
}

export function digestOf(bytes: Buffer): Digest {
  return digestFromHex(createHash('sha256').update(bytes).digest('hex'));
}

/** The native inflaters. */
export function needsLibrary(library: 'libisal' | 'libzstd', debianPackage: string): Prerequisite {
  return {
    name: library,
    met: inflaterName().includes(library),
    enable: `sudo apt-get install ${debianPackage}`,
  };
}
