/** Paths of a container's tree as a tar: all of them (export), or what was changed (diff). */
import { closeSync, readSync, type BigIntStats } from 'node:fs';
import { joinBytes, type ByteString } from '../../src/core/bytes.js';
import type { TarEntryType } from '../../src/tar/entry.js';
import { encodeEntry, endOfArchive, padding, type EntryToWrite } from '../../src/tar/writer.js';
import { kindOf, type Finding } from './changes.js';
import type { Disk } from './disk.js';

const CHUNK = 1 << 20;
const NO_PATH = '' as ByteString;
const WHITEOUT: Omit<EntryToWrite, 'path'> = {
  type: 'file',
  linkPath: NO_PATH,
  mode: 0,
  uid: 0,
  gid: 0,
  size: 0,
  mtime: { sec: 0, nsec: 0 },
  devMajor: 0,
  devMinor: 0,
  xattrs: null,
};

/** The tar of these findings. Deleted paths become whiteouts; sockets are left out: a tar holds none. */
export function* tarOfFindings(disk: Disk, findings: Iterable<Finding>): Generator<Buffer> {
  const first = new Map<bigint, ByteString>();
  for (const finding of findings) {
    if (finding.stat === null) yield encodeEntry({ ...WHITEOUT, path: whiteoutOf(finding.path) });
    else yield* entryOf(disk, finding, finding.stat, first);
  }
  yield endOfArchive();
}

function* entryOf(disk: Disk, finding: Finding, stat: BigIntStats, first: Map<bigint, ByteString>): Generator<Buffer> {
  const type = typeOf(finding, stat);
  if (type === null) return;
  const node = finding.merged?.node ?? null;
  const size = type === 'file' ? Number(stat.size) : 0;
  const entry: EntryToWrite = {
    type,
    path: finding.path,
    linkPath: type === 'symlink' ? disk.readlink(finding.path) : NO_PATH,
    ...disk.attributes(finding.path, stat, node),
    size,
    devMajor: type === 'char' || type === 'block' ? (node?.devMajor ?? majorOf(stat.rdev)) : 0,
    devMinor: type === 'char' || type === 'block' ? (node?.devMinor ?? minorOf(stat.rdev)) : 0,
  };
  const linked = stat.nlink > 1n && type !== 'directory' ? first.get(stat.ino) : undefined;
  if (linked !== undefined) {
    yield encodeEntry({ ...entry, type: 'hardlink', linkPath: linked, size: 0 });
    return;
  }
  if (stat.nlink > 1n) first.set(stat.ino, finding.path);
  yield encodeEntry(type === 'directory' ? { ...entry, path: `${finding.path}/` as ByteString } : entry);
  if (size > 0) yield* contentOf(disk, finding.path, size);
}

/** Where a node is only a placeholder on disk and was not written to, it is what the image says. */
function typeOf({ merged }: Finding, stat: BigIntStats): TarEntryType | null {
  const kind = kindOf(stat);
  const node = merged?.node;
  if (node !== undefined && kind === 'file' && stat.size === 0n && node.kind !== 'whiteout') return node.kind;
  return kind === 'socket' || kind === 'whiteout' ? null : kind;
}

/** Exactly `size` bytes, whatever happens to the file meanwhile. */
function* contentOf(disk: Disk, path: ByteString, size: number): Generator<Buffer> {
  const fd = disk.openFile(path);
  try {
    for (let at = 0; at < size;) {
      const chunk = Buffer.alloc(Math.min(CHUNK, size - at));
      let filled = 0;
      while (filled < chunk.length) {
        const read = readSync(fd, chunk, filled, chunk.length - filled, at + filled);
        if (read === 0) break;
        filled += read;
      }
      at += chunk.length;
      yield chunk;
    }
  } finally {
    closeSync(fd);
  }
  yield Buffer.alloc(padding(size));
}

function whiteoutOf(path: ByteString): ByteString {
  const slash = path.lastIndexOf('/');
  const name = `.wh.${path.slice(slash + 1)}` as ByteString;
  return slash < 0 ? name : joinBytes(path.slice(0, slash) as ByteString, name);
}

/** gnu_dev_major(3), gnu_dev_minor(3). */
function majorOf(rdev: bigint): number {
  return Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n));
}

function minorOf(rdev: bigint): number {
  return Number((rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n));
}
