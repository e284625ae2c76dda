/** Paths of a container's tree as a tar: all of them (export), or what was changed (diff). */
import { closeSync, readSync, type BigIntStats } from 'node:fs';
import { whiteoutOf } from '../../src/content/names.js';
import { checkName } from '../../src/content/upper.js';
import type { ByteString } from '../../src/core/bytes.js';
import type { TarEntryType } from '../../src/tar/entry.js';
import { encodeEntry, endOfArchive, padding, type EntryToWrite } from '../../src/tar/writer.js';
import { ifThere, inodeOf, isLinked, kindOf, type Finding } from './changes.js';
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
  const first = new Map<string, ByteString>();
  for (const finding of findings) {
    if (finding.stat === null) yield encodeEntry({ ...WHITEOUT, path: whiteoutAt(finding.path) });
    else yield* entryOf(disk, finding, finding.stat, first);
  }
  yield endOfArchive();
}

/**
 * As {@link tarOfFindings}, of what a layer holds: findings that are no change left out. Throws NAME_UNSUPPORTED for a
 * name that stands for a whiteout in a layer.
 */
export function* tarOfChanges(disk: Disk, findings: readonly Finding[]): Generator<Buffer> {
  const changed = findings.filter(({ kind }) => kind !== 'same' && kind !== 'time');
  for (const { path } of changed) checkName(path);
  // The time of the root goes along where something else has changed.
  yield* tarOfFindings(disk, changed.length === 0 ? [] : findings.filter(({ kind }) => kind !== 'same'));
}

function* entryOf(disk: Disk, finding: Finding, stat: BigIntStats, first: Map<string, ByteString>): Generator<Buffer> {
  const type = typeOf(finding, stat);
  if (type === null) return;
  const read = ifThere(() => readEntry(disk, finding, stat, type));
  if (read === null) return;
  const { entry, fd } = read;
  try {
    const linked = isLinked(stat) ? first.get(inodeOf(stat)) : undefined;
    if (linked !== undefined) {
      yield encodeEntry({ ...entry, type: 'hardlink', linkPath: linked, size: 0 });
      return;
    }
    if (isLinked(stat)) first.set(inodeOf(stat), finding.path);
    yield encodeEntry(type === 'directory' ? { ...entry, path: directoryPath(finding.path) } : entry);
    if (fd !== null) yield* contentOf(fd, entry.size);
  } finally {
    if (fd !== null) closeSync(fd);
  }
}

/** The entry and, where it has content, the open file: what goes after that is still read. */
function readEntry(
  disk: Disk,
  finding: Finding,
  stat: BigIntStats,
  type: TarEntryType,
): { entry: EntryToWrite; fd: number | null } {
  const { path, merged } = finding;
  const node = merged?.node ?? null;
  const size = type === 'file' ? Number(stat.size) : 0;
  const isDevice = type === 'char' || type === 'block';
  const entry: EntryToWrite = {
    type,
    path,
    linkPath: type === 'symlink' ? disk.readlink(path) : NO_PATH,
    ...disk.attributes(path, stat, node),
    size,
    devMajor: isDevice ? (node?.devMajor ?? majorOf(stat.rdev)) : 0,
    devMinor: isDevice ? (node?.devMinor ?? minorOf(stat.rdev)) : 0,
  };
  return { entry, fd: size > 0 ? disk.openFile(path) : null };
}

/** Where a node is only a placeholder on disk and was not written to, it is what the image says. */
function typeOf({ merged }: Finding, stat: BigIntStats): TarEntryType | null {
  const kind = kindOf(stat);
  const node = merged?.node;
  if (node !== undefined && kind === 'file' && stat.size === 0n && node.kind !== 'whiteout') return node.kind;
  return kind === 'socket' || kind === 'whiteout' ? null : kind;
}

/** Exactly `size` bytes, whatever happens to the file meanwhile. */
function* contentOf(fd: number, size: number): Generator<Buffer> {
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
  yield Buffer.alloc(padding(size));
}

function directoryPath(path: ByteString): ByteString {
  return (path === '' ? './' : `${path}/`) as ByteString;
}

function whiteoutAt(path: ByteString): ByteString {
  const start = path.lastIndexOf('/') + 1;
  return (path.slice(0, start) + whiteoutOf(path.slice(start) as ByteString)) as ByteString;
}

/** gnu_dev_major(3), gnu_dev_minor(3). */
function majorOf(rdev: bigint): number {
  return Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n));
}

function minorOf(rdev: bigint): number {
  return Number((rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n));
}
