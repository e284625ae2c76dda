/** From the bytes of a blob to the bytes of a tar, by the fastest inflater that this machine has. */
import { LayerdError } from '../core/errors.js';
import { detectCompression, type Compression } from './compression-magic.js';
import { inflateBlocks, tooLarge, type InflateOptions } from './inflate-blocks.js';
import { isalDecoders } from './inflate-isal.js';
import { inflateByZlib, zlibKnowsZstd } from './inflate-zlib.js';
import { zstdDecoders } from './inflate-zstd.js';
import { gathered } from './source-gather.js';
import type { ByteSource } from './source.js';

/** Which code inflates: `native` is a library of the system on another thread, `zlib` is Node's own. */
export type Inflater = 'native' | 'zlib';

const BATCH_BYTES = 512 * 1024;

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
 * The uncompressed bytes, in chunks of at most 2 MiB, made on another thread one step ahead of the consumer. `source`
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
