/**
 * Protocol Buffers (proto3) as far as containerd's services need them. A message is declared once, by its fields; its type
 * follows. Fields that are not declared are skipped. https://protobuf.dev/programming-guides/encoding/
 */
import { LayerdError } from '../../core/errors.js';

const VARINT = 0;
const FIXED64 = 1;
const LENGTH = 2;
const FIXED32 = 5;

/** One field: how its value is read from bytes and written. */
interface Field<T> {
  number: number;
  wire: typeof VARINT | typeof LENGTH;
  initial: () => T;
  /** Takes one occurrence into what was read before. */
  take: (before: T, reader: Reader) => T;
  /** Writes all occurrences; nothing for the initial value. */
  put: (value: T, writer: Writer) => void;
}

type Fields = Record<string, Field<never>>;
type ValueOf<F> = F extends Field<infer T> ? T : never;

/** A kind of message, by which values become bytes and bytes values. */
export interface Message<T> {
  encode: (value: T) => Buffer;
  /** Throws INVALID_ARGUMENT. */
  decode: (bytes: Buffer) => T;
}

/** The values of a message that was declared. */
export type Of<M> = M extends Message<infer T> ? T : never;

export function message<F extends object>(fields: F): Message<{ [K in keyof F]: ValueOf<F[K]> }> {
  type T = { [K in keyof F]: ValueOf<F[K]> };
  const named = Object.entries(fields as unknown as Fields);
  const byNumber = new Map(named.map(([name, field]) => [field.number, { name, field }]));
  return {
    encode: (value) => {
      const writer = new Writer();
      for (const [name, field] of named) field.put(value[name as keyof T] as never, writer);
      return writer.bytes();
    },
    decode: (encoded) => {
      const values: Record<string, never> = {};
      for (const [name, field] of named) values[name] = field.initial();
      const reader = new Reader(encoded);
      while (!reader.ended) {
        const tag = reader.varint();
        const known = byNumber.get(Math.floor(tag / 8));
        if (known === undefined || known.field.wire !== tag % 8) reader.skip(tag % 8);
        else values[known.name] = known.field.take(values[known.name] as never, reader);
      }
      return values as unknown as T;
    },
  };
}

export function string(number: number): Field<string> {
  return {
    number,
    wire: LENGTH,
    initial: () => '',
    take: (_before, reader) => reader.chunk().toString('utf8'),
    put: (value, writer) => {
      if (value !== '') writer.chunk(number, Buffer.from(value, 'utf8'));
    },
  };
}

export function bytes(number: number): Field<Buffer> {
  return {
    number,
    wire: LENGTH,
    initial: () => Buffer.alloc(0),
    take: (_before, reader) => reader.chunk(),
    put: (value, writer) => {
      if (value.length > 0) writer.chunk(number, value);
    },
  };
}

/** int32, int64 or an enum, up to 2^53. */
export function int(number: number): Field<number> {
  return {
    number,
    wire: VARINT,
    initial: () => 0,
    take: (_before, reader) => reader.varint(),
    put: (value, writer) => {
      if (value !== 0) writer.varint(number, value);
    },
  };
}

/** A message within a message; null where it is left out. */
export function nested<T>(number: number, kind: Message<T>): Field<T | null> {
  return {
    number,
    wire: LENGTH,
    initial: () => null,
    take: (_before, reader) => kind.decode(reader.chunk()),
    put: (value, writer) => {
      if (value !== null) writer.chunk(number, kind.encode(value));
    },
  };
}

export function repeated<T>(number: number, kind: Message<T>): Field<T[]> {
  return list(number, kind.encode, kind.decode);
}

export function strings(number: number): Field<string[]> {
  return list(
    number,
    (value) => Buffer.from(value, 'utf8'),
    (chunk) => chunk.toString('utf8'),
  );
}

function list<T>(number: number, encode: (value: T) => Buffer, decode: (chunk: Buffer) => T): Field<T[]> {
  return {
    number,
    wire: LENGTH,
    initial: () => [],
    take: (before, reader) => [...before, decode(reader.chunk())],
    put: (values, writer) => {
      for (const value of values) writer.chunk(number, encode(value));
    },
  };
}

/** map<string, string>. */
export function map(number: number): Field<Record<string, string>> {
  const entry = message({ key: string(1), value: string(2) });
  return {
    number,
    wire: LENGTH,
    initial: () => ({}),
    take: (before, reader) => {
      const { key, value } = entry.decode(reader.chunk());
      return { ...before, [key]: value };
    },
    put: (values, writer) => {
      for (const [key, value] of Object.entries(values)) writer.chunk(number, entry.encode({ key, value }));
    },
  };
}

class Reader {
  private readonly buffer: Buffer;
  private position = 0;

  constructor(buffer: Buffer) {
    this.buffer = buffer;
  }

  get ended(): boolean {
    return this.position >= this.buffer.length;
  }

  /** Negative numbers come as 64-bit two's complement. */
  varint(): number {
    const first = this.buffer[this.position];
    if (first !== undefined && first < 0x80) {
      this.position += 1;
      return first;
    }
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.buffer[this.position];
      if (byte === undefined) break;
      this.position += 1;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return Number(BigInt.asIntN(64, value));
    }
    throw malformed('a number does not end');
  }

  /** Bytes with their length in front; a view, not a copy. */
  chunk(): Buffer {
    const length = this.varint();
    const end = this.position + length;
    if (length < 0 || end > this.buffer.length) throw malformed(`${length} bytes are announced and are not there`);
    const chunk = this.buffer.subarray(this.position, end);
    this.position = end;
    return chunk;
  }

  skip(wire: number): void {
    if (wire === VARINT) this.varint();
    else if (wire === LENGTH) this.chunk();
    else if (wire === FIXED64) this.position += 8;
    else if (wire === FIXED32) this.position += 4;
    else throw malformed(`there is no wire type ${wire}`);
  }
}

class Writer {
  private readonly parts: Buffer[] = [];

  varint(number: number, value: number): void {
    this.parts.push(varintBytes(number * 8 + VARINT), varintBytes(value));
  }

  chunk(number: number, chunk: Buffer): void {
    this.parts.push(varintBytes(number * 8 + LENGTH), varintBytes(chunk.length), chunk);
  }

  bytes(): Buffer {
    return Buffer.concat(this.parts);
  }
}

function varintBytes(value: number): Buffer {
  if (value >= 0 && value < 0x80) return Buffer.of(value);
  const out: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest >= 0x80n; rest >>= 7n) out.push(Number(rest & 0x7fn) | 0x80);
  out.push(Number(rest));
  return Buffer.from(out);
}

function malformed(why: string): LayerdError {
  return new LayerdError('INVALID_ARGUMENT', `the message is not one of Protocol Buffers: ${why}`);
}
