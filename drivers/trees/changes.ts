/** What a container changed: its tree on disk held against what its stack means. */
import { closeSync, readSync, type BigIntStats } from 'node:fs';
import type { MergedNode } from '../../src/content/merge.js';
import { joinBytes, type ByteString } from '../../src/core/bytes.js';
import { isErrno } from '../../src/core/errors.js';
import type { ChangeKind } from '../../src/core/words.js';
import type { Disk, DiskAttributes } from './disk.js';

/** One path of the union of disk and model. */
export interface Finding {
  path: ByteString;
  /** 'same': as the image has it; 'time': the root, of which only the time differs: every new name in it sets that. */
  kind: ChangeKind | 'same' | 'time';
  /** What the stack has at the path, if it is of the same kind there as on disk. */
  merged: MergedNode | null;
  /** Null where it was deleted. */
  stat: BigIntStats | null;
}

export interface Comparison {
  disk: Disk;
  /** The tree that the container was cloned from. */
  pristine: Disk;
  merged: MergedNode;
  /** True for what was surely not touched since the container was made: no need to look closer. */
  untouched: (path: ByteString, stat: BigIntStats) => boolean;
}

/**
 * Every path, in byte order of the whole paths' components, parents first, the root too. A directory is changed when its
 * own attributes are, or anything directly or deeper below it, and a name when another name of its inode is: as an
 * overlay's upper has it.
 */
export function compare(comparison: Comparison): Finding[] {
  const { disk, merged } = comparison;
  const findings = [...compareDirectory(comparison, ROOT, merged)];
  markLinked(findings);
  const stat = disk.stat(ROOT);
  if (stat !== null) findings.unshift({ path: ROOT, kind: changeOfRoot(comparison, stat), merged, stat });
  return findings;
}

/** Without the other names of a changed inode the layer would lose the link between them. */
function markLinked(findings: readonly Finding[]): void {
  const changed = new Set(findings.flatMap(({ kind, stat }) => (kind === 'same' ? [] : linkedInode(stat))));
  if (changed.size === 0) return;
  const byPath = new Map(findings.map((finding) => [finding.path, finding]));
  for (const { path, stat } of findings) {
    if (!linkedInode(stat).some((inode) => changed.has(inode))) continue;
    for (let at = path; at !== ROOT; at = at.slice(0, Math.max(0, at.lastIndexOf('/'))) as ByteString) {
      const finding = byPath.get(at);
      if (finding?.kind === 'same') finding.kind = 'C';
    }
  }
}

/** The inode of a name that may not be its only one. */
function linkedInode(stat: BigIntStats | null): string[] {
  return stat !== null && isLinked(stat) ? [inodeOf(stat)] : [];
}

/** A name of several that lead to one inode. */
export function isLinked(stat: BigIntStats): boolean {
  return stat.nlink > 1n && !stat.isDirectory();
}

/** Subvolumes of btrfs number their inodes by themselves. */
export function inodeOf(stat: BigIntStats): string {
  return `${stat.dev}:${stat.ino}`;
}

const ROOT = '' as ByteString;

function changeOfRoot(c: Comparison, stat: BigIntStats): Finding['kind'] {
  const before = c.pristine.stat(ROOT);
  if (before === null) return 'C';
  const now = c.disk.attributes(ROOT, stat, c.merged.node);
  const then = c.pristine.attributes(ROOT, before, c.merged.node);
  if (!sameRights(now, then) || !sameXattrs(now, then)) return 'C';
  return sameTime(now, then) ? 'same' : 'time';
}

function* compareDirectory(c: Comparison, path: ByteString, merged: MergedNode | null): Generator<Finding> {
  const there = c.disk.names(path);
  const model = merged?.children ?? null;
  const names = new Set([...there, ...(model?.keys() ?? [])]);
  const onDisk = new Set(there);
  for (const name of [...names].sort()) {
    const below = joinBytes(path, name);
    const expected = model?.get(name) ?? null;
    const stat = onDisk.has(name) ? c.disk.stat(below) : null;
    if (stat === null) {
      if (expected !== null) yield { path: below, kind: 'D', merged: null, stat: null };
      continue;
    }
    yield* comparePath(c, below, stat, expected);
  }
}

/** Null for what a container removed, or replaced by something of another kind, while it was read. */
export function ifThere<T>(read: () => T): T | null {
  try {
    return read();
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT', 'ENOTDIR', 'ELOOP', 'EINVAL', 'EISDIR')) return null;
    throw thrown;
  }
}

function* comparePath(
  c: Comparison,
  path: ByteString,
  stat: BigIntStats,
  expected: MergedNode | null,
): Generator<Finding> {
  const same = expected !== null && c.disk.kindOf(expected.node) === kindOf(stat) ? expected : null;
  if (!stat.isDirectory()) {
    const untouched = same !== null && (ifThere(() => isUntouched(c, path, stat, same)) ?? false);
    yield { path, kind: kindOfChange(expected, untouched), merged: same, stat };
    return;
  }
  const below = [...compareDirectory(c, path, same)];
  const untouched =
    same !== null &&
    below.every((finding) => finding.kind === 'same') &&
    (ifThere(() => sameAttributes(c, path, stat, same)) ?? false);
  yield { path, kind: kindOfChange(expected, untouched), merged: same, stat };
  yield* below;
}

function kindOfChange(expected: MergedNode | null, untouched: boolean): Finding['kind'] {
  if (untouched) return 'same';
  return expected === null ? 'A' : 'C';
}

function isUntouched(c: Comparison, path: ByteString, stat: BigIntStats, merged: MergedNode): boolean {
  if (c.untouched(path, stat)) return true;
  if (!hasAttributesAsBefore(c, path, stat, merged)) return false;
  if (merged.node.kind === 'symlink') return c.disk.readlink(path) === merged.node.linkTarget;
  if (stat.isFile()) return sameContent(c, path, stat);
  return stat.rdev === (c.pristine.stat(path)?.rdev ?? -1n);
}

function sameAttributes(c: Comparison, path: ByteString, stat: BigIntStats, merged: MergedNode): boolean {
  return c.untouched(path, stat) || hasAttributesAsBefore(c, path, stat, merged);
}

/** Its attributes on disk are those of the tree that the container was made from. */
function hasAttributesAsBefore(c: Comparison, path: ByteString, stat: BigIntStats, merged: MergedNode): boolean {
  const before = c.pristine.stat(path);
  if (before === null) return false;
  const now = c.disk.attributes(path, stat, merged.node);
  const then = c.pristine.attributes(path, before, merged.node);
  return sameTime(now, then) && sameRights(now, then) && sameXattrs(now, then);
}

function sameTime(a: DiskAttributes, b: DiskAttributes): boolean {
  return a.mtime.sec === b.mtime.sec && a.mtime.nsec === b.mtime.nsec;
}

function sameRights(a: DiskAttributes, b: DiskAttributes): boolean {
  return a.mode === b.mode && a.uid === b.uid && a.gid === b.gid;
}

function sameXattrs(a: DiskAttributes, b: DiskAttributes): boolean {
  if ((a.xattrs?.size ?? 0) !== (b.xattrs?.size ?? 0)) return false;
  for (const [name, value] of a.xattrs ?? []) if (b.xattrs?.get(name)?.equals(value) !== true) return false;
  return true;
}

const CHUNK = 256 * 1024;

function sameContent(c: Comparison, path: ByteString, stat: BigIntStats): boolean {
  if (c.pristine.stat(path)?.size !== stat.size) return false;
  const [a, b] = [c.disk.openFile(path), c.pristine.openFile(path)];
  const [left, right] = [Buffer.allocUnsafe(CHUNK), Buffer.allocUnsafe(CHUNK)];
  try {
    for (let at = 0; ;) {
      const read = readSync(a, left, 0, CHUNK, at);
      const other = readSync(b, right, 0, CHUNK, at);
      if (read !== other || !left.subarray(0, read).equals(right.subarray(0, read))) return false;
      if (read === 0) return true;
      at += read;
    }
  } finally {
    closeSync(a);
    closeSync(b);
  }
}

/** The kind of a file on disk, in a layer's terms; sockets are none of them. */
export function kindOf(stat: BigIntStats): MergedNode['node']['kind'] | 'socket' {
  if (stat.isFile()) return 'file';
  if (stat.isDirectory()) return 'directory';
  if (stat.isSymbolicLink()) return 'symlink';
  if (stat.isCharacterDevice()) return 'char';
  if (stat.isBlockDevice()) return 'block';
  return stat.isFIFO() ? 'fifo' : 'socket';
}
