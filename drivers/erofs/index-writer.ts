/**
 * Writes an index: the EROFS image whose files lie in tars beside it. Deterministic: equal content gives equal bytes.
 * Two passes over the tree: layout.ts finds where everything lies, then it is written front to back in pieces.
 */
import { LayerNode } from '../../src/content/layer-tree.js';
import type { ByteString } from '../../src/core/bytes.js';
import { writeDirectoryBlock, type Targets } from './directory.js';
import {
  BLOCK_BYTES,
  CHUNK_BITS_MAX,
  CHUNK_ENTRY_BYTES,
  DATA_LAYOUT,
  FILE_TYPE,
  HOLE,
  INODE_BYTES,
  MODE_TYPE,
  chunkFormat,
  encodeDevice,
  encodeHead,
  roundUp,
  writeChunkEntry,
  writeInode,
  type InodeType,
} from './format.js';
import { layOut, nidOf, type DirectoryPlan, type IndexContent, type IndexLayout, type SparsePlan } from './layout.js';
import { chunkSize, runBytes } from './sparse.js';
import { xattrCount } from './xattrs.js';

/** The directory of an index that holds the layer: clients get a path inside the mount, never the mount point. */
export const LAYER_DIRECTORY = 'd' as ByteString;

const PIECE_BYTES = 1024 * 1024;

export interface IndexSource extends Omit<IndexContent, 'root'> {
  /** The root of the layer; it appears as {@link LAYER_DIRECTORY}. */
  root: LayerNode;
  /** 16 bytes; never zero, since overlay's file handles rest on it. */
  uuid: Uint8Array;
  /** Fills `into` from a tar; asked only for pieces of sparse files that cannot be mapped. */
  readTar(tar: number, offset: number, into: Buffer): void;
}

export interface IndexSize {
  bytes: number;
  inodes: number;
}

/**
 * Writes the image. `emit` gets it in order, in pieces of about a mebibyte, each valid until it returns. Throws
 * LAYER_LIMIT or TAR_INVALID naming an entry, before the first piece.
 */
export function writeIndex(source: IndexSource, emit: (piece: Buffer) => void): IndexSize {
  const layout = layOut({ ...source, root: above(source.root) });
  const imageBytes = layout.blocks * BLOCK_BYTES;
  const out = new PieceWriter(imageBytes, emit);
  const head = encodeHead({
    rootNid: nidOf(layout, 0),
    inodes: layout.nodes.length,
    blocks: layout.blocks,
    uuid: source.uuid,
    volumeName: 'layerd',
    deviceBlocks: source.tarBytes.map((bytes) => Math.ceil(bytes / BLOCK_BYTES)),
  });
  for (let at = 0; at < head.length; at += BLOCK_BYTES) {
    head.copy(out.buffer, out.room(at, BLOCK_BYTES), at, at + BLOCK_BYTES);
  }
  new Writer(source, layout, out).run();
  out.finish();
  return { bytes: imageBytes, inodes: layout.nodes.length };
}

/** The root directory of the image, which only holds the layer. */
function above(layerRoot: LayerNode): LayerNode {
  const top = new LayerNode('directory', -1);
  top.mode = 0o700;
  top.children?.set(LAYER_DIRECTORY, layerRoot);
  return top;
}

class Writer {
  private readonly source: IndexSource;
  private readonly layout: IndexLayout;
  private readonly out: PieceWriter;

  constructor(source: IndexSource, layout: IndexLayout, out: PieceWriter) {
    this.source = source;
    this.layout = layout;
    this.out = out;
  }

  run(): void {
    this.inode(0);
    for (const directory of this.layout.visits) {
      this.directoryBlocks(directory);
      for (let inode = directory.firstChild; inode < directory.endChild; inode += 1) this.inode(inode);
      for (let inode = directory.firstChild; inode < directory.endChild; inode += 1) this.outside(inode);
    }
  }

  private inode(inode: number): void {
    const { layout, out } = this;
    const node = nodeOf(layout, inode);
    const xattrs = layout.xattrs.get(inode);
    const dataLayout = layout.layouts[inode] ?? DATA_LAYOUT.plain;
    const directory = layout.directories.get(inode);
    const size = sizeOf(node, directory);
    const tail = dataLayout === DATA_LAYOUT.inline ? size % BLOCK_BYTES : 0;
    const start = layout.at[inode] ?? 0;
    const at = out.room(start, INODE_BYTES + (xattrs?.length ?? 0) + tail);
    const type = inodeType(node);
    writeInode(out.buffer, at, {
      layout: dataLayout,
      xattrCount: xattrCount(xattrs?.length ?? 0),
      mode: MODE_TYPE[type] | node.mode,
      size,
      union: this.union(inode, node),
      number: inode + 1,
      uid: node.uid,
      gid: node.gid,
      mtime: node.mtime,
      links: layout.links[inode] ?? 1,
    });
    if (xattrs !== undefined) out.buffer.set(xattrs, at + INODE_BYTES);
    const behind = INODE_BYTES + (xattrs?.length ?? 0);
    if (directory !== undefined && tail > 0) this.directoryBlock(directory, at + behind, directory.lastFirst);
    else if (tail > 0) out.buffer.write(node.linkTarget, at + behind, 'latin1');
    if (dataLayout === DATA_LAYOUT.chunked) this.chunkTable(inode, node, roundUp(start + behind, CHUNK_ENTRY_BYTES));
  }

  private union(inode: number, node: LayerNode): number {
    const { layout } = this;
    if (node.kind === 'char' || node.kind === 'block') return encodeDevice(node.devMajor, node.devMinor);
    if (node.kind === 'directory') return layout.directories.get(inode)?.firstBlock ?? 0;
    if (node.kind === 'symlink') return layout.outside.get(inode) ?? 0;
    if (layout.layouts[inode] !== DATA_LAYOUT.chunked) return 0;
    return chunkFormat(layout.sparse.get(inode)?.chunks.bits ?? CHUNK_BITS_MAX);
  }

  private directoryBlocks(directory: DirectoryPlan): void {
    let next = 0;
    for (let block = 0; block < directory.blocks; block += 1) {
      const at = this.out.room((directory.firstBlock + block) * BLOCK_BYTES, BLOCK_BYTES);
      next = this.directoryBlock(directory, at, next);
    }
  }

  private directoryBlock(directory: DirectoryPlan, at: number, first: number): number {
    const inodeAt = (index: number): number => directory.targets[index] ?? 0;
    const targets: Targets = {
      nid: (index) => nidOf(this.layout, inodeAt(index)),
      type: (index) => FILE_TYPE[inodeType(nodeOf(this.layout, inodeAt(index)))],
    };
    return writeDirectoryBlock(this.out.buffer, at, directory.names, first, targets);
  }

  private chunkTable(inode: number, node: LayerNode, at: number): void {
    const sparse = this.layout.sparse.get(inode);
    if (sparse === undefined) this.plainTable(node, at);
    else this.sparseTable(node, sparse, at);
  }

  /** A file that lies in the tar as it is: one entry per tebibyte. */
  private plainTable(node: LayerNode, start: number): void {
    const device = this.source.tarOf(node) + 1;
    const bytesPerChunk = chunkSize(CHUNK_BITS_MAX);
    for (let chunk = 0; chunk * bytesPerChunk < node.size; chunk += 1) {
      this.chunkEntry(start, chunk, device, (node.dataOffset + chunk * bytesPerChunk) / BLOCK_BYTES);
    }
  }

  private sparseTable(node: LayerNode, { chunks, copiesFrom }: SparsePlan, start: number): void {
    const blocksPerChunk = chunkSize(chunks.bits) / BLOCK_BYTES;
    const tar = this.source.tarOf(node) + 1;
    let next = 0;
    let copies = copiesFrom;
    for (const run of chunks.runs) {
      while (next < run.first) this.chunkEntry(start, next++, 0, HOLE);
      const from = run.offset === null ? copies : run.offset / BLOCK_BYTES;
      const device = run.offset === null ? 0 : tar;
      while (next < run.end) {
        const block = from + (next - run.first) * blocksPerChunk;
        this.chunkEntry(start, next++, device, block);
      }
      if (run.offset === null) copies += runBytes(chunks, node.size, run) / BLOCK_BYTES;
    }
    while (next < chunks.chunks) this.chunkEntry(start, next++, 0, HOLE);
  }

  private chunkEntry(table: number, chunk: number, device: number, block: number): void {
    const at = this.out.room(table + chunk * CHUNK_ENTRY_BYTES, CHUNK_ENTRY_BYTES);
    writeChunkEntry(this.out.buffer, at, device, block);
  }

  private outside(inode: number): void {
    const { layout, out } = this;
    const node = nodeOf(layout, inode);
    const block = layout.outside.get(inode);
    if (block !== undefined) {
      out.buffer.write(node.linkTarget, out.room(block * BLOCK_BYTES, node.linkTarget.length), 'latin1');
    }
    const sparse = layout.sparse.get(inode);
    if (sparse !== undefined) this.copies(node, sparse);
  }
  /** Segments and runs are both in order: one walk along the segments. */
  private copies(node: LayerNode, { chunks, copiesFrom }: SparsePlan): void {
    const bytesPerChunk = chunkSize(chunks.bits);
    const runs = chunks.runs.filter((run) => run.offset === null);
    let stored = node.dataOffset;
    let to = copiesFrom * BLOCK_BYTES;
    let current = 0;
    for (const { offset, length } of node.sparse ?? []) {
      for (let run = runs[current]; run !== undefined; run = runs[current]) {
        const from = run.first * bytesPerChunk;
        const end = run.end * bytesPerChunk;
        const start = Math.max(offset, from);
        const bytes = Math.min(offset + length, end) - start;
        if (bytes > 0) this.copyFromTar(node, stored + start - offset, to + start - from, bytes);
        if (end > offset + length) break; // the next segment may begin in this run
        to += runBytes(chunks, node.size, run);
        current += 1;
      }
      stored += length;
    }
  }

  private copyFromTar(node: LayerNode, offset: number, to: number, bytes: number): void {
    for (let done = 0; done < bytes;) {
      const piece = Math.min(bytes - done, PIECE_BYTES);
      const at = this.out.room(to + done, piece);
      this.source.readTar(this.source.tarOf(node), offset + done, this.out.buffer.subarray(at, at + piece));
      done += piece;
    }
  }
}

function nodeOf(layout: IndexLayout, inode: number): LayerNode {
  const node = layout.nodes[inode];
  if (node === undefined) throw new Error(`no inode ${inode}`);
  return node;
}

function inodeType(node: LayerNode): InodeType {
  return node.kind === 'whiteout' ? 'char' : node.kind; // to overlay a whiteout is the device 0/0
}

function sizeOf(node: LayerNode, directory: DirectoryPlan | undefined): number {
  if (directory !== undefined) return directory.bytes;
  if (node.kind === 'symlink') return node.linkTarget.length;
  return node.kind === 'file' ? node.size : 0;
}

/** Hands out room at rising addresses of the image and emits what lies before. What nobody wrote is zero. */
class PieceWriter {
  readonly buffer: Buffer;
  private readonly end: number;
  private readonly emit: (piece: Buffer) => void;
  /** Address of the buffer's first byte. */
  private base = 0;

  /** `bytes`: of the whole image. */
  constructor(bytes: number, emit: (piece: Buffer) => void) {
    this.buffer = Buffer.alloc(Math.min(bytes, PIECE_BYTES));
    this.end = bytes;
    this.emit = emit;
  }

  /** Where in `buffer` the `length` bytes at this address of the image lie, until the next call. */
  room(address: number, length: number): number {
    if (address + length > this.base + this.buffer.length) this.flush(address);
    return address - this.base;
  }

  /** Emits everything up to the end of the image. */
  finish(): void {
    this.flush(this.end);
  }

  private flush(upTo: number): void {
    while (this.base < upTo) {
      const bytes = Math.min(upTo - this.base, this.buffer.length);
      this.emit(this.buffer.subarray(0, bytes));
      this.buffer.fill(0, 0, bytes);
      this.base += bytes;
    }
  }
}
