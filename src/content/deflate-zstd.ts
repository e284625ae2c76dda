/** zstd by libzstd.so.1 (its stable streaming interface). */
import type { BlockEncoder } from './deflate-blocks.js';
import { onThread, openLibrary, type NativeFunction } from './native-library.js';

/** ZSTD_inBuffer and ZSTD_outBuffer: pointer, size, position, 8 bytes each. */
const BUFFER_BYTES = 24;
const SIZE = 8;
const POSITION = 16;

/** ZSTD_cParameter and ZSTD_EndDirective of zstd.h. */
const LEVEL_PARAMETER = 100;
const CHECKSUM_PARAMETER = 201;
const CONTINUE = 0;
const END = 2;

/** libzstd's own default. */
const COMPRESSION_LEVEL = 3;

interface Zstd {
  address: (buffer: Buffer) => bigint;
  create: NativeFunction<() => bigint>;
  free: NativeFunction<(context: bigint) => bigint | number>;
  set: NativeFunction<(context: bigint, parameter: number, value: number) => bigint | number>;
  compress: NativeFunction<(context: bigint, output: Buffer, input: Buffer, end: number) => bigint | number>;
  isError: NativeFunction<(result: bigint | number) => number>;
  errorName: NativeFunction<(result: bigint | number) => string>;
}

let loaded: Zstd | null | undefined;

/** An encoder of one zstd frame; null where libzstd is not there. */
export function zstdEncoder(): BlockEncoder | null {
  if (loaded === undefined) loaded = load();
  return loaded === null ? null : new ZstdEncoder(loaded);
}

function load(): Zstd | null {
  const opened = openLibrary('libzstd.so.1');
  if (opened === null) return null;
  const { koffi, library } = opened;
  return {
    address: (buffer) => koffi.address(buffer),
    create: library.func('void *ZSTD_createCCtx()') as unknown as Zstd['create'],
    free: library.func('size_t ZSTD_freeCCtx(void *context)') as unknown as Zstd['free'],
    set: library.func(
      'size_t ZSTD_CCtx_setParameter(void *context, int parameter, int value)',
    ) as unknown as Zstd['set'],
    compress: library.func(
      'size_t ZSTD_compressStream2(void *context, void *output, void *input, int end)',
    ) as unknown as Zstd['compress'],
    isError: library.func('unsigned int ZSTD_isError(size_t result)') as unknown as Zstd['isError'],
    errorName: library.func('const char *ZSTD_getErrorName(size_t result)') as unknown as Zstd['errorName'],
  };
}

class ZstdEncoder implements BlockEncoder {
  private readonly zstd: Zstd;
  private readonly context: bigint;
  private readonly input = Buffer.alloc(BUFFER_BYTES);
  private readonly output = Buffer.alloc(BUFFER_BYTES);

  constructor(zstd: Zstd) {
    this.zstd = zstd;
    this.context = zstd.create();
    if (!this.context) throw new Error('ZSTD_createCCtx: out of memory');
    this.checked(zstd.set(this.context, LEVEL_PARAMETER, COMPRESSION_LEVEL));
    this.checked(zstd.set(this.context, CHECKSUM_PARAMETER, 1));
  }

  async step(input: Buffer, output: Buffer, last: boolean): ReturnType<BlockEncoder['step']> {
    this.point(this.input, input);
    this.point(this.output, output);
    const call = this.zstd.compress;
    const left = this.checked(await onThread(call, this.context, this.output, this.input, last ? END : CONTINUE));
    const read = Number(this.input.readBigUInt64LE(POSITION));
    const written = Number(this.output.readBigUInt64LE(POSITION));
    return { read, written, done: last ? left === 0 : read === input.length };
  }

  close(): void {
    this.zstd.free(this.context);
  }

  private checked(result: bigint | number): number {
    if (this.zstd.isError(result)) throw new Error(`libzstd cannot compress: ${this.zstd.errorName(result)}`);
    return Number(result);
  }

  private point(buffer: Buffer, bytes: Buffer): void {
    buffer.writeBigUInt64LE(bytes.length === 0 ? 0n : this.zstd.address(bytes), 0);
    buffer.writeBigUInt64LE(BigInt(bytes.length), SIZE);
    buffer.writeBigUInt64LE(0n, POSITION);
  }
}
