/**
 * Files of a file system as a tar. They are read while others may write to them: what vanishes before it is opened is
 * left out, what shrinks is padded with zeros, what grows is cut at the size that its header states. Nothing is followed:
 * a name is opened without its target (O_PATH, O_NOFOLLOW), looked at, and only then, by that descriptor, read. Where no
 * device can be opened, what was seen as a file is opened at once, since that takes half the time.
 */
import { constants } from 'node:fs';
import { isErrno } from '../core/errors.js';
import type { ByteString } from '../core/bytes.js';
import { dataSegments, pread, type DataSegment } from '../linux/extents.js';
import { AT_FDCWD, close, fdPath, fdPathOf, O_PATH, openat, readlinkat } from '../linux/files.js';
import { statFd, type FileStat } from '../linux/stat.js';
import { readXattrs, type XattrTarget } from '../linux/xattr.js';
import type { TarEntryType } from '../tar/entry.js';
import { endOfArchive, EntryHeaders, padding, type EntryToWrite } from '../tar/writer.js';
import { madeAhead } from './source-ahead.js';
import { isPrivateXattr } from './xattr-rules.js';

/** Something to write; descriptors stay open until the next item is asked for. */
export type TarItem =
  /**
   * The name in the open directory `dirFd`, of any kind but a directory; `file` where {@link openSeenFile} has opened it.
   * Equal inodes count as one within a `view`.
   */
  | { kind: 'name'; path: ByteString; dirFd: number; name: ByteString; view: string; file: OpenFile | null }
  /** The open directory `fd` itself, without what is in it; '' is the root. */
  | { kind: 'directory'; path: ByteString; fd: number }
  /** A whiteout or opaque marker. */
  | { kind: 'marker'; path: ByteString };

/** A regular file, open for reading, as it was when it was opened. */
export interface OpenFile {
  fd: number;
  stat: FileStat;
}

type NameItem = TarItem & { kind: 'name' };

export interface TreeTarOptions {
  /** Told of every socket: a tar holds none. */
  skipped?: (path: ByteString) => void;
}

/** Bytes that are passed on at once. */
const CHUNK = 1024 * 1024;
/** Of files up to this size holes are read like the rest. */
const SMALL = 256 * 1024;
const BLOCK = 512;

const NO_LINK = '' as ByteString;
const MARKER: Omit<EntryToWrite, 'path'> = {
  type: 'file',
  linkPath: NO_LINK,
  mode: 0o600,
  uid: 0,
  gid: 0,
  size: 0,
  mtime: { sec: 0, nsec: 0 },
  devMajor: 0,
  devMinor: 0,
  xattrs: null,
};

/**
 * The tar of all items, ended by its two zero blocks, in chunks of 1 MiB, one made ahead. Throws what {@link EntryHeaders}
 * throws, naming the file.
 */
export function tarOf(items: Iterable<TarItem>, options: TreeTarOptions = {}): AsyncGenerator<Buffer, void> {
  return madeAhead(chunksOf(items, options));
}

/** The chunk before last is overwritten. */
function* chunksOf(items: Iterable<TarItem>, options: TreeTarOptions): Generator<Buffer, void> {
  const writer = new TreeTarWriter(options);
  try {
    for (const item of items) {
      writer.begin(item);
      while (!writer.fill()) yield writer.take();
    }
    writer.end();
    while (!writer.fill()) yield writer.take();
    yield writer.take();
  } finally {
    writer.close();
  }
}

/** The content of a file, zeros behind it up to `end`; `at` is how far it is written. */
interface Content {
  fd: number;
  /** The descriptor is ours to close, not the item's. */
  closes: boolean;
  at: number;
  end: number;
  /** What is to be read, the first to come at the end; zeros between. */
  segments: DataSegment[];
}

/**
 * Headers and what is read of files go straight into a chunk: nothing is copied, and no buffer is made for a file. An item
 * is begun, then moved into chunks as far as each goes.
 */
class TreeTarWriter {
  private readonly options: TreeTarOptions;
  private chunk = Buffer.allocUnsafeSlow(CHUNK);
  private spare = Buffer.allocUnsafeSlow(CHUNK);
  private filled = 0;
  /** What the chunk had no room for of the headers. */
  private headers: Buffer | null = null;
  private content: Content | null = null;
  /** The first name of every inode that has several. */
  private readonly firstNames = new Map<string, ByteString>();

  constructor(options: TreeTarOptions) {
    this.options = options;
  }

  begin(item: TarItem): void {
    switch (item.kind) {
      case 'marker':
        this.put({ ...MARKER, path: item.path });
        break;
      case 'directory':
        this.put(attributesOf(directoryPath(item.path), 'directory', statFd(item.fd), item.fd));
        break;
      case 'name':
        this.beginName(item);
    }
  }

  end(): void {
    this.headers = endOfArchive();
  }

  /** Moves on with what was begun; false where the chunk is full before that is whole. */
  fill(): boolean {
    return this.fillHeaders() && this.fillContent();
  }

  take(): Buffer {
    const bytes = this.chunk.subarray(0, this.filled);
    [this.chunk, this.spare] = [this.spare, this.chunk];
    this.filled = 0;
    return bytes;
  }

  close(): void {
    if (this.content?.closes === true) close(this.content.fd);
    this.content = null;
  }

  private beginName(item: NameItem): void {
    const { file } = item;
    if (file === null) this.openName(item);
    else if (!this.putLink(item, file.stat)) this.beginFile(item, file, false);
  }

  private openName(item: NameItem): void {
    const pathFd = openIfThere(item.dirFd, item.name, O_PATH | constants.O_NOFOLLOW);
    if (pathFd === null) return;
    try {
      const stat = statFd(pathFd);
      if (stat.kind === 'socket') this.options.skipped?.(item.path);
      else if (stat.kind !== 'directory' && !this.putLink(item, stat)) this.beginInode(item, stat, pathFd);
    } finally {
      close(pathFd);
    }
  }

  /** A further name of what is in the tar; false where it is not. */
  private putLink({ path, view }: NameItem, stat: FileStat): boolean {
    const first = stat.nlink > 1 ? this.firstNames.get(inodeKey(view, stat)) : undefined;
    if (first === undefined) return false;
    this.put({ ...attributesOf(path, 'hardlink', stat, null), linkPath: first });
    return true;
  }

  private keepFirst({ path, view }: NameItem, stat: FileStat): void {
    if (stat.nlink > 1) this.firstNames.set(inodeKey(view, stat), path);
  }

  private beginInode(item: NameItem, stat: FileStat, pathFd: number): void {
    if (stat.kind === 'file') {
      this.beginFile(item, { fd: openat(AT_FDCWD, fdPath(pathFd), constants.O_RDONLY), stat }, true);
      return;
    }
    const entry = specialEntry(item, pathFd, stat);
    if (entry === null) return;
    this.put(entry);
    this.keepFirst(item, stat);
  }

  /** The header's size is that of the moment: what is read fills just that. */
  private beginFile(item: NameItem, { fd, stat }: OpenFile, closes: boolean): void {
    const { size, blocks } = stat;
    const content: Content = { fd, closes, at: 0, end: size + padding(size), segments: [] };
    // whatever fails from here on, close() closes the descriptor
    this.content = content;
    const sparse = size > SMALL && blocks * BLOCK < size;
    content.segments = sparse ? dataSegments(fd, size).toReversed() : [{ offset: 0, length: size }];
    this.put(attributesOf(item.path, 'file', stat, fd));
    this.keepFirst(item, stat);
  }

  private put(entry: EntryToWrite): void {
    const headers = new EntryHeaders(entry);
    if (headers.length <= this.room()) {
      headers.writeTo(this.chunk, this.filled);
      this.filled += headers.length;
    } else {
      this.headers = headers.bytes();
    }
  }

  private fillHeaders(): boolean {
    if (this.headers === null) return true;
    const moved = this.headers.copy(this.chunk, this.filled);
    this.filled += moved;
    this.headers = moved === this.headers.length ? null : this.headers.subarray(moved);
    return this.headers === null;
  }

  private fillContent(): boolean {
    if (this.content === null) return true;
    const { content } = this;
    while (content.at < content.end) {
      if (this.room() === 0) return false;
      this.fillFrom(content);
    }
    this.close();
    return true;
  }

  /** As much as there is room for, either of data or of zeros. */
  private fillFrom(content: Content): void {
    const { fd, at, end, segments } = content;
    const segment = segments.at(-1);
    if (segment === undefined || at < segment.offset) {
      const part = this.next((segment?.offset ?? end) - at);
      part.fill(0);
      content.at += part.length;
      return;
    }
    const part = this.next(segment.offset + segment.length - at);
    readOrZero(fd, part, at);
    content.at += part.length;
    if (content.at === segment.offset + segment.length) segments.pop();
  }

  private room(): number {
    return CHUNK - this.filled;
  }

  /** The next bytes of the chunk, at most so many. */
  private next(length: number): Buffer {
    const start = this.filled;
    this.filled = Math.min(CHUNK, start + length);
    return this.chunk.subarray(start, this.filled);
  }
}

/** Null where it vanished before its attributes were read. */
function specialEntry({ path, dirFd, name }: NameItem, pathFd: number, stat: FileStat): EntryToWrite | null {
  const { kind } = stat;
  if (kind === 'directory' || kind === 'socket') throw new Error(`a ${kind} is not written by name`);
  try {
    const entry = attributesOf(path, kind, stat, fdPathOf(dirFd, name));
    return kind === 'symlink' ? { ...entry, linkPath: readlinkat(pathFd, NO_LINK) } : entry;
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return null;
    throw thrown;
  }
}

function inodeKey(view: string, { dev, ino }: FileStat): string {
  return `${view}:${dev.major}:${dev.minor}:${ino}`;
}

function directoryPath(path: ByteString): ByteString {
  return (path === '' ? './' : `${path}/`) as ByteString;
}

/** `xattrs`: where to read them; null for none. Overlay's own are left out. */
function attributesOf(path: ByteString, type: TarEntryType, stat: FileStat, xattrs: XattrTarget | null): EntryToWrite {
  return {
    type,
    path,
    linkPath: NO_LINK,
    mode: stat.mode & 0o7777,
    uid: stat.uid,
    gid: stat.gid,
    size: stat.size,
    mtime: stat.mtime,
    devMajor: stat.rdev.major,
    devMinor: stat.rdev.minor,
    xattrs: xattrs === null ? null : publicXattrs(xattrs),
  };
}

/** The attributes that belong to the file, not to overlay. */
export function publicXattrs(target: XattrTarget): ReadonlyMap<ByteString, Buffer> | null {
  const xattrs = readXattrs(target);
  if (xattrs.size === 0) return null;
  const kept = new Map([...xattrs].filter(([name]) => !isPrivateXattr(name)));
  return kept.size === 0 ? null : kept;
}

/** Null where the name is gone, or has become something that these flags do not open. */
export function openIfThere(dirFd: number, name: ByteString, flags: number): number | null {
  try {
    return openat(dirFd, name, flags);
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT', 'ENOTDIR', 'ELOOP')) return null;
    throw thrown;
  }
}

const OPEN_SEEN = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY;

/**
 * Opens a name that was seen as a regular file. Null where it is none any more, or cannot be opened so: look at it first.
 * Only in a directory on whose mount no device can be opened ({@link openToRead}), since somebody may have put one there.
 */
export function openSeenFile(dirFd: number, name: ByteString): OpenFile | null {
  const fd = tryOpenSeen(dirFd, name);
  if (fd === null) return null;
  let file: OpenFile | null = null;
  try {
    const stat = statFd(fd);
    if (stat.kind === 'file') file = { fd, stat };
    return file;
  } finally {
    if (file === null) close(fd);
  }
}

/** Refused are links (ELOOP), devices (EACCES), sockets (ENXIO) and files under a lease (EAGAIN). */
function tryOpenSeen(dirFd: number, name: ByteString): number | null {
  try {
    return openat(dirFd, name, OPEN_SEEN);
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT', 'ENOTDIR', 'ELOOP', 'EACCES', 'ENXIO', 'EAGAIN')) return null;
    throw thrown;
  }
}

/** Fills `into` from the file; what the file does not have any more is zero. */
function readOrZero(fd: number, into: Buffer, offset: number): void {
  let filled = 0;
  while (filled < into.length) {
    const length = pread(fd, into.subarray(filled), offset + filled);
    if (length === 0) break;
    filled += length;
  }
  into.fill(0, filled);
}
