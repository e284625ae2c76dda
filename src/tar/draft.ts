/** What a header block and the extension headers before it say together of one entry. */
import type { ByteString } from '../core/bytes.js';
import type { TarEntry, TarEntryType, TarLimits } from './entry.js';
import { checkLimit, invalid, unsupported } from './fault.js';
import type { Header } from './header.js';
import { readCString } from './header.js';
import type { PaxAttributes } from './pax.js';
import { forEachRecord, readPax } from './pax.js';
import type { MapReader, SegmentList } from './sparse.js';
import { OldGnuMapReader, PayloadMapReader, readOldGnuSize } from './sparse.js';

/** What the extension headers before an entry say of it. */
export interface Extensions {
  pax: PaxAttributes | null;
  longName: ByteString;
  longLink: ByteString;
}

const NO_EXTENSIONS: Extensions = { pax: null, longName: '' as ByteString, longLink: '' as ByteString };

/** Flags of headers that speak of the next entry: PAX, PAX global, GNU long link and long name. */
export const EXTENSION_FLAGS: ReadonlySet<string> = new Set(['x', 'g', 'K', 'L']);

/** What holds once the extension header `flag` with this body has been read. Answers null where nothing is pending. */
export function extend(before: Extensions | null, flag: string, body: Buffer, limits: TarLimits): Extensions | null {
  const extensions = before ?? NO_EXTENSIONS;
  switch (flag) {
    case 'x':
      return { ...extensions, pax: readPax(body, limits) };
    case 'L':
      return { ...extensions, longName: readCString(body, 0, body.length) };
    case 'K':
      return { ...extensions, longLink: readCString(body, 0, body.length) };
    default:
      // a global header: its records must be well-formed, but they mean nothing to us, and archive/tar, which hands
      // it out as an entry of its own, forgets what stood before it
      forEachRecord(body, () => undefined);
      return null;
  }
}

/** An entry before its payload: `sparse`, `dataOffset` and `storedSize` are yet to be set. */
export interface Draft {
  entry: TarEntry;
  /** Bytes of payload, a sparse map in it included. */
  payload: number;
  /** Null where the file is not sparse. */
  segments: SegmentList | null;
  /** Reads the map into `segments`, where blocks of their own hold it. */
  map: MapReader | null;
}

/** The path of the entry, extensions applied. */
export function entryPath(header: Header, extensions: Extensions | null): ByteString {
  if (extensions === null) return header.path;
  const { pax, longName } = extensions;
  return pax?.sparse?.name ?? (longName !== '' ? longName : (pax?.path ?? header.path));
}

/** The header block of an entry, read, and as the bytes that an old GNU sparse map is to be read from. */
export interface HeaderBlock {
  header: Header;
  bytes: Buffer;
  at: number;
}

/** Combines and checks. `headerOffset` is that of the first block of the entry. Throws a TarFault. */
export function draftEntry(
  block: HeaderBlock,
  extensions: Extensions | null,
  headerOffset: number,
  limits: TarLimits,
): Draft {
  const { header } = block;
  const path = entryPath(header, extensions);
  const pax = extensions?.pax ?? null;
  checkPath('path', path, limits);
  const type = typeOf(header, path);
  const isLink = type === 'hardlink' || type === 'symlink';
  const isDevice = type === 'char' || type === 'block';
  const linkPath = isLink ? linkPathOf(header, extensions, limits) : ('' as ByteString);
  const stated = pax?.size ?? header.size;
  const payload = type === 'file' ? checkNotNegative('size', stated) : 0;
  const sparse = sparseOf(block, pax, type, payload, limits);
  return {
    entry: {
      type,
      path,
      linkPath,
      mode: checkNotNegative('mode', header.mode) % 0o10000,
      uid: checkId('uid', pax?.uid ?? header.uid),
      gid: checkId('gid', pax?.gid ?? header.gid),
      size: sparse?.size ?? payload,
      mtime: pax?.mtime ?? { sec: header.mtime, nsec: 0 },
      devMajor: isDevice ? checkDevice('major', header.devMajor, MAX_MAJOR) : 0,
      devMinor: isDevice ? checkDevice('minor', header.devMinor, MAX_MINOR) : 0,
      xattrs: pax?.xattrs ?? null,
      sparse: null,
      headerOffset,
      dataOffset: 0,
      storedSize: 0,
    },
    payload,
    segments: sparse?.segments ?? null,
    map: sparse?.map ?? null,
  };
}

const TYPES: ReadonlyMap<string, TarEntryType> = new Map([
  ['\0', 'file'],
  ['0', 'file'],
  ['7', 'file'],
  ['S', 'file'],
  ['1', 'hardlink'],
  ['2', 'symlink'],
  ['3', 'char'],
  ['4', 'block'],
  ['5', 'directory'],
  ['6', 'fifo'],
]);

function typeOf(header: Header, path: ByteString): TarEntryType {
  const type = TYPES.get(header.flag);
  if (type === undefined) throw unsupported(`the type flag ${JSON.stringify(header.flag)}`, { flag: header.flag });
  // before the flag 5 there was the slash
  return header.flag === '\0' && path.endsWith('/') ? 'directory' : type;
}

function checkPath(what: string, path: ByteString, limits: TarLimits): void {
  if (path === '') throw invalid(`the ${what} is empty`);
  checkLimit(`bytes of the ${what}`, path.length, limits.maxPathBytes);
}

function linkPathOf(header: Header, extensions: Extensions | null, limits: TarLimits): ByteString {
  const longLink = extensions?.longLink ?? '';
  const linkPath = longLink !== '' ? longLink : (extensions?.pax?.linkPath ?? header.linkPath);
  checkPath('link target', linkPath, limits);
  return linkPath;
}

interface Sparse {
  /** Logical size; null where the size of the header is that. */
  size: number | null;
  segments: SegmentList;
  map: MapReader | null;
}

function sparseOf(
  block: HeaderBlock,
  pax: PaxAttributes | null,
  type: TarEntryType,
  payload: number,
  limits: TarLimits,
): Sparse | null {
  const { header, bytes, at } = block;
  if (header.flag === 'S') {
    // star has sparse files of the same flag and another layout
    if (header.format !== 'gnu') throw unsupported(`a sparse file in the format ${header.format}`);
    const map = new OldGnuMapReader(bytes, at, limits);
    return { size: readOldGnuSize(bytes, at), segments: map.segments, map };
  }
  const sparse = pax?.sparse ?? null;
  if (sparse === null) return null;
  if (type !== 'file') throw invalid(`a sparse map for what is a ${type}`);
  if (sparse.map !== null) return { size: sparse.size, segments: sparse.map, map: null };
  const map = new PayloadMapReader(payload, limits);
  return { size: sparse.size, segments: map.segments, map };
}

function checkNotNegative(what: string, value: number): number {
  if (value < 0) throw invalid(`the ${what} is negative: ${value}`, { found: value });
  return value;
}

/** Ids are 32 bits in Linux, and the last value means "leave as it is" to chown. */
const MAX_ID = 0xffff_fffe;

function checkId(what: string, id: number): number {
  if (checkNotNegative(what, id) > MAX_ID) throw unsupported(`the ${what} ${id}: Linux has 32 bits`, { found: id });
  return id;
}

/** Linux has 12 bits for the major and 20 for the minor number of a device. */
const MAX_MAJOR = 0xfff;
const MAX_MINOR = 0xf_ffff;

function checkDevice(what: string, value: number, limit: number): number {
  if (checkNotNegative(`${what} device number`, value) > limit) {
    throw unsupported(`the ${what} device number ${value}: Linux has up to ${limit}`, { found: value, limit });
  }
  return value;
}
