/**
 * From an entry to its headers: a plain ustar block where everything fits, else one PAX header before it with only the
 * records that are needed. Equal entries make equal bytes. GNU tar, libarchive and archive/tar read all of it.
 */
import { isUtf8 } from 'node:buffer';
import type { ByteString } from '../core/bytes.js';
import { displayBytes, toBuffer } from '../core/bytes.js';
import { LayerdError } from '../core/errors.js';
import type { TarEntry, TarEntryType, TarTime } from './entry.js';
import { BLOCK, padding } from './entry.js';
import { TarFault, checkLimit, invalid, unsupported } from './fault.js';
import { FIELD, checksum } from './header.js';
import { formatPaxTime } from './numbers.js';
import { encodePax, xattrRecord } from './pax.js';

export { padding } from './entry.js';

/** What the headers of an entry are made of. `size` is that of the payload that will follow; sparse files are written out. */
export type EntryToWrite = Pick<
  TarEntry,
  'type' | 'path' | 'linkPath' | 'mode' | 'uid' | 'gid' | 'size' | 'mtime' | 'devMajor' | 'devMinor' | 'xattrs'
>;

const FLAGS: Record<TarEntryType, string> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  char: '3',
  block: '4',
  directory: '5',
  fifo: '6',
};

const ZERO = 0x30;
const SPACE = 0x20;

/** What archive/tar and libarchive take of one PAX header. */
const MAX_PAX_BYTES = 1024 * 1024;

/**
 * The header blocks of one entry, worked out; payload and {@link padding} follow them. Throws TAR_INVALID for a path or
 * link target that no reader would take, TAR_UNSUPPORTED for what the format cannot hold, TAR_LIMIT for xattrs beyond
 * 1 MiB.
 */
export class EntryHeaders {
  /** Bytes of all blocks. */
  readonly length: number;
  private readonly entry: EntryToWrite;
  /** Null where the header block has a stand-in. */
  private readonly split: SplitPath | null;
  /** The body of the extended header; '' where none is needed. */
  private readonly pax: ByteString;

  constructor(entry: EntryToWrite) {
    this.entry = entry;
    try {
      checkNames(entry);
      this.split = isPlain(entry.path) ? splitPath(entry.path) : null;
      this.pax = encodePax(recordsOf(entry, this.split === null));
      checkLimit('bytes of its PAX header', this.pax.length, MAX_PAX_BYTES);
    } catch (thrown) {
      if (!(thrown instanceof TarFault)) throw thrown;
      const path = displayBytes(entry.path.slice(0, 1000) as ByteString);
      throw new LayerdError(thrown.code, `cannot write ${path} into a tar: ${thrown.message}`, {
        details: { ...thrown.details, path },
        hint: 'Rename, remove or change the file, then try again.',
      });
    }
    const { length } = this.pax;
    this.length = length === 0 ? BLOCK : BLOCK + length + padding(length) + BLOCK;
  }

  /** Writes the {@link length} bytes; nothing is made for it, since a layer has many small files. */
  writeTo(into: Buffer, at: number): void {
    into.fill(0, at, at + this.length);
    if (this.pax !== '') {
      putPaxHeader(into, at, this.entry.path, this.pax.length);
      putText(into, at + BLOCK, this.pax);
    }
    putHeader(into, at + this.length - BLOCK, this.entry, this.split);
  }

  bytes(): Buffer {
    const bytes = Buffer.allocUnsafe(this.length);
    this.writeTo(bytes, 0);
    return bytes;
  }
}

/** The header blocks of an entry as {@link EntryHeaders} has them, which also says what is thrown. */
export function encodeEntry(entry: EntryToWrite): Buffer {
  return new EntryHeaders(entry).bytes();
}

/** The two zero blocks behind the last entry. */
export function endOfArchive(): Buffer {
  return Buffer.alloc(2 * BLOCK);
}

type Records = Map<string, ByteString>;
type FieldName = keyof typeof FIELD;
type NumberField = 'mode' | 'uid' | 'gid' | 'size' | 'mtime' | 'devMajor' | 'devMinor';

/** Checks all that the headers hold, and answers what does not fit the header block. */
function recordsOf(entry: EntryToWrite, withPath: boolean): Records {
  const records: Records = new Map();
  if (withPath) addName('path', entry.path, records);
  if (isLink(entry) && !fitsLinkName(entry.linkPath)) addName('linkpath', entry.linkPath, records);
  checkNumber('mode', entry.mode);
  addNumber('uid', entry.uid, records);
  addNumber('gid', entry.gid, records);
  addNumber('size', sizeOf(entry), records);
  addTime(entry.mtime, records);
  if (isDevice(entry)) checkDevice(entry);
  if (entry.xattrs !== null) for (const [name, value] of entry.xattrs) records.set(...xattrRecord(name, value));
  return records;
}

function isLink({ type }: EntryToWrite): boolean {
  return type === 'hardlink' || type === 'symlink';
}

function isDevice({ type }: EntryToWrite): boolean {
  return type === 'char' || type === 'block';
}

function sizeOf({ type, size }: EntryToWrite): number {
  return type === 'file' ? size : 0;
}

function checkNames(entry: EntryToWrite): void {
  checkName('path', entry.path, entry.type === 'directory');
  if (isLink(entry)) checkName('link target', entry.linkPath, true);
}

function checkName(what: string, name: ByteString, mayEndInSlash: boolean): void {
  if (name === '') throw invalid(`its ${what} is empty`);
  if (name.includes('\0')) throw invalid(`its ${what} holds a NUL`);
  if (!mayEndInSlash && name.endsWith('/')) throw invalid(`its ${what} ends in a slash, which means a directory`);
}

/**
 * Whether a name may stand in the header block: ASCII, or bytes that are not UTF-8, which every reader takes as they are.
 * Other text goes to a PAX record, where it is UTF-8 by definition, whatever the reader's locale.
 */
function isPlain(name: ByteString): boolean {
  return !/[\x80-\xff]/.test(name) || !isUtf8(toBuffer(name));
}

function fitsLinkName(linkPath: ByteString): boolean {
  return linkPath.length <= FIELD.linkName[1] && isPlain(linkPath);
}

function addName(key: 'path' | 'linkpath', name: ByteString, records: Records): void {
  records.set(key, name);
  // libarchive complains about names that are not UTF-8 without it; archive/tar and GNU tar pass over it
  if (!isUtf8(toBuffer(name))) records.set('hdrcharset', 'BINARY' as ByteString);
}

interface SplitPath {
  prefix: string;
  name: string;
}

/** Divides a path at a slash between the fields prefix and name; null where it does not fit. */
function splitPath(path: ByteString): SplitPath | null {
  if (path.length <= FIELD.name[1]) return { prefix: '', name: path };
  // the last slash that leaves a name behind it and a prefix that fits
  const slash = path.lastIndexOf('/', Math.min(FIELD.prefix[1], path.length - 2));
  if (slash <= 0 || path.length - slash - 1 > FIELD.name[1]) return null;
  return { prefix: path.slice(0, slash), name: path.slice(slash + 1) };
}

/** What readers without PAX get for a name: its begin, in ASCII. */
function standIn(name: string): string {
  return name.slice(0, FIELD.name[1]).replace(/[\x80-\xff]/g, '_');
}

/** The largest number that a field of 8 or 12 bytes holds in octal with its NUL. */
function largest(name: NumberField): number {
  return FIELD[name][1] === 8 ? 0o7777777 : 0o77777777777;
}

function checkNumber(name: string, value: number): void {
  if (Number.isSafeInteger(value) && value >= 0) return;
  throw invalid(`its ${name} is not a number from 0 below 2^53: ${value}`, { found: value });
}

function addNumber(name: 'uid' | 'gid' | 'size', value: number, records: Records): void {
  checkNumber(name, value);
  if (value > largest(name)) records.set(name, String(value) as ByteString);
}

function addTime(mtime: TarTime, records: Records): void {
  const { sec, nsec } = mtime;
  if (!(Number.isSafeInteger(sec) && Number.isInteger(nsec) && nsec >= 0 && nsec < 1e9)) {
    throw invalid(`its mtime is not one: ${sec} s, ${nsec} ns`);
  }
  if (nsec !== 0 || clampedTime(sec) !== sec) records.set('mtime', formatPaxTime(mtime) as ByteString);
}

function clampedTime(sec: number): number {
  return Math.min(Math.max(sec, 0), largest('mtime'));
}

function checkDevice({ devMajor, devMinor }: EntryToWrite): void {
  for (const [name, value] of [['devMajor', devMajor] as const, ['devMinor', devMinor] as const]) {
    checkNumber(name, value);
    if (value > largest(name)) throw unsupported(`its ${name} does not fit a tar header: ${value}`, { found: value });
  }
}

/** The header block, on zeros. */
function putHeader(into: Buffer, at: number, entry: EntryToWrite, split: SplitPath | null): void {
  putField(into, at, 'name', split?.name ?? standIn(entry.path));
  if (split !== null) putField(into, at, 'prefix', split.prefix);
  if (isLink(entry)) {
    putField(into, at, 'linkName', fitsLinkName(entry.linkPath) ? entry.linkPath : standIn(entry.linkPath));
  }
  putNumbers(into, at, entry.mode % 0o10000, entry.uid, entry.gid, sizeOf(entry), clampedTime(entry.mtime.sec));
  if (isDevice(entry)) {
    putOctal(into, at, 'devMajor', entry.devMajor);
    putOctal(into, at, 'devMinor', entry.devMinor);
  }
  seal(into, at, FLAGS[entry.type]);
}

/** The header block of the extended header, on zeros: nothing of the machine in it. */
function putPaxHeader(into: Buffer, at: number, path: ByteString, size: number): void {
  let end = path.length;
  while (end > 0 && path[end - 1] === '/') end--;
  const base = path.slice(path.lastIndexOf('/', end - 1) + 1, end);
  putField(into, at, 'name', standIn(`PaxHeaders.0/${base}`));
  putNumbers(into, at, 0o644, 0, 0, size, 0);
  seal(into, at, 'x');
}

function putNumbers(into: Buffer, at: number, mode: number, uid: number, gid: number, size: number, sec: number): void {
  putOctal(into, at, 'mode', mode);
  putOctal(into, at, 'uid', uid);
  putOctal(into, at, 'gid', gid);
  putOctal(into, at, 'size', size);
  putOctal(into, at, 'mtime', sec);
}

/** Adds what every header has. */
function seal(into: Buffer, at: number, flag: string): void {
  putField(into, at, 'flag', flag);
  putField(into, at, 'magic', 'ustar\x0000');
  const field = at + FIELD.checksum[0];
  // six digits, a NUL, a space
  putDigits(into, field, 6, checksum(into, at));
  into[field + 7] = SPACE;
}

/** A number that the field holds, else 0: a record has it. */
function putOctal(into: Buffer, at: number, name: NumberField, value: number): void {
  const field = FIELD[name];
  putDigits(into, at + field[0], field[1] - 1, value > largest(name) ? 0 : value);
}

function putDigits(into: Buffer, at: number, digits: number, value: number): void {
  let pos = at + digits - 1;
  let rest = value;
  for (; rest > 0xffff_ffff; rest = Math.floor(rest / 8)) into[pos--] = ZERO + (rest % 8);
  for (; pos >= at; rest >>>= 3) into[pos--] = ZERO + (rest & 7);
}

function putField(into: Buffer, at: number, name: FieldName, text: string): void {
  putText(into, at + FIELD[name][0], text);
}

function putText(into: Buffer, at: number, text: string): void {
  for (let i = 0; i < text.length; i++) into[at + i] = text.charCodeAt(i);
}
