/**
 * From an entry to its headers: a plain ustar block where everything fits, else one PAX header before it with only the
 * records that are needed. Equal entries make equal bytes. GNU tar, libarchive and archive/tar read all of it.
 */
import { isUtf8 } from 'node:buffer';
import type { ByteString } from '../core/bytes.js';
import { displayBytes, toBuffer } from '../core/bytes.js';
import { LayerdError } from '../core/errors.js';
import type { TarEntry, TarEntryType } from './entry.js';
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

/** What archive/tar and libarchive take of one PAX header. */
const MAX_PAX_BYTES = 1024 * 1024;

/**
 * The header blocks of an entry; payload and {@link padding} follow. Throws TAR_INVALID for a path or link target that
 * no reader would take, TAR_UNSUPPORTED for what the format cannot hold, TAR_LIMIT for xattrs beyond 1 MiB.
 */
export function encodeEntry(entry: EntryToWrite): Buffer {
  try {
    return encode(entry);
  } catch (thrown) {
    if (!(thrown instanceof TarFault)) throw thrown;
    const path = displayBytes(entry.path.slice(0, 1000) as ByteString);
    throw new LayerdError(thrown.code, `cannot write ${path} into a tar: ${thrown.message}`, {
      details: { ...thrown.details, path },
      hint: 'Rename, remove or change the file, then try again.',
    });
  }
}

/** The two zero blocks behind the last entry. */
export function endOfArchive(): Buffer {
  return Buffer.alloc(2 * BLOCK);
}

function encode(entry: EntryToWrite): Buffer {
  checkName('path', entry.path, entry.type === 'directory');
  const isLink = entry.type === 'hardlink' || entry.type === 'symlink';
  if (isLink) checkName('link target', entry.linkPath, true);
  const records: Records = new Map();
  const header = Buffer.alloc(BLOCK);
  putPath(header, entry.path, records);
  if (isLink) putLinkPath(header, entry.linkPath, records);
  checkNumber('mode', entry.mode);
  putOctal(header, 'mode', entry.mode % 0o10000);
  putNumber(header, 'uid', entry.uid, records);
  putNumber(header, 'gid', entry.gid, records);
  putNumber(header, 'size', entry.type === 'file' ? entry.size : 0, records);
  putTime(header, entry, records);
  if (entry.type === 'char' || entry.type === 'block') putDevice(header, entry);
  for (const [name, value] of entry.xattrs ?? []) records.set(...xattrRecord(name, value));
  seal(header, FLAGS[entry.type]);
  return records.size === 0 ? header : Buffer.concat([paxHeader(entry, records), header]);
}

function checkName(what: string, name: ByteString, mayEndInSlash: boolean): void {
  if (name === '') throw invalid(`its ${what} is empty`);
  if (name.includes('\0')) throw invalid(`its ${what} holds a NUL`);
  if (!mayEndInSlash && name.endsWith('/')) throw invalid(`its ${what} ends in a slash, which means a directory`);
}

type Records = Map<string, Buffer>;
type FieldName = keyof typeof FIELD;

function put(header: Buffer, name: FieldName, text: string): void {
  header.write(text, FIELD[name][0], FIELD[name][1], 'latin1');
}

function putPath(header: Buffer, path: ByteString, records: Records): void {
  const split = isPlain(path) ? splitPath(path) : null;
  put(header, 'name', split?.name ?? standIn(path));
  put(header, 'prefix', split?.prefix ?? '');
  if (split === null) putName('path', path, records);
}

function putLinkPath(header: Buffer, linkPath: ByteString, records: Records): void {
  const fits = isPlain(linkPath) && linkPath.length <= FIELD.linkName[1];
  put(header, 'linkName', fits ? linkPath : standIn(linkPath));
  if (!fits) putName('linkpath', linkPath, records);
}

/**
 * Whether a name may stand in the header block: ASCII, or bytes that are not UTF-8, which every reader takes as they are.
 * Other text goes to a PAX record, where it is UTF-8 by definition, whatever the reader's locale.
 */
function isPlain(name: ByteString): boolean {
  return !/[\x80-\xff]/.test(name) || !isUtf8(toBuffer(name));
}

function putName(key: 'path' | 'linkpath', name: ByteString, records: Records): void {
  const bytes = toBuffer(name);
  records.set(key, bytes);
  // libarchive complains about names that are not UTF-8 without it; archive/tar and GNU tar pass over it
  if (!isUtf8(bytes)) records.set('hdrcharset', Buffer.from('BINARY'));
}

/** Divides a path at a slash between the fields prefix and name; null where it does not fit. */
function splitPath(path: ByteString): { prefix: string; name: string } | null {
  if (path.length <= FIELD.name[1]) return { prefix: '', name: path };
  // the last slash that leaves a name behind it and a prefix that fits
  const slash = path.lastIndexOf('/', Math.min(FIELD.prefix[1], path.length - 2));
  if (slash <= 0 || path.length - slash - 1 > FIELD.name[1]) return null;
  return { prefix: path.slice(0, slash), name: path.slice(slash + 1) };
}

/** What readers without PAX get for a name: its begin, in ASCII. */
function standIn(name: ByteString): string {
  return name.slice(0, FIELD.name[1]).replace(/[\x80-\xff]/g, '_');
}

/** The largest number that a field holds in octal with its NUL. */
function largest(name: FieldName): number {
  return 8 ** (FIELD[name][1] - 1) - 1;
}

function putOctal(header: Buffer, name: FieldName, value: number): void {
  put(header, name, value.toString(8).padStart(FIELD[name][1] - 1, '0'));
}

function checkNumber(name: string, value: number): void {
  if (Number.isSafeInteger(value) && value >= 0) return;
  throw invalid(`its ${name} is not a number from 0 below 2^53: ${value}`, { found: value });
}

/** In the header if it fits there, else as a record. */
function putNumber(header: Buffer, name: 'uid' | 'gid' | 'size', value: number, records: Records): void {
  checkNumber(name, value);
  const fits = value <= largest(name);
  putOctal(header, name, fits ? value : 0);
  if (!fits) records.set(name, Buffer.from(String(value)));
}

function putTime(header: Buffer, { mtime }: EntryToWrite, records: Records): void {
  const { sec, nsec } = mtime;
  if (!(Number.isSafeInteger(sec) && Number.isInteger(nsec) && nsec >= 0 && nsec < 1e9)) {
    throw invalid(`its mtime is not one: ${sec} s, ${nsec} ns`);
  }
  const clamped = Math.min(Math.max(sec, 0), largest('mtime'));
  putOctal(header, 'mtime', clamped);
  if (nsec !== 0 || clamped !== sec) records.set('mtime', Buffer.from(formatPaxTime(mtime)));
}

function putDevice(header: Buffer, { devMajor, devMinor }: EntryToWrite): void {
  for (const [name, value] of [['devMajor', devMajor] as const, ['devMinor', devMinor] as const]) {
    checkNumber(name, value);
    if (value > largest(name)) throw unsupported(`its ${name} does not fit a tar header: ${value}`, { found: value });
    putOctal(header, name, value);
  }
}

/** Adds what every header has. */
function seal(header: Buffer, flag: string): void {
  put(header, 'flag', flag);
  put(header, 'magic', 'ustar\x0000');
  put(header, 'checksum', `${checksum(header, 0).toString(8).padStart(6, '0')}\0 `);
}

/** The extended header: a block of its own with nothing of the machine in it, the records, padding. */
function paxHeader(entry: EntryToWrite, records: Records): Buffer {
  const body = encodePax(records);
  checkLimit('bytes of its PAX header', body.length, MAX_PAX_BYTES);
  const header = Buffer.alloc(BLOCK);
  const base = entry.path.replace(/\/+$/, '').replace(/^.*\//s, '') as ByteString;
  put(header, 'name', standIn(`PaxHeaders.0/${base}` as ByteString));
  putOctal(header, 'mode', 0o644);
  putOctal(header, 'uid', 0);
  putOctal(header, 'gid', 0);
  putOctal(header, 'size', body.length);
  putOctal(header, 'mtime', 0);
  seal(header, 'x');
  return Buffer.concat([header, body, Buffer.alloc(padding(body.length))]);
}
