/** What compressing and decompressing by libzstd.so.1 have in common. */
import { openLibrary, type NativeFunction } from './native-library.js';

/** ZSTD_inBuffer and ZSTD_outBuffer: pointer, size, position, 8 bytes each. */
const BUFFER_BYTES = 24;
const SIZE = 8;
const POSITION = 16;

export interface ZstdLibrary {
  address: (buffer: Buffer) => bigint;
  isError: NativeFunction<(result: bigint | number) => number>;
  errorName: NativeFunction<(result: bigint | number) => string>;
}

/** The library with what `declare` adds; null where it is not there. */
export function openZstd<T extends object>(
  declare: (func: (prototype: string) => unknown) => T,
): (ZstdLibrary & T) | null {
  const opened = openLibrary('libzstd.so.1');
  if (opened === null) return null;
  const { koffi, library } = opened;
  return {
    address: (buffer) => koffi.address(buffer),
    isError: library.func('unsigned int ZSTD_isError(size_t result)') as unknown as ZstdLibrary['isError'],
    errorName: library.func('const char *ZSTD_getErrorName(size_t result)') as unknown as ZstdLibrary['errorName'],
    ...declare((prototype) => library.func(prototype)),
  };
}

/** The two buffer descriptions of a call, as the library reads and moves them. */
export class ZstdBuffers {
  readonly input = Buffer.alloc(BUFFER_BYTES);
  readonly output = Buffer.alloc(BUFFER_BYTES);
  private readonly zstd: ZstdLibrary;

  constructor(zstd: ZstdLibrary) {
    this.zstd = zstd;
  }

  point(input: Buffer, output: Buffer): void {
    this.describe(this.input, input);
    this.describe(this.output, output);
  }

  /** Bytes that the call took and made. */
  moved(): { read: number; written: number } {
    const read = Number(this.input.readBigUInt64LE(POSITION));
    return { read, written: Number(this.output.readBigUInt64LE(POSITION)) };
  }

  private describe(description: Buffer, bytes: Buffer): void {
    description.writeBigUInt64LE(bytes.length === 0 ? 0n : this.zstd.address(bytes), 0);
    description.writeBigUInt64LE(BigInt(bytes.length), SIZE);
    description.writeBigUInt64LE(0n, POSITION);
  }
}
