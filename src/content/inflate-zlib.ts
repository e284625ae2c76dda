/** gzip and zstd by the streams of node:zlib: the way where native libraries cannot be called. */
import type { Transform } from 'node:stream';
import * as zlib from 'node:zlib';
import { LayerdError } from '../core/errors.js';
import { tooLarge, type InflateOptions } from './inflate-blocks.js';
import { invalidStream, trailingBytes, truncatedStream } from './inflate-error.js';
import type { ByteSource } from './source.js';

type ZlibStream = Transform & { readonly bytesWritten: number };
type StreamOptions = { chunkSize: number; readableHighWaterMark: number };

/** What newer releases of Node have of zstd. */
interface ZlibWithZstd {
  createZstdDecompress(options: StreamOptions): ZlibStream;
  zstdCompressSync(bytes: Buffer): Buffer;
  zstdDecompressSync(bytes: Buffer): Buffer;
}

const CHUNK_BYTES = 512 * 1024;

let zstd: ZlibWithZstd | null | undefined;

/** Whether Node's own zstd can be trusted: 22 has it, but takes a stream that was cut off for a whole one. */
export function zlibKnowsZstd(): boolean {
  if (zstd === undefined) {
    zstd = 'createZstdDecompress' in zlib ? (zlib as unknown as ZlibWithZstd) : null;
    if (zstd !== null && !noticesTruncation(zstd)) zstd = null;
  }
  return zstd !== null;
}

function noticesTruncation(candidate: ZlibWithZstd): boolean {
  const frame = candidate.zstdCompressSync(Buffer.alloc(1000, 'layer'));
  try {
    candidate.zstdDecompressSync(frame.subarray(0, frame.length - 4));
    return false;
  } catch {
    return true;
  }
}

/** Inflates through libuv's pool, up to two chunks ahead of the consumer. */
export async function* inflateByZlib(
  source: ByteSource,
  compression: 'gzip' | 'zstd',
  options: InflateOptions,
): AsyncGenerator<Buffer> {
  const feed = new Feed(source, compression, options);
  let size = 0;
  try {
    do {
      const stream = makeStream(compression);
      const feeding = feed.into(stream);
      for await (const chunk of stream as AsyncIterable<Buffer>) {
        size += chunk.length;
        if (size > options.maxSize) throw tooLarge(options.maxSize);
        yield chunk;
      }
      await feeding;
    } while (feed.hasMore);
    if (feed.offset === 0) throw truncatedStream(compression, 0);
  } catch (thrown) {
    throw translate(thrown, compression, feed.offset);
  } finally {
    await feed.close();
  }
}

function makeStream(compression: 'gzip' | 'zstd'): ZlibStream {
  const options = { chunkSize: CHUNK_BYTES, readableHighWaterMark: 2 * CHUNK_BYTES };
  if (compression === 'gzip') return zlib.createGunzip(options);
  if (!zlibKnowsZstd() || !zstd) throw new Error('node:zlib has no zstd here');
  return zstd.createZstdDecompress(options);
}

class Feed {
  /** Compressed bytes that were taken. */
  offset = 0;
  private rest: Buffer = Buffer.alloc(0);
  private readonly chunks: AsyncIterator<Buffer>;
  private readonly compression: 'gzip' | 'zstd';
  private readonly options: InflateOptions;

  constructor(source: ByteSource, compression: 'gzip' | 'zstd', options: InflateOptions) {
    this.chunks = source[Symbol.asyncIterator]();
    this.compression = compression;
    this.options = options;
  }

  /** The last stream ended at the end of a frame, and bytes are left. */
  get hasMore(): boolean {
    return this.rest.length > 0;
  }

  /** Feeds one stream until it or the source ends. Does not reject: what fails destroys the stream. */
  async into(stream: ZlibStream): Promise<void> {
    try {
      let before = 0;
      while (this.rest.length > 0 || (await this.refill())) {
        await this.write(stream);
        const taken = stream.bytesWritten - before;
        before = stream.bytesWritten;
        this.offset += taken;
        this.rest = this.rest.subarray(taken);
        // The gunzip stream takes further members by itself; zstd's ends with a frame that ends within a chunk.
        if (this.hasMore && this.compression === 'gzip') throw trailingBytes('gzip', this.offset);
        if (this.hasMore) return;
      }
      stream.end();
    } catch (thrown) {
      stream.destroy(thrown instanceof Error ? thrown : new Error(String(thrown)));
    }
  }

  async close(): Promise<void> {
    await this.chunks.return?.();
  }

  private untapped = false;

  private async refill(): Promise<boolean> {
    const next = await this.chunks.next();
    if (next.done === true) return false;
    this.rest = next.value;
    this.untapped = true;
    return true;
  }

  private async write(stream: ZlibStream): Promise<void> {
    const written = new Promise<void>((resolve, reject) => {
      stream.write(this.rest, (error) => (error ? reject(error) : resolve()));
    });
    const tapped = this.untapped ? this.options.tap(this.rest) : undefined;
    this.untapped = false;
    await Promise.all([written, tapped]);
  }
}

function translate(thrown: unknown, compression: 'gzip' | 'zstd', offset: number): unknown {
  if (thrown instanceof LayerdError || !(thrown instanceof Error)) return thrown;
  const { code } = thrown as NodeJS.ErrnoException;
  if (code === 'Z_BUF_ERROR') return truncatedStream(compression, offset, thrown);
  if (code === undefined || !/^(Z|ZSTD)_/.test(code)) return thrown;
  return invalidStream(compression, `cannot be inflated: ${thrown.message}`, offset, thrown);
}
