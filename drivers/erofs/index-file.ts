/** The index as a file: written, compared, and made again from its tar. */
import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync, renameSync, writeSync } from 'node:fs';
import { applyInherited, readInherited } from '../../src/content/inherited.js';
import { LayerTree } from '../../src/content/layer-tree.js';
import type { Digest } from '../../src/core/digest.js';
import { isErrno, LayerdError } from '../../src/core/errors.js';
import { syncPath } from '../../src/disk/sync.js';
import { TarScanner } from '../../src/tar/scanner.js';
import { isHeadOf } from './format.js';
import { writeIndex, type IndexSource } from './index-writer.js';
import type { LayerFiles } from './layer-files.js';

/** A layer whose index is to be made. `tree` is as its tar tells it: what it inherits is read from beside it. */
export interface IndexedLayer {
  files: LayerFiles;
  diffId: Digest;
  /** Bytes of the tar. */
  size: number;
  tree: LayerTree;
}

/** Writes the index of a layer; to sync it is the caller's. */
export function writeIndexFile(layer: IndexedLayer, path: string): void {
  writePieces(path, (emit) => emitIndex(layer, emit));
}

/** Writes a file in pieces, replacing one that is there. */
export function writePieces(path: string, produce: (emit: (piece: Buffer) => void) => void): void {
  const fd = openSync(path, 'w', 0o600);
  try {
    produce((piece) => {
      for (let done = 0; done < piece.length;) done += writeSync(fd, piece, done);
    });
  } finally {
    closeSync(fd);
  }
}

/** Writes the index anew; the old one or the new one is there, whatever happens. */
export function replaceIndexFile(layer: IndexedLayer): void {
  const part = `${layer.files.index}.new`;
  writeIndexFile(layer, part);
  syncPath(part);
  renameSync(part, layer.files.index);
  syncPath(layer.files.directory);
}

/** Whether the index is, byte for byte, what would be written now. */
export function indexMatches(layer: IndexedLayer): boolean {
  const fd = openIfThere(layer.files.index);
  if (fd === null) return false;
  try {
    let at = 0;
    let same = true;
    emitIndex(layer, (piece) => {
      same &&= piece.equals(readUpTo(fd, at, piece.length));
      at += piece.length;
    });
    return same && fstatSync(fd).size === at;
  } finally {
    closeSync(fd);
  }
}

/** Cheap: a file is there, starts as an image and is as long as it says. */
export function isWholeIndex(path: string): boolean {
  const fd = openIfThere(path);
  if (fd === null) return false;
  try {
    return isHeadOf(readUpTo(fd, 0, 4096), fstatSync(fd).size);
  } finally {
    closeSync(fd);
  }
}

/**
 * The tree of a tar that lies in a file, from its headers alone: payloads are skipped. For a layer whose index is lost
 * when it is to be mounted; the tar was verified when it was stored, and `check` verifies it again.
 */
export function scanTarFile(path: string): LayerTree {
  // The layer was accepted once: no limit is asked again.
  const tree = new LayerTree({ maxEntries: Number.POSITIVE_INFINITY });
  const scanner = new TarScanner({ ...HEADERS_ONLY, entry: (entry) => tree.apply(entry) });
  const fd = openSync(path, 'r');
  try {
    for (let at = 0; ;) {
      const window = readUpTo(fd, at, SCAN_BYTES);
      if (window.length === 0) break;
      scanner.write(window);
      at += window.length;
      const due = scanner.payloadDue;
      if (due > 0) scanner.skip(due);
      at += due;
    }
    scanner.finish();
    return tree;
  } finally {
    closeSync(fd);
  }
}

const SCAN_BYTES = 64 * 1024;
const HEADERS_ONLY = { data: (): void => undefined, entryEnd: (): void => undefined };

function emitIndex(layer: IndexedLayer, emit: (piece: Buffer) => void): void {
  emitImage([layer], ([tree]) => ({ root: tree?.root ?? new LayerTree().root, tarOf: () => 0 }), emit);
}

/**
 * An image whose files lie in the tars of these layers. Their trees are given what they inherit; `arrange` makes the tree
 * of the image of them.
 */
export function emitImage(
  layers: readonly IndexedLayer[],
  arrange: (trees: readonly LayerTree[]) => Pick<IndexSource, 'root' | 'tarOf'>,
  emit: (piece: Buffer) => void,
): void {
  const identity = createHash('sha256').update('layerd erofs index 1\n');
  for (const { diffId, files, tree } of layers) {
    const inherited = readInherited(files.inherited);
    if (inherited !== null) applyInherited(tree, inherited.directories);
    identity.update(`${diffId}\n`).update(inherited?.bytes ?? '');
  }
  const tars = layers.map(({ files }) => new LazyReader(files.tar));
  try {
    writeIndex(
      {
        ...arrange(layers.map(({ tree }) => tree)),
        uuid: uuidOf(identity.digest()),
        tarBytes: layers.map(({ size }) => size),
        readTar: (tar, offset, into) => tars[tar]?.read(offset, into),
      },
      emit,
    );
  } finally {
    for (const tar of tars) tar.close();
  }
}

/** A random-looking UUID (RFC 9562, version 8) that is the same for equal content. */
function uuidOf(digest: Buffer): Buffer {
  const uuid = digest.subarray(0, 16);
  uuid.writeUInt8((uuid.readUInt8(6) & 0x0f) | 0x80, 6);
  uuid.writeUInt8((uuid.readUInt8(8) & 0x3f) | 0x80, 8);
  return uuid;
}

/** Few layers have sparse files whose segments must be copied: the tar is opened when the first one comes. */
class LazyReader {
  private readonly path: string;
  private fd: number | null = null;

  constructor(path: string) {
    this.path = path;
  }

  read(offset: number, into: Buffer): void {
    this.fd ??= openSync(this.path, 'r');
    if (readUpTo(this.fd, offset, into.length, into).length === into.length) return;
    throw new LayerdError('LAYER_DAMAGED', `${this.path} ends before byte ${offset + into.length}`, {
      details: { path: this.path, offset, expected: into.length },
      hint: 'Load the image again: what is damaged is replaced in place.',
    });
  }

  close(): void {
    if (this.fd !== null) closeSync(this.fd);
  }
}

function readUpTo(fd: number, position: number, length: number, into: Buffer = Buffer.allocUnsafe(length)): Buffer {
  let filled = 0;
  for (let read = -1; filled < length && read !== 0; filled += read) {
    read = readSync(fd, into, filled, length - filled, position + filled);
  }
  return into.subarray(0, filled);
}

function openIfThere(path: string): number | null {
  try {
    return openSync(path, 'r');
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return null;
    throw thrown;
  }
}
