/**
 * Compressing layers for registries: gzip by ISA-L where it is there (about five times as fast as zlib at about the size
 * of its level 1), else by zlib; zstd by libzstd. The same bytes give the same blob as long as the library is the same.
 */
import { pipeline, Readable } from 'node:stream';
import { createGzip } from 'node:zlib';
import { LayerdError } from '../core/errors.js';
import type { Compression } from './compression-magic.js';
import { deflateBlocks, OUTPUT_BYTES } from './deflate-blocks.js';
import { isalEncoder } from './deflate-isal.js';
import { zstdEncoder } from './deflate-zstd.js';
import type { ByteSource } from './source.js';

export type DeflateCompression = Exclude<Compression, 'none'>;

const ZLIB_LEVEL = 5;

/** The compressed bytes; each chunk is the receiver's. Throws COMPRESSION_UNSUPPORTED where nothing here can make them. */
export function deflate(source: ByteSource, compression: DeflateCompression): ByteSource {
  const encoder = compression === 'gzip' ? isalEncoder() : zstdEncoder();
  if (encoder !== null) return deflateBlocks(source, encoder);
  if (compression === 'gzip') return deflateByZlib(source);
  throw new LayerdError('COMPRESSION_UNSUPPORTED', 'there is nothing on this machine that compresses with zstd', {
    details: { compression },
    hint: 'Install the library libzstd.so.1 (Debian: libzstd1), or choose gzip.',
  });
}

async function* deflateByZlib(source: ByteSource): AsyncGenerator<Buffer> {
  // zlib takes a chunk before it has compressed the one before: what is used again must not be handed to it
  const owned = async function* (): AsyncGenerator<Buffer> {
    for await (const chunk of source) yield Buffer.from(chunk);
  };
  const gzip = createGzip({ level: ZLIB_LEVEL, chunkSize: OUTPUT_BYTES });
  // what fails is told by the stream that is read
  pipeline(Readable.from(owned(), { objectMode: false }), gzip, () => undefined);
  yield* gzip as AsyncIterable<Buffer>;
}
