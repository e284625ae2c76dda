import { LayerdError } from '../core/errors.js';
import type { Compression } from './compression-magic.js';
import { invalidStream } from './inflate-error.js';
import type { ByteSource } from './source.js';

/** A native decoder of one compressed stream. Calls never overlap. */
export interface BlockDecoder {
  readonly compression: Compression;
  /**
   * Decodes what it can of `input` into `output`, on another thread where that is worth the way; both stay untouched
   * until the promise is done.
   */
  step(input: Buffer, output: Buffer): Promise<{ read: number; written: number }>;
  /** The input is at its end. Throws COMPRESSION_INVALID unless the stream is whole. */
  finish(): void;
  close(): void;
}

export interface InflateOptions {
  /** Most bytes that may come out; one more is LAYER_LIMIT. */
  maxSize: number;
  /**
   * Sees every compressed chunk once, in order, while it is being inflated on the other thread: the place to hash it.
   * The chunk stays untouched until the promise is done.
   */
  tap: (chunk: Buffer) => Promise<void> | undefined;
}

// What a layer waits for is mostly its decoder, and the decoder for this thread between slabs: they are large, and nothing
// that takes long is done here meanwhile. Hashing elsewhere with slabs of 4 MiB took 9 to 18 % less than here with 2.
const SLAB_BYTES = 4 * 1024 * 1024;
const PIECE_BYTES = 2 * 1024 * 1024;
/** Of the first slab: enough for a tiny layer as a whole. */
const FIRST_SLAB_BYTES = 128 * 1024;

/**
 * Runs a decoder one slab ahead of the consumer: while it looks at one, the other fills on another thread. Holds two
 * slabs; each piece is valid until the next is asked for.
 */
export async function* inflateBlocks(
  source: ByteSource,
  makeDecoder: () => BlockDecoder,
  options: InflateOptions,
): AsyncGenerator<Buffer> {
  const decoder = makeDecoder();
  const filler = new SlabFiller(source, decoder, options);
  let slab: Buffer = Buffer.allocUnsafeSlow(FIRST_SLAB_BYTES);
  let spare: Buffer | null = null;
  let filling = filler.fill(slab);
  try {
    for (;;) {
      const length = await filling;
      if (length === 0) return;
      if (filler.done) spare ??= Buffer.alloc(0);
      else if (spare === null || spare.length < SLAB_BYTES) spare = Buffer.allocUnsafeSlow(SLAB_BYTES);
      filling = filler.fill(spare);
      filling.catch(() => undefined); // looked at above, when the consumer comes back
      for (let at = 0; at < length; at += PIECE_BYTES) yield slab.subarray(at, Math.min(length, at + PIECE_BYTES));
      [slab, spare] = [spare, slab];
    }
  } finally {
    // The other thread may still write into a slab and the decoder's state. What it fails with now interests nobody:
    // the consumer has left, or has that very error already.
    await filling.catch(() => undefined);
    decoder.close();
    await filler.close();
  }
}

class SlabFiller {
  done = false;
  private readonly chunks: AsyncIterator<Buffer>;
  private readonly decoder: BlockDecoder;
  private readonly options: InflateOptions;
  private input: Buffer = Buffer.alloc(0);
  private untapped = false;
  /** The last step filled its output: the decoder may hold more without new input. */
  private outputWaits = false;
  private idleSteps = 0;
  private bytesIn = 0;
  private bytesOut = 0;

  constructor(source: ByteSource, decoder: BlockDecoder, options: InflateOptions) {
    this.chunks = source[Symbol.asyncIterator]();
    this.decoder = decoder;
    this.options = options;
  }

  /** Fills `slab` as far as the stream goes; 0 at its end. */
  async fill(slab: Buffer): Promise<number> {
    let filled = 0;
    while (filled < slab.length && !this.done) {
      if (this.input.length === 0 && !this.outputWaits && !(await this.refill())) break;
      filled += await this.step(slab.subarray(filled));
    }
    this.bytesOut += filled;
    if (this.bytesOut > this.options.maxSize) throw tooLarge(this.options.maxSize);
    return filled;
  }

  async close(): Promise<void> {
    await this.chunks.return?.();
  }

  private async refill(): Promise<boolean> {
    const next = await this.chunks.next();
    if (next.done === true) {
      this.decoder.finish();
      this.done = true;
      return false;
    }
    this.input = next.value;
    this.untapped = true;
    return true;
  }

  private async step(output: Buffer): Promise<number> {
    const running = this.decoder.step(this.input, output);
    const tapped = this.untapped ? this.options.tap(this.input) : undefined;
    this.untapped = false;
    const [{ read, written }] = await Promise.all([running, tapped]);
    this.idleSteps = read === 0 && written === 0 ? this.idleSteps + 1 : 0;
    if (this.idleSteps > 2) throw invalidStream(this.decoder.compression, 'cannot be continued', this.bytesIn);
    this.bytesIn += read;
    this.input = this.input.subarray(read);
    this.outputWaits = written === output.length;
    return written;
  }
}

export function tooLarge(maxSize: number): LayerdError {
  return new LayerdError('LAYER_LIMIT', `the layer has more than ${maxSize} bytes uncompressed`, {
    details: { maxSize },
    hint: 'It may be a decompression bomb. If it is not, raise the limit on the size of a layer.',
  });
}
