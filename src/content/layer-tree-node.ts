import type { ByteString } from '../core/bytes.js';
import type { SparseSegment, TarEntry, TarTime } from '../tar/entry.js';
import type { NodeKind } from './node-kind.js';
import { isPrivateXattr } from './xattr-rules.js';

const EPOCH: TarTime = { sec: 0, nsec: 0 };
const NO_NAME = '' as ByteString;

/**
 * One inode of a layer. Hard links are one node under several names. A class, so that the engine gives every node the
 * same shape: a layer of a million entries has a million of them.
 */
export class LayerNode {
  kind: NodeKind;
  mode = 0;
  uid = 0;
  gid = 0;
  mtime: TarTime = EPOCH;
  devMajor = 0;
  devMinor = 0;
  /** Where a symbolic link points, as written; '' for other kinds. */
  linkTarget: ByteString = NO_NAME;
  /** Without those that are private to overlay; null for none. */
  xattrs: ReadonlyMap<ByteString, Buffer> | null = null;
  /** Logical bytes of a file. */
  size = 0;
  /** The data segments of a file that the tar stores sparse; null where it is stored as it is. */
  sparse: readonly SparseSegment[] | null = null;
  /** Where the payload starts in the uncompressed tar, and how many bytes of it the tar stores. */
  dataOffset = 0;
  storedSize = 0;
  /** Index of the entry in the tar that the attributes come from; -1: no entry lists this directory. */
  entry: number;
  /** Names in this layer that lead to the node; 0 when all have been replaced. */
  links = 1;
  /**
   * A directory that no entry lists: it takes its attributes from the layers below, and is 0755 of root, of time 0,
   * where they have none. False again where this layer's own whiteout hides what is below.
   */
  implied = false;
  /** A directory that shows nothing of the layers below. */
  opaque = false;
  /** A file that stands in for a character device 0/0, which would hide files if it reached overlay. */
  standIn = false;
  /** Null for all but directories. */
  readonly children: Map<ByteString, LayerNode> | null;

  constructor(kind: NodeKind, entry: number) {
    this.kind = kind;
    this.entry = entry;
    this.children = kind === 'directory' ? new Map() : null;
  }
}

/** A directory that no entry lists. */
export function impliedDirectory(): LayerNode {
  const node = new LayerNode('directory', -1);
  node.implied = true;
  node.mode = 0o755;
  return node;
}

/** The node of an entry that is not a hard link. */
export function nodeOf(entry: TarEntry, index: number): LayerNode {
  if (entry.type === 'hardlink') throw new Error('a hard link has the node of its target');
  if (entry.type === 'char' && entry.devMajor === 0 && entry.devMinor === 0) return standInFor(entry, index);
  const node = new LayerNode(entry.type, index);
  takeAttributes(node, entry, index);
  if (entry.type === 'file') {
    node.size = entry.size;
    node.sparse = entry.sparse;
    node.dataOffset = entry.dataOffset;
    node.storedSize = entry.storedSize;
  } else if (entry.type === 'symlink') {
    node.mode = 0o777;
    node.linkTarget = entry.linkPath;
  } else if (entry.type === 'char' || entry.type === 'block') {
    node.devMajor = entry.devMajor;
    node.devMinor = entry.devMinor;
  }
  return node;
}

/** To overlay a character device 0/0 is a whiteout: an empty file that nobody may read takes its place. */
function standInFor(entry: TarEntry, index: number): LayerNode {
  const node = new LayerNode('file', index);
  takeAttributes(node, entry, index);
  node.mode = 0;
  node.standIn = true;
  return node;
}

/** Mode, owner, time and xattrs of the entry; a directory that was implied is listed from now on. */
export function takeAttributes(node: LayerNode, entry: TarEntry, index: number): void {
  node.mode = entry.mode;
  node.uid = entry.uid;
  node.gid = entry.gid;
  node.mtime = entry.mtime;
  node.xattrs = publicXattrs(entry.xattrs);
  node.entry = index;
  node.implied = false;
}

function publicXattrs(xattrs: ReadonlyMap<ByteString, Buffer> | null): ReadonlyMap<ByteString, Buffer> | null {
  if (xattrs === null) return null;
  const kept = new Map([...xattrs].filter(([name]) => !isPrivateXattr(name)));
  return kept.size > 0 ? kept : null;
}
