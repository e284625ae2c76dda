/** zstd by libzstd.so.1 (its stable streaming interface). */
import type { BlockEncoder } from './deflate-blocks.js';
import { onThread, type NativeFunction } from './native-library.js';
import { openZstd, ZstdBuffers, type ZstdLibrary } from './zstd-library.js';

/** ZSTD_cParameter and ZSTD_EndDirective of zstd.h. */
const LEVEL_PARAMETER = 100;
const CHECKSUM_PARAMETER = 201;
const CONTINUE = 0;
const END = 2;

/** libzstd's own default. */
const COMPRESSION_LEVEL = 3;

interface Zstd extends ZstdLibrary {
  create: NativeFunction<() => bigint>;
  free: NativeFunction<(context: bigint) => bigint | number>;
  set: NativeFunction<(context: bigint, parameter: number, value: number) => bigint | number>;
  compress: NativeFunction<(context: bigint, output: Buffer, input: Buffer, end: number) => bigint | number>;
}

let loaded: Zstd | null | undefined;

/** An encoder of one zstd frame; null where libzstd is not there. */
export function zstdEncoder(): BlockEncoder | null {
  if (loaded === undefined) loaded = load();
  return loaded === null ? null : new ZstdEncoder(loaded);
}

function load(): Zstd | null {
  return openZstd((func) => ({
    create: func('void *ZSTD_createCCtx()') as Zstd['create'],
    free: func('size_t ZSTD_freeCCtx(void *context)') as Zstd['free'],
    set: func('size_t ZSTD_CCtx_setParameter(void *context, int parameter, int value)') as Zstd['set'],
    compress: func(
      'size_t ZSTD_compressStream2(void *context, void *output, void *input, int end)',
    ) as Zstd['compress'],
  }));
}

class ZstdEncoder implements BlockEncoder {
  private readonly zstd: Zstd;
  private readonly context: bigint;
  private readonly buffers: ZstdBuffers;

  constructor(zstd: Zstd) {
    this.zstd = zstd;
    this.buffers = new ZstdBuffers(zstd);
    this.context = zstd.create();
    if (!this.context) throw new Error('ZSTD_createCCtx: out of memory');
    this.checked(zstd.set(this.context, LEVEL_PARAMETER, COMPRESSION_LEVEL));
    this.checked(zstd.set(this.context, CHECKSUM_PARAMETER, 1));
  }

  async step(input: Buffer, output: Buffer, last: boolean): ReturnType<BlockEncoder['step']> {
    this.buffers.point(input, output);
    const { compress } = this.zstd;
    const end = last ? END : CONTINUE;
    const left = this.checked(await onThread(compress, this.context, this.buffers.output, this.buffers.input, end));
    const { read, written } = this.buffers.moved();
    return { read, written, done: last ? left === 0 : read === input.length };
  }

  close(): void {
    this.zstd.free(this.context);
  }

  private checked(result: bigint | number): number {
    if (this.zstd.isError(result)) throw new Error(`libzstd cannot compress: ${this.zstd.errorName(result)}`);
    return Number(result);
  }
}
