/**
 * Where everything lies in an index: the first of two passes over the tree. It only counts; index-writer.ts then writes
 * front to back without looking ahead.
 *
 * One region holds all: for each directory its blocks, then the inodes of its children in the order of their names, each
 * with its xattrs and what is inlined behind it, then what of them needs blocks of its own; then the same for each
 * directory among the children, depth first. So a listing with stat of each name reads one stretch of the image. A
 * second name of an inode points to where its first one put it.
 */
import type { LayerNode } from '../../src/content/layer-tree.js';
import { displayBytes, joinBytes, type ByteString } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import { directoryNames, measureDirectory } from './directory.js';
import {
  BLOCK_ADDRESS_MAX,
  BLOCK_BYTES,
  CHUNK_BITS_MAX,
  CHUNK_ENTRY_BYTES,
  DATA_LAYOUT,
  INODE_BYTES,
  SLOT_BYTES,
  headBytes,
  roundUp,
  type DataLayout,
} from './format.js';
import { chunkSize, copiedBytes, planChunks, type ChunkPlan } from './sparse.js';
import { encodeXattrs } from './xattrs.js';

/** Chunk tables and copied chunks of all sparse files of one index together. */
const SPARSE_BYTES_MAX = 64 * 1024 * 1024;

/** What an index is made from. */
export interface IndexContent {
  /** The root directory of the image. */
  root: LayerNode;
  /** Sizes of the tars that payloads lie in, in the order of the mount's devices. */
  tarBytes: readonly number[];
  /** Which of them holds the payload of this file. */
  tarOf(node: LayerNode): number;
}

export interface DirectoryPlan {
  node: LayerNode;
  inode: number;
  /** Null for the root. */
  parent: DirectoryPlan | null;
  name: ByteString;
  names: ByteString[];
  /** Inode of each name, in the order of `names`. */
  targets: number[];
  bytes: number;
  /** The entry that its last block starts with. */
  lastFirst: number;
  /** Whole blocks, and the last partial one where it is not inlined. */
  blocks: number;
  firstBlock: number;
  /** The inodes `firstChild` … `endChild` - 1 follow its blocks. */
  firstChild: number;
  endChild: number;
}

export interface SparsePlan {
  chunks: ChunkPlan;
  /** Where the copied chunks lie, one behind the other. */
  copiesFrom: number;
}

/** The finished plan. Arrays are indexed by inode number (from 0, in the order of the image). */
export interface IndexLayout {
  nodes: LayerNode[];
  /** Byte address. */
  at: number[];
  links: number[];
  layouts: DataLayout[];
  xattrs: Map<number, Buffer>;
  /** By inode. */
  directories: Map<number, DirectoryPlan>;
  /** In the order of the image. */
  visits: DirectoryPlan[];
  sparse: Map<number, SparsePlan>;
  /** First block of symbolic links that are too long to be inlined. */
  outside: Map<number, number>;
  blocks: number;
}

/** Lays out the image. Throws LAYER_LIMIT or TAR_INVALID, naming the entry. */
export function layOut(content: IndexContent): IndexLayout {
  return new Planner(content).run();
}

export function nidOf(layout: IndexLayout, inode: number): number {
  return (layout.at[inode] ?? 0) / SLOT_BYTES;
}

/** Where an entry is named, for errors: paths are not made for each of a million entries. */
interface Place {
  parent: DirectoryPlan | null;
  name: ByteString;
}

class Planner {
  private readonly content: IndexContent;
  private readonly layout: IndexLayout = {
    nodes: [],
    at: [],
    links: [],
    layouts: [],
    xattrs: new Map(),
    directories: new Map(),
    visits: [],
    sparse: new Map(),
    outside: new Map(),
    blocks: 0,
  };
  /** Inodes that several names point to. */
  private readonly shared = new Map<LayerNode, number>();
  private cursor: number;
  private sparseBytes = 0;

  constructor(content: IndexContent) {
    this.content = content;
    this.cursor = headBytes(content.tarBytes.length);
  }

  run(): IndexLayout {
    this.placeInode(this.content.root, { parent: null, name: '' as ByteString });
    const waiting = [this.directory(0)];
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      // The stack is emptied from its end: the first child must come last.
      for (const child of this.visit(next).toReversed()) waiting.push(this.directory(child));
    }
    this.layout.blocks = Math.ceil(this.cursor / BLOCK_BYTES);
    checkAddresses([...this.content.tarBytes, this.cursor]);
    return this.layout;
  }

  /** Places what belongs to a directory; returns the directories among its children. */
  private visit(directory: DirectoryPlan): number[] {
    const { layout } = this;
    layout.visits.push(directory);
    directory.firstBlock = this.placeBlocks(directory.blocks);
    directory.firstChild = layout.nodes.length;
    const below: number[] = [];
    for (const name of directory.names) {
      if (name === '.') directory.targets.push(directory.inode);
      else if (name === '..') directory.targets.push((directory.parent ?? directory).inode);
      else directory.targets.push(this.placeChild(directory, name, below));
    }
    directory.endChild = layout.nodes.length;
    for (let inode = directory.firstChild; inode < directory.endChild; inode += 1) this.placeOutside(inode);
    layout.links[directory.inode] = 2 + below.length;
    return below;
  }

  private placeChild(directory: DirectoryPlan, name: ByteString, below: number[]): number {
    const node = directory.node.children?.get(name);
    if (node === undefined) throw new Error('a directory lists a name that it does not have');
    const known = node.links > 1 ? this.shared.get(node) : undefined;
    if (known !== undefined) {
      this.layout.links[known] = (this.layout.links[known] ?? 0) + 1;
      return known;
    }
    const inode = this.placeInode(node, { parent: directory, name });
    if (node.links > 1) this.shared.set(node, inode);
    if (node.kind === 'directory') below.push(inode);
    return inode;
  }

  private placeInode(node: LayerNode, where: Place): number {
    const { layout } = this;
    const inode = layout.nodes.push(node) - 1;
    const xattrs = encodeXattrs(node, () => pathOf(where));
    if (xattrs !== null) layout.xattrs.set(inode, xattrs);
    const bodyBytes = INODE_BYTES + (xattrs?.length ?? 0);
    const directory = node.kind === 'directory' ? this.planDirectory(node, inode, where) : null;
    const inlined = inlineBytes(node, directory, bodyBytes);
    layout.links.push(1);
    layout.layouts.push(inlined > 0 ? DATA_LAYOUT.inline : DATA_LAYOUT.plain);
    if (directory !== null) {
      directory.blocks = Math.floor(directory.bytes / BLOCK_BYTES) + (directory.bytes % BLOCK_BYTES > inlined ? 1 : 0);
    }
    const at = placeWithTail(this.cursor, bodyBytes, inlined);
    layout.at.push(at);
    this.cursor = at + bodyBytes + inlined;
    if (node.kind === 'file' && node.size > 0) this.planChunks(node, inode, where);
    return inode;
  }

  private planDirectory(node: LayerNode, inode: number, { parent, name }: Place): DirectoryPlan {
    const names = directoryNames(node.children?.keys() ?? []);
    const unplaced = { blocks: 0, firstBlock: 0, firstChild: 0, endChild: 0 };
    const plan: DirectoryPlan = {
      node,
      inode,
      parent,
      name,
      names,
      targets: [],
      ...measureDirectory(names),
      ...unplaced,
    };
    this.layout.directories.set(inode, plan);
    return plan;
  }

  private planChunks(node: LayerNode, inode: number, where: Place): void {
    let entries = Math.ceil(node.size / chunkSize(CHUNK_BITS_MAX));
    if (node.sparse !== null) {
      const chunks = planChunks(node.size, node.sparse, node.dataOffset);
      this.sparseBytes += chunks.cost;
      if (this.sparseBytes > SPARSE_BYTES_MAX) throw tooSparse(pathOf(where), this.sparseBytes);
      this.layout.sparse.set(inode, { chunks, copiesFrom: 0 });
      entries = chunks.chunks;
    }
    this.layout.layouts[inode] = DATA_LAYOUT.chunked;
    this.cursor = roundUp(this.cursor, CHUNK_ENTRY_BYTES) + entries * CHUNK_ENTRY_BYTES;
  }

  /** Places what of an inode needs blocks of its own, but for a directory's: those come when it is visited. */
  private placeOutside(inode: number): void {
    const { layout } = this;
    const node = layout.nodes[inode];
    if (node?.kind === 'symlink' && layout.layouts[inode] === DATA_LAYOUT.plain) {
      layout.outside.set(inode, this.placeBlocks(Math.ceil(node.linkTarget.length / BLOCK_BYTES)));
    }
    const sparse = layout.sparse.get(inode);
    if (node === undefined || sparse === undefined) return;
    sparse.copiesFrom = this.placeBlocks(copiedBytes(sparse.chunks, node.size) / BLOCK_BYTES);
  }

  private placeBlocks(blocks: number): number {
    if (blocks === 0) return 0;
    const at = roundUp(this.cursor, BLOCK_BYTES);
    this.cursor = at + blocks * BLOCK_BYTES;
    return at / BLOCK_BYTES;
  }

  private directory(inode: number): DirectoryPlan {
    const plan = this.layout.directories.get(inode);
    if (plan === undefined) throw new Error('not a directory');
    return plan;
  }
}

/**
 * The bytes of its content that go behind an inode, if they fit there at all: the last partial block of a directory, a
 * symbolic link as a whole.
 */
function inlineBytes(node: LayerNode, directory: DirectoryPlan | null, bodyBytes: number): number {
  if (node.kind === 'symlink' && node.linkTarget.length >= BLOCK_BYTES) return 0;
  const tail = (directory?.bytes ?? node.linkTarget.length) % BLOCK_BYTES;
  return tail + (bodyBytes % SLOT_BYTES) <= BLOCK_BYTES ? tail : 0;
}

/** The first address from `from` on for an inode whose inlined tail must not cross a block. */
function placeWithTail(from: number, bodyBytes: number, tail: number): number {
  const at = roundUp(from, SLOT_BYTES);
  const used = (at + bodyBytes) % BLOCK_BYTES;
  return used + tail <= BLOCK_BYTES ? at : roundUp(at + BLOCK_BYTES - used, SLOT_BYTES);
}

/** The path in the layer; the image's root and the directory that holds the layer are not part of it. */
function pathOf({ parent, name }: Place): ByteString {
  const names = [name];
  for (let above = parent; above !== null; above = above.parent) names.unshift(above.name);
  return joinBytes(...names.slice(2));
}

function tooSparse(path: ByteString, bytes: number): LayerdError {
  return new LayerdError('LAYER_LIMIT', `${displayBytes(path)}: the layer's sparse files take too large an index`, {
    details: { path: displayBytes(path), bytes, limit: SPARSE_BYTES_MAX },
    hint: 'Keep this layer with another driver.',
  });
}

function checkAddresses(fileBytes: readonly number[]): void {
  const bytes = Math.max(...fileBytes);
  if (bytes / BLOCK_BYTES > BLOCK_ADDRESS_MAX) throw tooLong(bytes);
}

function tooLong(bytes: number): LayerdError {
  return new LayerdError('LAYER_LIMIT', 'the layer is larger than an EROFS index can address', {
    details: { bytes, limit: BLOCK_ADDRESS_MAX * BLOCK_BYTES },
    hint: 'Keep this layer with another driver.',
  });
}
