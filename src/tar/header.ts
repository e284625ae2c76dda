/** One header block: its checksum, its format, its fields. Layouts: POSIX ustar, GNU tar's tar.h, star(5). */
import type { ByteString } from '../core/bytes.js';
import { BLOCK } from './entry.js';
import { invalid } from './fault.js';
import { readNumeric, readOctal } from './numbers.js';

export type HeaderFormat = 'v7' | 'ustar' | 'gnu' | 'star';

/** The fields of a header block as it states them. Numbers may be negative where the format allows it. */
export interface Header {
  format: HeaderFormat;
  /** The type flag as a character; '\0' is its own flag. */
  flag: string;
  path: ByteString;
  linkPath: ByteString;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtime: number;
  devMajor: number;
  devMinor: number;
}

/** Where the fields lie: offset and length. */
export const FIELD = {
  name: [0, 100],
  mode: [100, 8],
  uid: [108, 8],
  gid: [116, 8],
  size: [124, 12],
  mtime: [136, 12],
  checksum: [148, 8],
  flag: [156, 1],
  linkName: [157, 100],
  magic: [257, 8],
  devMajor: [329, 8],
  devMinor: [337, 8],
  prefix: [345, 155],
  starPrefix: [345, 131],
  gnuAtime: [345, 12],
  gnuCtime: [357, 12],
} as const satisfies Record<string, readonly [number, number]>;

const NO_BYTES = '' as ByteString;
const SPACE = 0x20;
const CHECKSUM_START = FIELD.checksum[0];
const CHECKSUM_END = CHECKSUM_START + FIELD.checksum[1];

type FieldName = keyof typeof FIELD;

/** Whether the block holds zeros only, as those of the end marker do. */
export function isZeroBlock(bytes: Buffer, at: number): boolean {
  for (let pos = at; pos < at + BLOCK; pos++) if (bytes[pos] !== 0) return false;
  return true;
}

/** Reads the header block at `at`. Throws a TarFault where the checksum is wrong or a field is not a number. */
export function readHeader(bytes: Buffer, at: number): Header {
  verifyChecksum(bytes, at);
  const format = formatOf(bytes, at);
  const flag = String.fromCharCode(bytes[at + FIELD.flag[0]] ?? 0);
  return {
    format,
    flag,
    path: readPath(bytes, at, format),
    linkPath: readString(bytes, at, 'linkName'),
    mode: readNumber(bytes, at, 'mode'),
    uid: readNumber(bytes, at, 'uid'),
    gid: readNumber(bytes, at, 'gid'),
    size: readNumber(bytes, at, 'size'),
    mtime: readNumber(bytes, at, 'mtime'),
    devMajor: format === 'v7' ? 0 : readNumber(bytes, at, 'devMajor'),
    devMinor: format === 'v7' ? 0 : readNumber(bytes, at, 'devMinor'),
  };
}

/** The sum of all bytes of the block, those of the checksum field taken as spaces. */
export function checksum(bytes: Buffer, at: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, BLOCK);
  // every byte of every archive's headers passes here: four at a time, in two lanes of 16 bits, which 512 bytes cannot fill
  let lanes = 0;
  for (let pos = 0; pos < BLOCK; pos += 4) {
    const word = view.getInt32(pos, true);
    lanes = (lanes + (word & 0x00ff_00ff) + ((word >>> 8) & 0x00ff_00ff)) | 0;
  }
  let sum = (lanes & 0xffff) + (lanes >>> 16);
  for (let pos = CHECKSUM_START; pos < CHECKSUM_END; pos++) sum += SPACE - view.getUint8(pos);
  return sum;
}

/** The same sum over signed bytes, as some old tools made it. */
function signedChecksum(bytes: Buffer, at: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, BLOCK);
  let sum = 0;
  for (let pos = 0; pos < BLOCK; pos++) {
    sum += pos >= CHECKSUM_START && pos < CHECKSUM_END ? SPACE : view.getInt8(pos);
  }
  return sum;
}

function verifyChecksum(bytes: Buffer, at: number): void {
  const stated = readOctal(bytes, at + FIELD.checksum[0], FIELD.checksum[1]);
  const found = checksum(bytes, at);
  if (stated === found || stated === signedChecksum(bytes, at)) return;
  const expected = Number.isNaN(stated) ? 'no number' : stated;
  throw invalid(`the checksum of the header is wrong: it states ${expected}, the sum is ${found}`, { expected, found });
}

function formatOf(bytes: Buffer, at: number): HeaderFormat {
  const magic = at + FIELD.magic[0];
  if (holds(bytes, magic, 'ustar\0')) return holds(bytes, at + 508, 'tar\0') ? 'star' : 'ustar';
  return holds(bytes, magic, 'ustar  \0') ? 'gnu' : 'v7';
}

function holds(bytes: Buffer, at: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) if (bytes[at + i] !== text.charCodeAt(i)) return false;
  return true;
}

function readPath(bytes: Buffer, at: number, format: HeaderFormat): ByteString {
  const name = readString(bytes, at, 'name');
  const prefix = readPrefix(bytes, at, format);
  return prefix === '' ? name : (`${prefix}/${name}` as ByteString);
}

function readPrefix(bytes: Buffer, at: number, format: HeaderFormat): ByteString {
  if (format === 'ustar') return readString(bytes, at, 'prefix');
  if (format === 'star') return readString(bytes, at, 'starPrefix');
  const isMistaken = format === 'gnu' && !(isGnuTime(bytes, at, 'gnuAtime') && isGnuTime(bytes, at, 'gnuCtime'));
  return isMistaken ? mistakenPrefix(bytes, at) : NO_BYTES;
}

function isGnuTime(bytes: Buffer, at: number, name: FieldName): boolean {
  const [field, length] = FIELD[name];
  return bytes[at + field] === 0 || !Number.isNaN(readNumeric(bytes, at + field, length));
}

/**
 * GNU headers have no prefix: atime and ctime lie there. But Go's archive/tar before 1.8 wrote one (golang/go#12594),
 * and layers of that time exist; today's archive/tar takes ASCII that is no time for a prefix, and so do we.
 */
function mistakenPrefix(bytes: Buffer, at: number): ByteString {
  const prefix = readString(bytes, at, 'prefix');
  return /[\x80-\xff]/.test(prefix) ? NO_BYTES : prefix;
}

function readString(bytes: Buffer, at: number, name: FieldName): ByteString {
  const [field, length] = FIELD[name];
  return readCString(bytes, at + field, at + field + length);
}

/** The bytes up to the first NUL, at most up to `end`. */
export function readCString(bytes: Buffer, start: number, end: number): ByteString {
  let stop = start;
  while (stop < end && bytes[stop] !== 0) stop++;
  return stop === start ? NO_BYTES : (bytes.toString('latin1', start, stop) as ByteString);
}

function readNumber(bytes: Buffer, at: number, name: FieldName): number {
  const [field, length] = FIELD[name];
  const value = readNumeric(bytes, at + field, length);
  if (Number.isNaN(value)) {
    throw invalid(`the field ${name} of the header is not a number below 2^53`, {
      field: name,
      found: bytes.toString('hex', at + field, at + field + length),
    });
  }
  return value;
}
