/**
 * gzip by ISA-L (libisal.so.2), about twice as fast as zlib. The layout below is `struct inflate_state` of
 * isa-l/igzip_lib.h, the same in every 2.x; it is proved against zlib before the library is used.
 */
import { gzipSync } from 'node:zlib';
import type { BlockDecoder } from './inflate-blocks.js';
import { invalidStream, trailingBytes, truncatedStream } from './inflate-error.js';
import { gzipHeaderLength } from './inflate-gzip-header.js';
import { onThread, openLibrary, type NativeFunction } from './native-library.js';

const NEXT_OUT = 0;
const AVAIL_OUT = 8;
const NEXT_IN = 16;
const AVAIL_IN = 32;
const BLOCK_STATE = 21_160;
const CRC_FLAG = 21_172;
/** The struct has 87,368 bytes; the slack costs nothing and keeps a library with a longer one within bounds. */
const STATE_BYTES = 160 * 1024;

/** Below this the way to another thread and back takes longer than the work. */
const HERE_BYTES = 128 * 1024;

const BLOCK_FINISH = 5;
/** ISAL_GZIP_NO_HDR_VER: raw deflate, then the trailer, verified. ISA-L's own header reader forgets flags between calls. */
const GZIP_AFTER_HEADER = 6;

const ERRORS: Record<number, string> = {
  [-1]: 'has an invalid block',
  [-2]: 'has an invalid symbol',
  [-3]: 'refers back beyond its start',
  [-4]: 'has an invalid wrapper',
  [-5]: 'uses an unsupported method',
  [-6]: 'does not match its checksum',
};

interface Isal {
  address: (buffer: Buffer) => bigint;
  init: NativeFunction<(state: Buffer) => void>;
  reset: NativeFunction<(state: Buffer) => void>;
  inflate: NativeFunction<(state: Buffer) => number>;
}

let loaded: Isal | null | undefined;

/** Makes decoders, each of one gzip stream of any number of members; null where ISA-L is not there or not as we know it. */
export function isalDecoders(): (() => BlockDecoder) | null {
  if (loaded === undefined) {
    loaded = load();
    if (loaded !== null && !agreesWithZlib(loaded)) loaded = null;
  }
  const isal = loaded;
  return isal === null ? null : () => new IsalDecoder(isal);
}

function load(): Isal | null {
  const opened = openLibrary('libisal.so.2');
  if (opened === null) return null;
  const { koffi, library } = opened;
  return {
    address: (buffer) => koffi.address(buffer),
    init: library.func('void isal_inflate_init(void *state)') as unknown as Isal['init'],
    reset: library.func('void isal_inflate_reset(void *state)') as unknown as Isal['reset'],
    inflate: library.func('int isal_inflate(void *state)') as unknown as Isal['inflate'],
  };
}

/** Whether the library, called as we call it, inflates a member whole and piecemeal, and sees a wrong checksum. */
function agreesWithZlib(isal: Isal): boolean {
  const plain = Buffer.alloc(150_000);
  for (let at = 0; at < plain.length; at++) plain[at] = (at * at) >> (at & 7);
  const member = gzipSync(plain, { level: 1 });
  const wrong = Buffer.from(member);
  wrong.writeUInt32LE((wrong.readUInt32LE(wrong.length - 8) ^ 1) >>> 0, wrong.length - 8);
  return (
    inflateWhole(isal, member, plain.length)?.equals(plain) === true && inflateWhole(isal, wrong, plain.length) === null
  );
}

function inflateWhole(isal: Isal, member: Buffer, size: number): Buffer | null {
  const state = new InflateState(isal);
  const output = Buffer.alloc(size);
  let read = 10;
  let written = 0;
  // Uneven pieces, so that the fields of both directions are used as in earnest.
  for (let round = 0; round < 10_000 && !state.finished; round++) {
    state.point(member.subarray(read, read + 1009), output.subarray(written, written + 10_007));
    if (isal.inflate(state.bytes) < 0) return null;
    const moved = state.moved();
    read += moved.read;
    written += moved.written;
  }
  return state.finished && read === member.length && written === size ? output : null;
}

class InflateState {
  readonly bytes = Buffer.alloc(STATE_BYTES);
  private readonly isal: Isal;
  private inputLength = 0;
  private outputLength = 0;

  constructor(isal: Isal) {
    this.isal = isal;
    isal.init(this.bytes);
    this.bytes.writeUInt32LE(GZIP_AFTER_HEADER, CRC_FLAG);
  }

  get finished(): boolean {
    return this.bytes.readUInt32LE(BLOCK_STATE) === BLOCK_FINISH;
  }

  /** For the next member. */
  reset(): void {
    this.isal.reset(this.bytes);
  }

  point(input: Buffer, output: Buffer): void {
    this.bytes.writeBigUInt64LE(this.isal.address(input), NEXT_IN);
    this.bytes.writeUInt32LE(input.length, AVAIL_IN);
    this.bytes.writeBigUInt64LE(this.isal.address(output), NEXT_OUT);
    this.bytes.writeUInt32LE(output.length, AVAIL_OUT);
    this.inputLength = input.length;
    this.outputLength = output.length;
  }

  moved(): { read: number; written: number } {
    return {
      read: this.inputLength - this.bytes.readUInt32LE(AVAIL_IN),
      written: this.outputLength - this.bytes.readUInt32LE(AVAIL_OUT),
    };
  }
}

class IsalDecoder implements BlockDecoder {
  readonly compression = 'gzip';
  private readonly isal: Isal;
  private readonly state: InflateState;
  /** The start of a header that is not all there yet; null inside a member. */
  private header: Buffer | null = Buffer.alloc(0);
  private members = 0;
  private offset = 0;

  constructor(isal: Isal) {
    this.isal = isal;
    this.state = new InflateState(isal);
  }

  async step(input: Buffer, output: Buffer): Promise<{ read: number; written: number }> {
    if (this.header !== null) return { read: this.readHeader(this.header, input), written: 0 };
    this.state.point(input, output);
    const few = input.length <= HERE_BYTES && output.length <= HERE_BYTES;
    const result = few ? this.isal.inflate(this.state.bytes) : await onThread(this.isal.inflate, this.state.bytes);
    const moved = this.state.moved();
    this.offset += moved.read;
    if (result < 0) throw invalidStream('gzip', ERRORS[result] ?? `cannot be inflated (ISA-L: ${result})`, this.offset);
    if (this.state.finished) {
      this.members++;
      this.header = Buffer.alloc(0);
    }
    return moved;
  }

  finish(): void {
    if (this.header === null || this.header.length > 0 || this.members === 0)
      throw truncatedStream('gzip', this.offset);
  }

  close(): void {
    this.header = null;
  }

  /** Returns how many bytes of `input` belong to the header. */
  private readHeader(before: Buffer, input: Buffer): number {
    const bytes = before.length === 0 ? input : Buffer.concat([before, input]);
    const length = gzipHeaderLength(bytes);
    if (length === 'invalid') {
      throw this.members > 0
        ? trailingBytes('gzip', this.offset)
        : invalidStream('gzip', 'does not start with a valid header', this.offset);
    }
    const read = length === null ? input.length : length - before.length;
    this.offset += read;
    if (length === null) {
      this.header = Buffer.from(bytes);
    } else {
      this.header = null;
      this.state.reset();
    }
    return read;
  }
}
