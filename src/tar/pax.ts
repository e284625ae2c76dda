/** PAX extended headers: records of the form `LENGTH KEY=VALUE\n` (POSIX pax, "pax Extended Header"), as bytes. */
import type { ByteString } from '../core/bytes.js';
import { fromBuffer } from '../core/bytes.js';
import type { TarLimits, TarTime } from './entry.js';
import { checkLimit, invalid } from './fault.js';
import { parseDecimal, parsePaxTime } from './numbers.js';
import { PaxSparseReader } from './sparse.js';
import type { PaxSparse } from './sparse.js';

/** What one extended header says of the entry that follows. Null: nothing, so the header block's own field holds. */
export interface PaxAttributes {
  path: ByteString | null;
  linkPath: ByteString | null;
  size: number | null;
  uid: number | null;
  gid: number | null;
  mtime: TarTime | null;
  xattrs: Map<ByteString, Buffer> | null;
  sparse: PaxSparse | null;
}

const SCHILY_XATTR = 'SCHILY.xattr.';
const LIBARCHIVE_XATTR = 'LIBARCHIVE.xattr.';

const STRING_KEYS: ReadonlySet<string> = new Set(['path', 'linkpath', 'uname', 'gname']);

/**
 * Reads the body of an extended header. Of records with the same key the last one holds; an empty value takes the key
 * back, but for extended attributes, which may be empty. The answer shares no memory with `body`.
 */
export function readPax(body: Buffer, limits: TarLimits): PaxAttributes {
  const values = new Map<string, ByteString>();
  const xattrs = new XattrReader(limits);
  const sparse = new PaxSparseReader();
  forEachRecord(body, (key, start, end) => {
    if (xattrs.take(key, body, start, end)) return;
    const value = body.toString('latin1', start, end) as ByteString;
    if (STRING_KEYS.has(key) && value.includes('\0')) throw invalid(`the PAX record ${key} holds a NUL`);
    if (sparse.take(key, value)) return;
    if (value === '') values.delete(key);
    else values.set(key, value);
  });
  return {
    path: values.get('path') ?? null,
    linkPath: values.get('linkpath') ?? null,
    size: decimal(values, 'size'),
    uid: decimal(values, 'uid'),
    gid: decimal(values, 'gid'),
    mtime: time(values, 'mtime'),
    xattrs: xattrs.result(),
    sparse: sparse.result(limits),
  };
}

type RecordVisitor = (key: string, valueStart: number, valueEnd: number) => void;

const SPACE = 0x20;
const NEWLINE = 0x0a;
const EQUALS = 0x3d;

/** Walks the records of an extended header. Throws a TarFault where a length does not fit what is there. */
export function forEachRecord(body: Buffer, visit: RecordVisitor): void {
  let pos = 0;
  while (pos < body.length) {
    const { keyStart, end } = recordBounds(body, pos);
    const equals = body.indexOf(EQUALS, keyStart);
    if (equals === -1 || equals >= end) throw invalid(`the PAX record at byte ${pos} of its header has no "="`);
    const key = body.toString('latin1', keyStart, equals);
    if (key === '' || key.includes('\0')) throw invalid(`the PAX record at byte ${pos} of its header has a bad key`);
    visit(key, equals + 1, end);
    pos = end + 1;
  }
}

function recordBounds(body: Buffer, pos: number): { keyStart: number; end: number } {
  let length = 0;
  let digits = pos;
  for (; digits < body.length; digits++) {
    const digit = (body[digits] ?? 0) - 0x30;
    if (digit < 0 || digit > 9) break;
    length = length * 10 + digit;
  }
  const end = pos + length - 1;
  if (digits === pos || body[digits] !== SPACE || end <= digits || body[end] !== NEWLINE) {
    throw invalid(`the PAX record at byte ${pos} of its header does not have the length it states`, {
      record: pos,
      headerBytes: body.length,
    });
  }
  return { keyStart: digits + 1, end };
}

function decimal(values: ReadonlyMap<string, string>, key: string): number | null {
  const text = values.get(key);
  if (text === undefined) return null;
  const value = parseDecimal(text);
  if (Number.isNaN(value)) throw badValue(key, text);
  return value;
}

function time(values: ReadonlyMap<string, string>, key: string): TarTime | null {
  const text = values.get(key);
  if (text === undefined) return null;
  const value = parsePaxTime(text);
  if (value === null) throw badValue(key, text);
  return value;
}

function badValue(key: string, text: string): Error {
  return invalid(`the PAX record ${key} is not a number below 2^53: ${JSON.stringify(text.slice(0, 100))}`, { key });
}

/** Gathers extended attributes. SCHILY.xattr holds raw bytes; LIBARCHIVE.xattr, in base64, serves where it is absent. */
class XattrReader {
  readonly #limit: number;
  readonly #schily = new Map<ByteString, Buffer>();
  readonly #libarchive = new Map<ByteString, Buffer>();
  #bytes = 0;

  constructor(limits: TarLimits) {
    this.#limit = limits.maxXattrBytes;
  }

  take(key: string, body: Buffer, start: number, end: number): boolean {
    if (key.startsWith(SCHILY_XATTR)) {
      this.#count(key.length + end - start);
      this.#schily.set(checkXattrName(key.slice(SCHILY_XATTR.length)), Buffer.from(body.subarray(start, end)));
      return true;
    }
    if (!key.startsWith(LIBARCHIVE_XATTR)) return false;
    this.#count(key.length + end - start);
    const name = checkXattrName(decodePercent(key.slice(LIBARCHIVE_XATTR.length)));
    this.#libarchive.set(name, decodeBase64(body.toString('latin1', start, end)));
    return true;
  }

  result(): Map<ByteString, Buffer> | null {
    for (const [name, value] of this.#libarchive) if (!this.#schily.has(name)) this.#schily.set(name, value);
    return this.#schily.size === 0 ? null : this.#schily;
  }

  #count(bytes: number): void {
    this.#bytes += bytes;
    checkLimit('bytes of extended attributes', this.#bytes, this.#limit);
  }
}

function checkXattrName(name: string): ByteString {
  if (name === '' || name.includes('\0')) throw invalid('an extended attribute has a bad name');
  return name as ByteString;
}

/** libarchive escapes bytes of names that PAX keys cannot hold as `%XX`. */
function decodePercent(name: string): string {
  return name.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)));
}

function encodePercent(name: string): string {
  return name.replace(/[^!-$&-<>-~]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`);
}

function decodeBase64(text: string): Buffer {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text)) throw invalid('the value of a LIBARCHIVE.xattr record is not base64');
  return Buffer.from(text, 'base64');
}

/** The record of an extended attribute: SCHILY.xattr, but LIBARCHIVE.xattr where the name has a `=`, which would end the key. */
export function xattrRecord(name: ByteString, value: Buffer): [key: string, value: ByteString] {
  checkXattrName(name);
  if (!name.includes('=')) return [SCHILY_XATTR + name, fromBuffer(value)];
  return [LIBARCHIVE_XATTR + encodePercent(name), value.toString('base64').replace(/=+$/, '') as ByteString];
}

/** The body of an extended header with these records, sorted by key so that equal entries make equal bytes. */
export function encodePax(records: ReadonlyMap<string, ByteString>): ByteString {
  let body = '';
  for (const key of [...records.keys()].sort()) body += encodeRecord(key, records.get(key) ?? '');
  return body as ByteString;
}

function encodeRecord(key: string, value: string): string {
  // the length counts its own digits
  const rest = key.length + value.length + 3;
  let length = rest + String(rest).length;
  length = rest + String(length).length;
  return `${length} ${key}=${value}\n`;
}
