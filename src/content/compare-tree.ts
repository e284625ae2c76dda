/**
 * An extracted layer held against what its catalog says: every name, its kind, its attributes, its links. What is in the
 * files only the diff ID of the whole can tell.
 */
import { constants } from 'node:fs';
import { bytesOf, displayBytes, joinBytes, type ByteString } from '../core/bytes.js';
import { readDirectory } from '../linux/directory.js';
import { AT_FDCWD, close, fdPathOf, openat, readlinkat } from '../linux/files.js';
import { statFd, tryStatAt, type FileStat } from '../linux/stat.js';
import { readXattrs } from '../linux/xattr.js';
import type { LayerNode } from './layer-tree.js';
import { isPrivateXattr, isSettableXattr } from './xattr-rules.js';
import { OPAQUE_MARK, ORIGIN_MARK, overlayMarks } from './overlay-marks.js';

/** One way in which a path on disk is not what it should be; '' is the root. */
export interface TreeFault {
  path: ByteString;
  /**
   * - 'missing': nothing is there
   * - 'extra': something is there of which the layer knows nothing
   * - 'content': another kind of file, size, link target, device, or another inode than the names it is linked with
   * - 'attributes': owner, permissions, time or extended attributes
   */
  kind: 'missing' | 'extra' | 'content' | 'attributes';
  /** What the layer has there; null for what is extra. */
  node: LayerNode | null;
  message: string;
}

export interface CompareOptions {
  /** Names, kinds and sizes only. */
  quick: boolean;
}

const OPEN_DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/** Every fault of the tree at `path`; below something that is missing, extra or of another kind none is told. */
export function* compareWithTree(path: string, root: LayerNode, options: CompareOptions): Generator<TreeFault, void> {
  const fd = openat(AT_FDCWD, bytesOf(path), OPEN_DIRECTORY);
  try {
    yield* new Comparison(options).directory(fd, '' as ByteString, root);
  } finally {
    close(fd);
  }
}

class Comparison {
  private readonly quick: boolean;
  /** The inodes of nodes with several names, and the other way round. */
  private readonly inodes = new Map<LayerNode, bigint>();
  private readonly nodes = new Map<bigint, LayerNode>();

  constructor({ quick }: CompareOptions) {
    this.quick = quick;
  }

  *directory(fd: number, path: ByteString, node: LayerNode): Generator<TreeFault, void> {
    yield* this.attributes(fd, path, node, statFd(fd));
    const children = node.children ?? new Map<ByteString, LayerNode>();
    for (const { name } of readDirectory(fd)) {
      if (children.has(name)) continue;
      yield { path: joinBytes(path, name), kind: 'extra', node: null, message: 'the layer has no such file' };
    }
    for (const [name, child] of children) yield* this.child(fd, name, joinBytes(path, name), child);
  }

  private *child(dirFd: number, name: ByteString, path: ByteString, node: LayerNode): Generator<TreeFault, void> {
    const stat = tryStatAt(dirFd, name);
    const wrong =
      stat === null ? 'it is not there' : (contentFault(dirFd, name, stat, node) ?? this.linkFault(stat, node));
    if (stat === null || wrong !== null) {
      yield { path, kind: stat === null ? 'missing' : 'content', node, message: wrong ?? '' };
    } else if (node.kind === 'directory') {
      const fd = openat(dirFd, name, OPEN_DIRECTORY);
      try {
        yield* this.directory(fd, path, node);
      } finally {
        close(fd);
      }
    } else if (node.kind !== 'whiteout') {
      yield* this.attributes(fdPathOf(dirFd, name), path, node, stat);
    }
  }

  /** Names of one inode stay together, and names of others apart. */
  private linkFault({ ino, nlink, kind }: FileStat, node: LayerNode): string | null {
    if (kind === 'directory' || (nlink === 1 && node.links === 1)) return null;
    if (nlink !== node.links) return `${nlink} names share its inode, expected ${node.links}`;
    const [inode, known] = [this.inodes.get(node) ?? ino, this.nodes.get(ino) ?? node];
    this.inodes.set(node, ino);
    this.nodes.set(ino, node);
    return inode === ino && known === node ? null : 'it is not one inode with the names it is linked with';
  }

  private *attributes(
    target: number | ByteString,
    path: ByteString,
    node: LayerNode,
    stat: FileStat,
  ): Generator<TreeFault, void> {
    if (this.quick) return;
    const wrong = attributeFaults(node, stat);
    if (!sameXattrs(target, node)) wrong.push('other extended attributes than expected');
    if (wrong.length > 0) yield { path, kind: 'attributes', node, message: wrong.join(', ') };
  }
}

/** A fault that only the bytes of the layer can mend, in words; null for none. */
function contentFault(dirFd: number, name: ByteString, stat: FileStat, node: LayerNode): string | null {
  const kind = node.kind === 'whiteout' ? 'char' : node.kind;
  if (stat.kind !== kind) return `it is a ${stat.kind}, expected a ${kind}`;
  if (kind === 'file' && stat.size !== node.size) return `it has ${stat.size} bytes, expected ${node.size}`;
  if (kind === 'symlink') {
    const target = readlinkat(dirFd, name);
    return target === node.linkTarget
      ? null
      : `it leads to ${displayBytes(target)}, expected ${displayBytes(node.linkTarget)}`;
  }
  if (kind !== 'char' && kind !== 'block') return null;
  const { major, minor } = stat.rdev;
  if (major === node.devMajor && minor === node.devMinor) return null;
  return `it is device ${major}:${minor}, expected ${node.devMajor}:${node.devMinor}`;
}

function attributeFaults(node: LayerNode, { mode, uid, gid, mtime }: FileStat): string[] {
  const wrong: string[] = [];
  const check = (what: string, found: string, expected: string): void => {
    if (found !== expected) wrong.push(`${what} ${found}, expected ${expected}`);
  };
  check('mode', (mode & 0o7777).toString(8), node.mode.toString(8));
  check('owner', `${uid}:${gid}`, `${node.uid}:${node.gid}`);
  check('time', `${mtime.sec}.${mtime.nsec}`, `${node.mtime.sec}.${node.mtime.nsec}`);
  return wrong;
}

/** Of overlay's own all but the marks of layers count for nothing, and no other file system's own does. */
function sameXattrs(target: number | ByteString, node: LayerNode): boolean {
  const expected = new Map([...(node.xattrs ?? [])].filter(([name]) => isSettableXattr(name, node.kind)));
  for (const [mark, value] of overlayMarks(node)) expected.set(mark, value);
  for (const [name, value] of readXattrs(target)) {
    if (isPrivateXattr(name) && name !== OPAQUE_MARK && name !== ORIGIN_MARK) continue;
    if (expected.get(name)?.equals(value) !== true) return false;
    expected.delete(name);
  }
  return expected.size === 0;
}
