/** zstd by libzstd.so.1 (its stable streaming interface): any number of frames, skippable ones included. */
import type { BlockDecoder } from './inflate-blocks.js';
import { invalidStream, trailingBytes, truncatedStream } from './inflate-error.js';
import { onThread, openLibrary, type NativeFunction } from './native-library.js';

/** ZSTD_inBuffer and ZSTD_outBuffer: pointer, size, position, 8 bytes each. */
const BUFFER_BYTES = 24;
const SIZE = 8;
const POSITION = 16;

interface Zstd {
  address: (buffer: Buffer) => bigint;
  create: NativeFunction<() => bigint>;
  free: NativeFunction<(context: bigint) => bigint | number>;
  decompress: NativeFunction<(context: bigint, output: Buffer, input: Buffer) => bigint | number>;
  isError: NativeFunction<(result: bigint | number) => number>;
  errorName: NativeFunction<(result: bigint | number) => string>;
}

let loaded: Zstd | null | undefined;

/** Makes decoders, each of one zstd stream; null where libzstd is not there. */
export function zstdDecoders(): (() => BlockDecoder) | null {
  if (loaded === undefined) loaded = load();
  const zstd = loaded;
  return zstd === null ? null : () => new ZstdDecoder(zstd);
}

function load(): Zstd | null {
  const opened = openLibrary('libzstd.so.1');
  if (opened === null) return null;
  const { koffi, library } = opened;
  return {
    address: (buffer) => koffi.address(buffer),
    create: library.func('void *ZSTD_createDCtx()') as unknown as Zstd['create'],
    free: library.func('size_t ZSTD_freeDCtx(void *context)') as unknown as Zstd['free'],
    decompress: library.func(
      'size_t ZSTD_decompressStream(void *context, void *output, void *input)',
    ) as unknown as Zstd['decompress'],
    isError: library.func('unsigned int ZSTD_isError(size_t result)') as unknown as Zstd['isError'],
    errorName: library.func('const char *ZSTD_getErrorName(size_t result)') as unknown as Zstd['errorName'],
  };
}

class ZstdDecoder implements BlockDecoder {
  readonly compression = 'zstd';
  private readonly zstd: Zstd;
  private readonly context: bigint;
  private readonly input = Buffer.alloc(BUFFER_BYTES);
  private readonly output = Buffer.alloc(BUFFER_BYTES);
  private betweenFrames = false;
  private frames = 0;
  private offset = 0;

  constructor(zstd: Zstd) {
    this.zstd = zstd;
    this.context = zstd.create();
    if (!this.context) throw new Error('ZSTD_createDCtx: out of memory');
  }

  async step(input: Buffer, output: Buffer): Promise<{ read: number; written: number }> {
    this.point(this.input, input);
    this.point(this.output, output);
    const result = await onThread(this.zstd.decompress, this.context, this.output, this.input);
    const read = Number(this.input.readBigUInt64LE(POSITION));
    const written = Number(this.output.readBigUInt64LE(POSITION));
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

  private point(buffer: Buffer, bytes: Buffer): void {
    buffer.writeBigUInt64LE(this.zstd.address(bytes), 0);
    buffer.writeBigUInt64LE(BigInt(bytes.length), SIZE);
    buffer.writeBigUInt64LE(0n, POSITION);
  }

  private error(name: string): Error {
    if (this.betweenFrames && this.frames > 0) return trailingBytes('zstd', this.offset);
    return invalidStream('zstd', `cannot be decompressed: ${name}`, this.offset);
  }
}
