/**
 * Reads overlay's upper directory for what it says about the lowers: Documentation/filesystems/overlayfs.rst of the
 * kernel. Only the upper is walked, so that the time goes with what changed. Of the lowers a name is looked up where the
 * upper has one; a directory that was renamed (`redirect`) is read from the merged view, since the upper has only what
 * changed inside it.
 */
import { bytesOf, joinBytes, type ByteString } from '../core/bytes.js';
import { isErrno } from '../core/errors.js';
import type { DirectoryEntry } from '../linux/directory.js';
import { AT_FDCWD, close, fdPathOf, openat } from '../linux/files.js';
import { overlayMount } from '../linux/overlay.js';
import { tryStatAt, type FileStat } from '../linux/stat.js';
import { getXattr } from '../linux/xattr.js';
import type { RootAttributes } from './sink.js';
import { openIfThere, openSeenFile, type OpenFile } from './tree-tar-writer.js';
import { OPEN_DIRECTORY, openToRead, sortedEntries, type ReadRoot } from './tree-tar.js';

/** Where the parts of one overlay lie. */
export interface UpperPlaces {
  /** The upper directory; nothing else may write to it than the overlay itself. */
  upper: string;
  /** The directories below it, top first; may be none. */
  lowers: readonly string[];
  /** A directory that is empty and stays so. */
  empty: string;
  /** The root's attributes as the snapshot was made. */
  root: RootAttributes;
  /** Opens the merged root; called only where a directory has been renamed. `path` is valid until `close()`. */
  merged: () => { path: string; close(): void };
}

/**
 * What the upper says about one path, in the order in which a tar needs it: a directory before what is in it, names of
 * one directory in byte order (but 'hidden' ones last). `existed`: the lowers have something at the path, too; of a 'name'
 * that is looked up by walks that compare only.
 *  - 'directory', 'name': it is there. 'name' is of any kind but a directory, in the open directory `dirFd`; `view`
 *    tells inodes apart; `file` is what {@link openSeenFile} has opened, in walks that do not compare.
 *  - 'whiteout': what the lowers have at the path is gone.
 *  - 'opaque': nothing shows of the directory that the lowers have at the path of the upper's.
 *  - 'hidden': the lowers have the path, in a directory of which nothing shows, and it is not there any more.
 */
export type UpperItem =
  | { kind: 'directory'; path: ByteString; fd: number; existed: boolean }
  | {
      kind: 'name';
      path: ByteString;
      dirFd: number;
      name: ByteString;
      view: string;
      file: OpenFile | null;
      existed: boolean;
    }
  | { kind: 'whiteout' | 'opaque' | 'hidden'; path: ByteString };

const ROOT = '' as ByteString;
const OPAQUE = bytesOf('trusted.overlay.opaque');
const REDIRECT = bytesOf('trusted.overlay.redirect');
const WHITEOUT = bytesOf('trusted.overlay.whiteout');

/** One directory, seen from three sides. */
interface Frame {
  path: ByteString;
  /** The upper's directory; null where it has none (below a renamed directory). */
  upperFd: number | null;
  /** The directory in the merged view, for a renamed directory and all below it, else null. */
  mergedFd: number | null;
  /** What the lowers have at the same path; null if that is no directory. */
  lowerFd: number | null;
  /** Nothing of `lowerFd` shows. */
  hidesLower: boolean;
}

/** One walk through an upper. Descriptors in an item are open until the next item is asked for. */
export class UpperWalk {
  private readonly places: UpperPlaces;
  private readonly compares: boolean;
  private readonly most: number;
  /** What is seen as a file in the upper is opened at once. */
  private opensUpper = false;
  private merged: (ReadRoot & { close(): void }) | null = null;
  /** A directory has more than `most` names: not all of them came. */
  incomplete = false;

  /** `compares`: says of every name whether it existed, and lists what opaque directories hide, too. */
  constructor(places: UpperPlaces, options: { compares: boolean; most?: number }) {
    this.places = places;
    this.compares = options.compares;
    this.most = options.most ?? Number.POSITIVE_INFINITY;
  }

  *items(): Generator<UpperItem, void> {
    const upper = this.openUpper();
    const upperFd = upper.fd;
    this.opensUpper = upper.refusesDevices;
    try {
      const lowerFd = openLowers(this.places);
      try {
        yield { kind: 'directory', path: ROOT, fd: upperFd, existed: true };
        yield* this.content({ path: ROOT, upperFd, mergedFd: null, lowerFd, hidesLower: false });
      } finally {
        close(lowerFd);
      }
    } finally {
      close(upperFd);
      this.closeMerged();
    }
  }

  /** A comparison opens no file, so that it can do without the clone of a mount. */
  private openUpper(): ReadRoot {
    const path = bytesOf(this.places.upper);
    if (!this.compares) return openToRead(path, OPEN_DIRECTORY);
    return { fd: openat(AT_FDCWD, path, OPEN_DIRECTORY), refusesDevices: false };
  }

  /** What is in the directory, all below included. */
  private *content(frame: Frame): Generator<UpperItem, void> {
    const listed = frame.mergedFd ?? frame.upperFd;
    if (listed === null) throw new Error('a directory is in the upper or in the merged view');
    const entries = this.entries(listed);
    for (const entry of entries) {
      const file = frame.mergedFd === null ? this.openFile(listed, entry) : null;
      if (file === null) {
        yield* this.child(frame, entry);
        continue;
      }
      try {
        const { name } = entry;
        const path = joinBytes(frame.path, name);
        yield { kind: 'name', path, dirFd: listed, name, view: 'upper', file, existed: false };
      } finally {
        close(file.fd);
      }
    }
    if (frame.hidesLower && frame.lowerFd !== null && this.compares) yield* this.hidden(frame, frame.lowerFd, entries);
  }

  /** A file of the upper that is no whiteout; null leaves it to a look at the name. */
  private openFile(upperFd: number, { name, kind }: DirectoryEntry): OpenFile | null {
    const file = this.opensUpper && kind === 'file' ? openSeenFile(upperFd, name) : null;
    if (file === null || file.stat.size > 0) return file;
    let marked = true;
    try {
      marked = getXattr(file.fd, WHITEOUT) !== null;
    } finally {
      if (marked) close(file.fd);
    }
    return marked ? null : file;
  }

  private entries(fd: number): DirectoryEntry[] {
    const entries = sortedEntries(fd, this.most);
    if (entries.length > this.most) this.incomplete = true;
    return entries;
  }

  private *hidden({ path }: Frame, lowerFd: number, present: readonly DirectoryEntry[]): Generator<UpperItem, void> {
    const names = new Set(present.map(({ name }) => name));
    for (const { name } of this.entries(lowerFd)) {
      if (!names.has(name)) yield { kind: 'hidden', path: joinBytes(path, name) };
    }
  }

  private *child(frame: Frame, { name, kind }: DirectoryEntry): Generator<UpperItem, void> {
    const { upperFd, mergedFd } = frame;
    const path = joinBytes(frame.path, name);
    const upper = upperFd === null ? null : tryStatAt(upperFd, name);
    const isName = upper !== null && upperFd !== null && upper.kind !== 'directory';
    const whiteout = isName && isWhiteout(upper, upperFd, name);
    const asks = this.compares || !isName || whiteout;
    const lower = asks && frame.lowerFd !== null ? tryStatAt(frame.lowerFd, name) : null;
    const existed = lower !== null;
    if (isName) {
      if (!whiteout) yield { kind: 'name', path, dirFd: upperFd, name, view: 'upper', file: null, existed };
      else if (existed && !frame.hidesLower) yield { kind: 'whiteout', path };
      else if (existed && this.compares) yield { kind: 'hidden', path };
    } else if (upper?.kind === 'directory' || (mergedFd !== null && isDirectory(kind, mergedFd, name))) {
      yield* this.directory(frame, name, path, lower);
    } else if (mergedFd !== null) {
      const opens = !this.compares && this.merged?.refusesDevices === true && kind === 'file';
      const file = opens ? openSeenFile(mergedFd, name) : null;
      try {
        yield { kind: 'name', path, dirFd: mergedFd, name, view: 'merged', file, existed };
      } finally {
        if (file !== null) close(file.fd);
      }
    }
  }

  private *directory(
    frame: Frame,
    name: ByteString,
    path: ByteString,
    lower: FileStat | null,
  ): Generator<UpperItem, void> {
    const fds = new OpenFds();
    try {
      const upperFd = fds.open(frame.upperFd, name);
      const marks = marksOf(upperFd);
      const mergedFd =
        frame.mergedFd === null && marks.redirected ? this.openMerged(path, fds) : fds.open(frame.mergedFd, name);
      const fd = frame.mergedFd === null && !marks.redirected ? upperFd : mergedFd;
      if (fd === null) return;
      const lowerFd = lower?.kind === 'directory' ? fds.open(frame.lowerFd, name) : null;
      const hidesLower = frame.hidesLower || marks.opaque || marks.redirected;
      yield { kind: 'directory', path, fd, existed: lower !== null };
      if (hidesLower && !frame.hidesLower && lowerFd !== null) yield { kind: 'opaque', path };
      yield* this.content({ path, upperFd, mergedFd, lowerFd, hidesLower });
    } finally {
      fds.close();
    }
  }

  /** The directory in the merged view; null where it is gone. */
  private openMerged(path: ByteString, fds: OpenFds): number | null {
    this.merged ??= openMergedRoot(this.places);
    let fd: number | null = this.merged.fd;
    for (const name of path.split('/') as ByteString[]) fd = fds.open(fd, name);
    return fd;
  }

  private closeMerged(): void {
    if (this.merged === null) return;
    close(this.merged.fd);
    this.merged.close();
  }
}

/** Descriptors of directories that are closed together. */
class OpenFds {
  private readonly fds: number[] = [];

  /** Null where there is no such directory. */
  open(dirFd: number | null, name: ByteString): number | null {
    const fd = dirFd === null ? null : openIfThere(dirFd, name, OPEN_DIRECTORY);
    if (fd !== null) this.fds.push(fd);
    return fd;
  }

  close(): void {
    this.fds.forEach(close);
  }
}

/** Overlay takes two things for a whiteout: a device of its own number, and an empty file with its mark. */
function isWhiteout({ kind, rdev, size }: FileStat, dirFd: number, name: ByteString): boolean {
  if (kind === 'char') return rdev.major === 0 && rdev.minor === 0;
  return kind === 'file' && size === 0 && hasMark(dirFd, name);
}

function hasMark(dirFd: number, name: ByteString): boolean {
  try {
    return getXattr(fdPathOf(dirFd, name), WHITEOUT) !== null;
  } catch (thrown) {
    // gone since we looked: whoever opens it will find out
    if (isErrno(thrown, 'ENOENT')) return false;
    throw thrown;
  }
}

function isDirectory(kind: DirectoryEntry['kind'], dirFd: number, name: ByteString): boolean {
  return (kind === 'unknown' ? tryStatAt(dirFd, name)?.kind : kind) === 'directory';
}

/** `opaque` has values beside "y" that do not hide what is below. */
function marksOf(upperFd: number | null): { opaque: boolean; redirected: boolean } {
  if (upperFd === null) return { opaque: false, redirected: false };
  return {
    opaque: getXattr(upperFd, OPAQUE)?.toString('latin1') === 'y',
    redirected: getXattr(upperFd, REDIRECT) !== null,
  };
}

/** What the lowers are together. Overlay wants two; one alone may have whiteouts that must not show. */
function openLowers({ lowers, empty }: UpperPlaces): number {
  if (lowers.length === 0) return openat(AT_FDCWD, bytesOf(empty), OPEN_DIRECTORY);
  const all = lowers.length === 1 ? [...lowers, empty] : lowers;
  return overlayMount({ lowers: all, source: 'layerd-lowers', attributes: { readOnly: true } });
}

function openMergedRoot(places: UpperPlaces): ReadRoot & { close(): void } {
  const opened = places.merged();
  try {
    return { ...openToRead(bytesOf(opened.path)), close: () => opened.close() };
  } catch (thrown) {
    opened.close();
    throw thrown;
  }
}
