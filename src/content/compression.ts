/** From the bytes of a blob to the bytes of a tar: what compression it has, and the fastest inflater that this machine has. */
import { LayerdError } from '../core/errors.js';
import { inflateBlocks, tooLarge, type InflateOptions } from './inflate-blocks.js';
import { isalDecoders } from './inflate-isal.js';
import { inflateByZlib, zlibKnowsZstd } from './inflate-zlib.js';
import { zstdDecoders } from './inflate-zstd.js';
import { gathered } from './source-gather.js';
import type { ByteSource } from './source.js';

export type Compression = 'none' | 'gzip' | 'zstd';

/** Which code inflates: `native` is a library of the system on another thread, `zlib` is Node's own. */
export type Inflater = 'native' | 'zlib';

/** The magic bytes that {@link detectCompression} needs to see. */
export const MAGIC_BYTES = 10;

const BATCH_BYTES = 512 * 1024;

/** Compressions that layers do not come in, by name, so that the error can say what was met. */
const FOREIGN: [name: string, isStart: (head: Buffer) => boolean][] = [
  ['xz', (head) => startsWith(head, 'fd377a585a00')],
  ['bzip2', (head) => startsWith(head, '425a68') && head.subarray(4, 10).toString('hex') === '314159265359'],
  ['lz4', (head) => startsWith(head, '04224d18')],
  ['lzip', (head) => startsWith(head, '4c5a495001')],
  ['compress', (head) => startsWith(head, '1f9d')],
];

/** By magic, from the first {@link MAGIC_BYTES} of a blob (or all of a shorter one). Throws COMPRESSION_UNSUPPORTED. */
export function detectCompression(head: Buffer): Compression {
  if (startsWith(head, '1f8b')) return 'gzip';
  if (startsWith(head, '28b52ffd')) return 'zstd';
  // A zstd stream may start with a skippable frame (RFC 8878, 3.1.2).
  if (head.length >= 4 && head.readUInt32LE(0) >>> 4 === 0x184d2a5) return 'zstd';
  const foreign = FOREIGN.find(([, isStart]) => isStart(head));
  if (foreign === undefined) return 'none';
  throw new LayerdError('COMPRESSION_UNSUPPORTED', `the layer is compressed with ${foreign[0]}`, {
    details: { compression: foreign[0] },
    hint: 'Layers may be plain tars, or compressed with gzip or zstd: convert the image, for example with skopeo copy.',
  });
}

/** Looks at the first bytes of a source; `source` then gives all of them, in chunks of half a MiB or more. */
export async function openCompressed(source: ByteSource): Promise<{ compression: Compression; source: ByteSource }> {
  const chunks = gathered(source, BATCH_BYTES);
  const first = await chunks.next();
  if (first.done === true) return { compression: 'none', source: chunks };
  try {
    return { compression: detectCompression(first.value), source: prepend(first.value, chunks) };
  } catch (thrown) {
    await chunks.return(undefined);
    throw thrown;
  }
}

async function* prepend(first: Buffer, rest: AsyncGenerator<Buffer>): AsyncGenerator<Buffer> {
  try {
    yield first;
    yield* rest;
  } finally {
    await rest.return(undefined);
  }
}

/**
 * The uncompressed bytes, in chunks of at most 1 MiB, made on another thread one step ahead of the consumer. `source`
 * should come in large chunks (see {@link openCompressed}). Throws COMPRESSION_INVALID for a stream that is damaged, cut
 * off or followed by other bytes, LAYER_LIMIT above `maxSize`, COMPRESSION_UNSUPPORTED where nothing here can inflate it.
 */
export function inflate(
  source: ByteSource,
  compression: Compression,
  options: Partial<InflateOptions & { inflater: Inflater }> = {},
): ByteSource {
  const { maxSize = Number.MAX_SAFE_INTEGER, tap = () => undefined, inflater } = options;
  if (compression === 'none') return plain(source, { maxSize, tap });
  const decoders = inflater === 'zlib' ? null : compression === 'gzip' ? isalDecoders() : zstdDecoders();
  if (decoders !== null) return inflateBlocks(source, decoders, { maxSize, tap });
  if (inflater !== 'native' && (compression === 'gzip' || zlibKnowsZstd())) {
    return inflateByZlib(source, compression, { maxSize, tap });
  }
  throw new LayerdError('COMPRESSION_UNSUPPORTED', `there is no inflater for ${compression} on this machine`, {
    details: { compression },
    hint: 'Install the library libzstd.so.1 (Debian: libzstd1), or run layerd on Node 24 or newer.',
  });
}

/** For people: what inflates here. */
export function inflaterName(): string {
  const gzip = isalDecoders() ? 'libisal' : 'node:zlib';
  const zstd = zstdDecoders() ? 'libzstd' : zlibKnowsZstd() ? 'node:zlib' : 'none';
  return `gzip: ${gzip}, zstd: ${zstd}`;
}

async function* plain(source: ByteSource, { maxSize, tap }: InflateOptions): AsyncGenerator<Buffer> {
  let size = 0;
  for await (const chunk of source) {
    size += chunk.length;
    if (size > maxSize) throw tooLarge(maxSize);
    const tapped = tap(chunk);
    if (tapped !== undefined) await tapped;
    yield chunk;
  }
}

function startsWith(head: Buffer, hex: string): boolean {
  return head.subarray(0, hex.length / 2).toString('hex') === hex;
}
