/** zstd by libzstd.so.1 (its stable streaming interface): any number of frames, skippable ones included. */
import type { BlockDecoder } from './inflate-blocks.js';
import { invalidStream, trailingBytes, truncatedStream } from './inflate-error.js';
import { onThread, type NativeFunction } from './native-library.js';
import { openZstd, ZstdBuffers, type ZstdLibrary } from './zstd-library.js';

interface Zstd extends ZstdLibrary {
  create: NativeFunction<() => bigint>;
  free: NativeFunction<(context: bigint) => bigint | number>;
  decompress: NativeFunction<(context: bigint, output: Buffer, input: Buffer) => bigint | number>;
}

let loaded: Zstd | null | undefined;

/** Makes decoders, each of one zstd stream; null where libzstd is not there. */
export function zstdDecoders(): (() => BlockDecoder) | null {
  if (loaded === undefined) loaded = load();
  const zstd = loaded;
  return zstd === null ? null : () => new ZstdDecoder(zstd);
}

function load(): Zstd | null {
  return openZstd((func) => ({
    create: func('void *ZSTD_createDCtx()') as Zstd['create'],
    free: func('size_t ZSTD_freeDCtx(void *context)') as Zstd['free'],
    decompress: func('size_t ZSTD_decompressStream(void *context, void *output, void *input)') as Zstd['decompress'],
  }));
}

class ZstdDecoder implements BlockDecoder {
  readonly compression = 'zstd';
  private readonly zstd: Zstd;
  private readonly context: bigint;
  private readonly buffers: ZstdBuffers;
  private betweenFrames = false;
  private frames = 0;
  private offset = 0;

  constructor(zstd: Zstd) {
    this.zstd = zstd;
    this.buffers = new ZstdBuffers(zstd);
    this.context = zstd.create();
    if (!this.context) throw new Error('ZSTD_createDCtx: out of memory');
  }

  async step(input: Buffer, output: Buffer): Promise<{ read: number; written: number }> {
    this.buffers.point(input, output);
    const { decompress } = this.zstd;
    const result = await onThread(decompress, this.context, this.buffers.output, this.buffers.input);
    const { read, written } = this.buffers.moved();
    this.offset += read;
    if (this.zstd.isError(result)) throw this.error(this.zstd.errorName(result));
    // Between frames an empty call starts nothing, though its result (the size of the next header) says otherwise.
    if (read > 0 || written > 0) this.betweenFrames = Number(result) === 0;
    if (this.betweenFrames) this.frames++;
    return { read, written };
  }

  finish(): void {
    if (!this.betweenFrames) throw truncatedStream('zstd', this.offset);
  }

  close(): void {
    this.zstd.free(this.context);
  }

  private error(name: string): Error {
    if (this.betweenFrames && this.frames > 0) return trailingBytes('zstd', this.offset);
    return invalidStream('zstd', `cannot be decompressed: ${name}`, this.offset);
  }
}
