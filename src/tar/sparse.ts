/**
 * Sparse files, in the four ways that GNU tar writes them (GNU tar manual, "Storing Sparse Files"): old GNU (flag S, map
 * in the header and in extension blocks), and PAX 0.0 (a record per number), 0.1 (one record), 1.0 (map in the payload).
 */
import type { ByteString } from '../core/bytes.js';
import type { SparseSegment, TarLimits } from './entry.js';
import { BLOCK } from './entry.js';
import { checkLimit, invalid, unsupported } from './fault.js';
import { parseDecimal, readNumeric } from './numbers.js';

const NEWLINE = 0x0a;

/** The data segments of one file as they are read, checked on the way. */
export class SegmentList {
  readonly #segments: SparseSegment[] = [];
  readonly #limit: number;
  #count = 0;
  #end = 0;
  #stored = 0;

  constructor(limits: TarLimits) {
    this.#limit = limits.maxSparseSegments;
  }

  add(offset: number, length: number): void {
    this.#count++;
    checkLimit('segments of a sparse file', this.#count, this.#limit);
    const end = offset + length;
    if (!(offset >= this.#end && length >= 0 && Number.isSafeInteger(end))) {
      throw invalid('the sparse map is not in order, or holds what is not a number', { offset, length });
    }
    this.#end = end;
    this.#stored += length;
    // an empty one only marks the end of the file
    if (length > 0) this.#segments.push({ offset, length });
  }

  /** The segments, once the sizes are known: `size` logical bytes, `stored` bytes of payload. */
  finish(size: number, stored: number): SparseSegment[] {
    if (this.#end > size) {
      throw invalid('the sparse map reaches beyond the end of the file', { expected: size, found: this.#end });
    }
    if (this.#stored !== stored) {
      throw invalid(`the sparse map tells of ${this.#stored} stored bytes, the header of ${stored}`, {
        expected: this.#stored,
        found: stored,
      });
    }
    return this.#segments;
  }
}

/** A sparse map that lies in blocks of its own: fed block by block until it is done. */
export interface MapReader {
  readonly segments: SegmentList;
  readonly done: boolean;
  /** Bytes of the payload that the map has taken so far. */
  readonly payloadTaken: number;
  push(bytes: Buffer, at: number): void;
}

const ELEMENT = 24;
const NUMBER = 12;
const IN_HEADER = { at: 386, elements: 4, isExtended: 482 };
const IN_EXTENSION = { at: 0, elements: 21, isExtended: 504 };
const REAL_SIZE = 483;

/** The logical size that an old GNU header states. */
export function readOldGnuSize(bytes: Buffer, at: number): number {
  const size = readNumeric(bytes, at + REAL_SIZE, NUMBER);
  if (!(size >= 0)) throw invalid('the real size of the sparse file is not a number from 0 below 2^53');
  return size;
}

/** The map of the old GNU format: four elements in the header, and 21 in each extension block behind it. */
export class OldGnuMapReader implements MapReader {
  readonly segments: SegmentList;
  readonly payloadTaken = 0;
  #done: boolean;

  constructor(header: Buffer, at: number, limits: TarLimits) {
    this.segments = new SegmentList(limits);
    this.#done = this.#read(header, at, IN_HEADER);
  }

  get done(): boolean {
    return this.#done;
  }

  push(bytes: Buffer, at: number): void {
    this.#done = this.#read(bytes, at, IN_EXTENSION);
  }

  #read(bytes: Buffer, at: number, layout: typeof IN_HEADER): boolean {
    for (let i = 0; i < layout.elements; i++) {
      const element = at + layout.at + i * ELEMENT;
      if (bytes[element] === 0) break;
      this.segments.add(readNumeric(bytes, element, NUMBER), readNumeric(bytes, element + NUMBER, NUMBER));
    }
    return bytes[at + layout.isExtended] === 0;
  }
}

/** The map of PAX 1.0: decimal lines at the start of the payload, in whole blocks: a count, then offsets and lengths. */
export class PayloadMapReader implements MapReader {
  readonly segments: SegmentList;
  readonly #payload: number;
  readonly #limit: number;
  #taken = 0;
  #digits = 0;
  #value = 0;
  /** Segments still to come; -1 before the count is known. */
  #missing = -1;
  /** The offset of the segment whose length comes next; -1 where an offset comes next. */
  #offset = -1;

  constructor(payload: number, limits: TarLimits) {
    this.segments = new SegmentList(limits);
    this.#payload = payload;
    this.#limit = limits.maxSparseSegments;
  }

  get done(): boolean {
    return this.#missing === 0;
  }

  get payloadTaken(): number {
    return this.#taken;
  }

  push(bytes: Buffer, at: number): void {
    this.#taken += BLOCK;
    if (this.#taken > this.#payload) throw invalid('the sparse map reaches beyond the payload it lies in');
    for (let pos = at; pos < at + BLOCK && !this.done; pos++) {
      const byte = bytes[pos] ?? 0;
      if (byte === NEWLINE) this.#line();
      else this.#digit(byte - 0x30);
    }
  }

  #digit(digit: number): void {
    this.#digits++;
    this.#value = this.#value * 10 + digit;
    if (digit < 0 || digit > 9 || !Number.isSafeInteger(this.#value)) {
      throw invalid('the sparse map in the payload holds what is not a number below 2^53');
    }
  }

  #line(): void {
    if (this.#digits === 0) throw invalid('the sparse map in the payload holds an empty line');
    const value = this.#value;
    this.#digits = 0;
    this.#value = 0;
    if (this.#missing === -1) {
      checkLimit('segments of a sparse file', value, this.#limit);
      this.#missing = value;
    } else if (this.#offset === -1) {
      this.#offset = value;
    } else {
      this.segments.add(this.#offset, value);
      this.#offset = -1;
      this.#missing--;
    }
  }
}

/** What the PAX records of a sparse file say. */
export interface PaxSparse {
  name: ByteString | null;
  /** Logical size; null where only the header states one. */
  size: number | null;
  /** The map of 0.0 and 0.1; null where it lies in the payload (1.0). */
  map: SegmentList | null;
}

const PREFIX = 'GNU.sparse.';

/** Gathers the `GNU.sparse.*` records of an extended header. */
export class PaxSparseReader {
  readonly #values = new Map<string, ByteString>();
  readonly #numbers: ByteString[] = [];

  take(key: string, value: ByteString): boolean {
    if (!key.startsWith(PREFIX)) return false;
    const name = key.slice(PREFIX.length);
    if (name === 'offset' || name === 'numbytes') this.#takeNumber(name, value);
    else this.#values.set(name, value);
    return true;
  }

  /** Null where the records do not make the file a sparse one. */
  result(limits: TarLimits): PaxSparse | null {
    const version = this.#version();
    if (version === null) return null;
    const name = this.#values.get('name') ?? '';
    if (name.includes('\0')) throw invalid('the PAX record GNU.sparse.name holds a NUL');
    const size = this.#values.get('size') || this.#values.get('realsize') || null;
    return {
      name: name === '' ? null : name,
      size: size === null ? null : count('size', size),
      map: version === '1.0' ? null : this.#map(limits),
    };
  }

  /** 0.0 repeats a pair of keys per segment. */
  #takeNumber(name: 'offset' | 'numbytes', value: ByteString): void {
    const expected = this.#numbers.length % 2 === 0 ? 'offset' : 'numbytes';
    if (name !== expected) throw invalid('the records GNU.sparse.offset and GNU.sparse.numbytes do not take turns');
    this.#numbers.push(value);
  }

  /** Versions before 1.0 need not state themselves: a map is enough, as archive/tar and GNU tar have it. */
  #version(): '0.x' | '1.0' | null {
    const major = this.#values.get('major') ?? '';
    const minor = this.#values.get('minor') ?? '';
    if (major === '1' && minor === '0') return '1.0';
    if (major === '0' && (minor === '0' || minor === '1')) return '0.x';
    if (major !== '' || minor !== '') throw unsupported(`PAX sparse format ${JSON.stringify(`${major}.${minor}`)}`);
    return this.#numbers.length > 0 || (this.#values.get('map') ?? '') !== '' ? '0.x' : null;
  }

  #map(limits: TarLimits): SegmentList {
    const numbers = this.#numbers.length > 0 ? this.#numbers : splitMap(this.#values.get('map') ?? '');
    const blocks = count('numblocks', this.#values.get('numblocks') ?? '');
    if (numbers.length !== 2 * blocks) {
      throw invalid('GNU.sparse.numblocks does not fit the sparse map', {
        expected: 2 * blocks,
        found: numbers.length,
      });
    }
    const list = new SegmentList(limits);
    for (let i = 0; i < numbers.length; i += 2) {
      list.add(count('map', numbers[i] ?? ''), count('map', numbers[i + 1] ?? ''));
    }
    return list;
  }
}

function splitMap(map: string): string[] {
  return map === '' ? [] : map.split(',');
}

function count(name: string, text: string): number {
  const value = parseDecimal(text);
  if (!(value >= 0)) {
    throw invalid(
      `the PAX record GNU.sparse.${name} is not a number from 0 below 2^53: ${JSON.stringify(text.slice(0, 40))}`,
    );
  }
  return value;
}
