/**
 * Files of a file system as a tar. They are read while others may write to them: what vanishes before it is opened is
 * left out, what shrinks is padded with zeros, what grows is cut at the size that its header states. Nothing is followed:
 * a name is opened without its target (O_PATH, O_NOFOLLOW), looked at, and only then, by that descriptor, read.
 */
import { constants } from 'node:fs';
import { isErrno } from '../core/errors.js';
import type { ByteString } from '../core/bytes.js';
import { dataSegments, pread } from '../linux/extents.js';
import { AT_FDCWD, close, fdPath, fdPathOf, O_PATH, openat, readlinkat } from '../linux/files.js';
import { statFd, type FileStat } from '../linux/stat.js';
import { readXattrs, type XattrTarget } from '../linux/xattr.js';
import type { TarEntryType } from '../tar/entry.js';
import { encodeEntry, endOfArchive, padding, type EntryToWrite } from '../tar/writer.js';
import { isPrivateXattr } from './xattr-rules.js';

/** Something to write; descriptors stay open until the next item is asked for. */
export type TarItem =
  /** The name in the open directory `dirFd`, of any kind but a directory. Equal inodes count as one within a `view`. */
  | { kind: 'name'; path: ByteString; dirFd: number; name: ByteString; view: string }
  /** The open directory `fd` itself, without what is in it; '' is the root. */
  | { kind: 'directory'; path: ByteString; fd: number }
  /** A whiteout or opaque marker. */
  | { kind: 'marker'; path: ByteString };

type NameItem = TarItem & { kind: 'name' };

export interface TreeTarOptions {
  /** Told of every socket: a tar holds none. */
  skipped?: (path: ByteString) => void;
}

/** Bytes that are gathered before they are passed on. */
const BATCH = 256 * 1024;
/** Bytes of a large file that are passed on at once. */
const CHUNK = 1024 * 1024;
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

/** The tar of all items, ended by its two zero blocks. Throws what {@link encodeEntry} throws, naming the file. */
export async function* tarOf(items: Iterable<TarItem>, options: TreeTarOptions = {}): AsyncGenerator<Buffer, void> {
  const writer = new TreeTarWriter(options);
  for (const item of items) yield* writer.write(item);
  yield* writer.end();
}

class TreeTarWriter {
  private readonly options: TreeTarOptions;
  private gathered: Buffer[] = [];
  private gatheredBytes = 0;
  private readonly chunk = Buffer.allocUnsafe(CHUNK);
  private readonly zeros = Buffer.alloc(CHUNK);
  /** The first name of every inode that has several. */
  private readonly firstNames = new Map<string, ByteString>();

  constructor(options: TreeTarOptions) {
    this.options = options;
  }

  *write(item: TarItem): Generator<Buffer, void> {
    switch (item.kind) {
      case 'marker':
        this.gather(encodeEntry({ ...MARKER, path: item.path }));
        break;
      case 'directory':
        this.gather(encodeEntry(attributesOf(directoryPath(item.path), 'directory', statFd(item.fd), item.fd)));
        break;
      case 'name':
        yield* this.writeName(item);
    }
    if (this.gatheredBytes >= BATCH) yield this.takeGathered();
  }

  *end(): Generator<Buffer, void> {
    this.gather(endOfArchive());
    yield this.takeGathered();
  }

  private *writeName(item: NameItem): Generator<Buffer, void> {
    const pathFd = openIfThere(item.dirFd, item.name, O_PATH | constants.O_NOFOLLOW);
    if (pathFd === null) return;
    try {
      const stat = statFd(pathFd);
      if (stat.kind === 'socket') this.options.skipped?.(item.path);
      else if (stat.kind !== 'directory' && !this.writeLink(item, stat)) yield* this.writeInode(item, pathFd, stat);
    } finally {
      close(pathFd);
    }
  }

  /** False where no other name of the inode has been written yet. */
  private writeLink({ path, view }: NameItem, stat: FileStat): boolean {
    const first = this.firstNames.get(inodeKey(view, stat));
    if (first === undefined) return false;
    this.gather(encodeEntry({ ...attributesOf(path, 'hardlink', stat, null), linkPath: first }));
    return true;
  }

  private *writeInode(item: NameItem, pathFd: number, stat: FileStat): Generator<Buffer, void> {
    if (stat.kind === 'file') yield* this.writeFile(item.path, pathFd);
    else if (!this.writeSpecial(item, pathFd, stat)) return;
    if (stat.nlink > 1) this.firstNames.set(inodeKey(item.view, stat), item.path);
  }

  /** False where it vanished before its attributes were read. */
  private writeSpecial({ path, dirFd, name }: NameItem, pathFd: number, stat: FileStat): boolean {
    const { kind } = stat;
    if (kind === 'directory' || kind === 'socket') throw new Error(`a ${kind} is not written by name`);
    try {
      const entry = attributesOf(path, kind, stat, fdPathOf(dirFd, name));
      this.gather(encodeEntry(kind === 'symlink' ? { ...entry, linkPath: readlinkat(pathFd, NO_LINK) } : entry));
      return true;
    } catch (thrown) {
      if (isErrno(thrown, 'ENOENT')) return false;
      throw thrown;
    }
  }

  private *writeFile(path: ByteString, pathFd: number): Generator<Buffer, void> {
    const fd = openat(AT_FDCWD, fdPath(pathFd), constants.O_RDONLY);
    try {
      // the header's size is that of the moment: what is read must fill just that
      const stat = statFd(fd);
      this.gather(encodeEntry({ ...attributesOf(path, 'file', stat, fd), size: stat.size }));
      if (stat.size <= BATCH) this.gather(this.small(fd, stat.size));
      else yield* this.large(fd, stat);
      this.gather(this.zeros.subarray(0, padding(stat.size)));
    } finally {
      close(fd);
    }
  }

  private small(fd: number, size: number): Buffer {
    const bytes = Buffer.allocUnsafe(size);
    readOrZero(fd, bytes, 0);
    return bytes;
  }

  private *large(fd: number, { size, blocks }: FileStat): Generator<Buffer, void> {
    yield this.takeGathered();
    const segments = blocks * BLOCK < size ? dataSegments(fd, size) : [{ offset: 0, length: size }];
    let at = 0;
    for (const { offset, length } of segments) {
      yield* this.hole(offset - at);
      for (at = offset; at < offset + length;) {
        const part = this.chunk.subarray(0, Math.min(CHUNK, offset + length - at));
        readOrZero(fd, part, at);
        yield part;
        at += part.length;
      }
    }
    yield* this.hole(size - at);
  }

  private *hole(length: number): Generator<Buffer, void> {
    for (let left = length; left > 0; left -= CHUNK) yield this.zeros.subarray(0, Math.min(left, CHUNK));
  }

  private gather(bytes: Buffer): void {
    this.gathered.push(bytes);
    this.gatheredBytes += bytes.length;
  }

  private takeGathered(): Buffer {
    const bytes = Buffer.concat(this.gathered, this.gatheredBytes);
    this.gathered = [];
    this.gatheredBytes = 0;
    return bytes;
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
    size: 0,
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
