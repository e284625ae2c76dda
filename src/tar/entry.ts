import type { ByteString } from '../core/bytes.js';

export type TarEntryType = 'file' | 'hardlink' | 'symlink' | 'char' | 'block' | 'directory' | 'fifo';

/** A run of stored bytes of a sparse file: where it lies in the logical file, and its length; both in bytes. */
export interface SparseSegment {
  offset: number;
  length: number;
}

/** Seconds since the epoch, rounded down (negative before 1970), and the nanoseconds on top: 0 to 999,999,999. */
export interface TarTime {
  sec: number;
  nsec: number;
}

/** What an archive states about one file, with PAX and GNU extensions applied. Independent of the scanner's input. */
export interface TarEntry {
  type: TarEntryType;
  /** As stated, not normalised: may start with `./` or `/`, may end with `/`; never empty, never holds a NUL. */
  path: ByteString;
  /** The target of a hard link or symbolic link; '' for all else. */
  linkPath: ByteString;
  /** Permissions, setuid, setgid, sticky: 12 bits. */
  mode: number;
  uid: number;
  gid: number;
  /** Logical bytes: the real size of a sparse file; 0 for all but files. */
  size: number;
  mtime: TarTime;
  devMajor: number;
  devMinor: number;
  /** Extended attributes by full name (`user.x`, `security.capability`); null where the archive names none. */
  xattrs: ReadonlyMap<ByteString, Buffer> | null;
  /** Data segments, ascending, without overlap, none empty; null for a file that is not sparse. */
  sparse: readonly SparseSegment[] | null;
  /** Offset in the tar of the first header block that belongs to the entry, its PAX and GNU headers included. */
  headerOffset: number;
  /** Offset in the tar of the stored payload (behind a sparse map that lies in the payload). */
  dataOffset: number;
  /** Bytes of stored payload: of a sparse file, its segments back to back. */
  storedSize: number;
}

/**
 * What {@link TarScanner} calls, synchronously. Per entry: raw() with all of its headers, entry(), data() until
 * storedSize bytes are told (not at all if that is 0), entryEnd(). Chunks are slices of the scanner's input: copy what
 * outlives the call. What a handler throws passes through to the caller of write().
 */
export interface TarHandler {
  entry(entry: TarEntry): void;
  /** Stored payload of the current entry, in order. */
  data(chunk: Buffer): void;
  entryEnd(): void;
  /**
   * Every byte that is not payload, in order: headers, PAX and GNU headers, sparse maps, padding, the end marker and
   * what follows it. raw() and data() together are the input, byte for byte.
   */
  raw?(chunk: Buffer): void;
}

export interface TarLimits {
  maxEntries: number;
  /** Bytes of one PAX or GNU extension header. */
  maxMetaBytes: number;
  /** Bytes of all names and values of the extended attributes of one entry. */
  maxXattrBytes: number;
  /** Bytes of a path or a link target. */
  maxPathBytes: number;
  maxSparseSegments: number;
}

export const DEFAULT_TAR_LIMITS: TarLimits = {
  maxEntries: 10_000_000,
  maxMetaBytes: 16 * 1024 * 1024,
  maxXattrBytes: 1024 * 1024,
  maxPathBytes: 64 * 1024,
  maxSparseSegments: 1024 * 1024,
};

export interface TarSummary {
  entries: number;
  /** Bytes of the whole input, what follows the end marker included. */
  bytes: number;
  /** Whether the two zero blocks were there. Without them the archive may have been cut between two entries. */
  endMarker: boolean;
}

export const BLOCK = 512;

/** Zero bytes that follow a payload of `size` bytes, up to the next block. */
export function padding(size: number): number {
  // not `&`: sizes go beyond 32 bits
  const over = size % BLOCK;
  return over === 0 ? 0 : BLOCK - over;
}
