/**
 * The content of a directory: blocks of entries, each block for itself: first the records, then the names. The names
 * are in byte order through the whole directory (the kernel searches by halves), `.` and `..` among them.
 */
import type { ByteString } from '../../src/core/bytes.js';
import { BLOCK_BYTES, DIRENT_BYTES, writeDirent } from './format.js';

/** What the names of a directory point to, by their place among the names. */
export interface Targets {
  nid(index: number): number;
  /** See FILE_TYPE. */
  type(index: number): number;
}

/** The names of a directory as it lists them. */
export function directoryNames(children: Iterable<ByteString>): ByteString[] {
  // The default order compares UTF-16 units, which in a ByteString are the bytes.
  return [...children, '.' as ByteString, '..' as ByteString].sort();
}

/** Bytes of the directory (whole blocks and what the last one uses), and the entry that its last block starts with. */
export function measureDirectory(names: readonly ByteString[]): { bytes: number; lastFirst: number } {
  let whole = 0;
  let start = 0;
  for (;;) {
    const block = fill(names, start);
    if (block.end === names.length) return { bytes: whole + block.bytes, lastFirst: start };
    whole += BLOCK_BYTES;
    start = block.end;
  }
}

/**
 * Writes the entries from `start` on that fit into one block, at `at`, and returns the index of the next one. The bytes
 * written to are zero.
 */
export function writeDirectoryBlock(
  into: Buffer,
  at: number,
  names: readonly ByteString[],
  start: number,
  targets: Targets,
): number {
  const { end } = fill(names, start);
  let nameOffset = (end - start) * DIRENT_BYTES;
  for (let i = start; i < end; i += 1) {
    const name = names[i] ?? ('' as ByteString);
    writeDirent(into, at + (i - start) * DIRENT_BYTES, targets.nid(i), nameOffset, targets.type(i));
    into.write(name, at + nameOffset, 'latin1');
    nameOffset += name.length;
  }
  return end;
}

/** The entries from `start` on that one block holds, and the bytes they take. */
function fill(names: readonly ByteString[], start: number): { end: number; bytes: number } {
  let bytes = 0;
  let end = start;
  for (; end < names.length; end += 1) {
    const more = DIRENT_BYTES + (names[end]?.length ?? 0);
    if (bytes + more > BLOCK_BYTES) break;
    bytes += more;
  }
  return { end, bytes };
}
