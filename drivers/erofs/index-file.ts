/** The index as a file: the image and its seal, written, checked, and made again from the tar. */
import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync, statSync, writeSync } from 'node:fs';
import { applyInherited, readInherited } from '../../src/content/inherited.js';
import { LayerTree } from '../../src/content/layer-tree.js';
import { digestFromHex, type Digest } from '../../src/core/digest.js';
import { LayerdError } from '../../src/core/errors.js';
import { replaceFile } from '../../src/disk/replace.js';
import { TarScanner } from '../../src/tar/scanner.js';
import { inodesIn, isHeadOf, uuidIn } from './format.js';
import { writeIndex, type IndexSource } from './index-writer.js';
import type { LayerFiles } from './layer-files.js';
import { decodeSeal, encodeSeal, INDEX_VERSION, SEAL_BYTES, type Seal } from './seal.js';

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
  replaceFile(layer.files.index, (part) => writeIndexFile(layer, part));
}

/**
 * Whether the index is right: byte for byte what would be written now, or, written by another version, what that wrote
 * for this layer. Throws LAYER_DAMAGED where what the layer inherited is.
 */
export function isRightIndex({ diffId, files }: Omit<IndexedLayer, 'tree'>, fromTar: () => IndexedLayer): boolean {
  const fd = openIfThere(files.index);
  if (fd === null) return false;
  try {
    const seal = readSeal(fd);
    if (seal === null) return false;
    if (seal.version === INDEX_VERSION) return matches(fd, fromTar());
    const uuid = uuidOf([{ diffId, inherited: readInherited(files.inherited)?.bytes ?? null }]);
    return holdsSeal(fd, seal) && uuidIn(readUpTo(fd, 0, HEAD_BYTES)).equals(uuid);
  } finally {
    closeSync(fd);
  }
}

/** Cheap: a file is there, starts as an image, is as long as it says, and is sealed. */
export function isWholeIndex(path: string): boolean {
  return inspect(path, () => true);
}

/** Reads all of it: besides being whole, it is what was sealed. Afterwards it is in the page cache, for who mounts it. */
export function isSoundIndex(path: string): boolean {
  return inspect(path, holdsSeal);
}

/** How many inodes a whole index has. */
export function inodesOf(path: string): number {
  const fd = openSync(path, 'r');
  try {
    return inodesIn(readUpTo(fd, 0, HEAD_BYTES));
  } finally {
    closeSync(fd);
  }
}

function inspect(path: string, further: (fd: number, seal: Seal) => boolean): boolean {
  const fd = openIfThere(path);
  if (fd === null) return false;
  try {
    if (!isHeadOf(readUpTo(fd, 0, HEAD_BYTES), fstatSync(fd).size - SEAL_BYTES)) return false;
    const seal = readSeal(fd);
    return seal !== null && further(fd, seal);
  } finally {
    closeSync(fd);
  }
}

function matches(fd: number, layer: IndexedLayer): boolean {
  let at = 0;
  let same = true;
  emitIndex(layer, (piece) => {
    same &&= piece.equals(readUpTo(fd, at, piece.length));
    at += piece.length;
  });
  return same && fstatSync(fd).size === at;
}

function readSeal(fd: number): Seal | null {
  return decodeSeal(readUpTo(fd, Math.max(0, fstatSync(fd).size - SEAL_BYTES), SEAL_BYTES));
}

function holdsSeal(fd: number, seal: Seal): boolean {
  const hash = createHash('sha256');
  const end = fstatSync(fd).size - SEAL_BYTES;
  for (let at = 0; at < end; at += READ_BYTES) hash.update(readUpTo(fd, at, Math.min(READ_BYTES, end - at)));
  return digestFromHex(hash.digest('hex')) === seal.digest;
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
const READ_BYTES = 1024 * 1024;
/** More than an image's head. */
const HEAD_BYTES = 4096;
const HEADERS_ONLY = { data: (): void => undefined, entryEnd: (): void => undefined };

function emitIndex(layer: IndexedLayer, emit: (piece: Buffer) => void): void {
  emitImage([layer], ([tree]) => ({ root: tree?.root ?? new LayerTree().root, tarOf: () => 0 }), emit);
}

/**
 * An index file: the image whose files lie in the tars of these layers, and its seal. The trees are given what they
 * inherit; `arrange` makes the tree of the image of them.
 */
export function emitImage(
  layers: readonly IndexedLayer[],
  arrange: (trees: readonly LayerTree[]) => Pick<IndexSource, 'root' | 'tarOf'>,
  emit: (piece: Buffer) => void,
): void {
  const identity = layers.map(({ diffId, files, tree }) => {
    const inherited = readInherited(files.inherited);
    if (inherited !== null) applyInherited(tree, inherited.directories);
    return { diffId, inherited: inherited?.bytes ?? null };
  });
  const tars = layers.map(({ files }) => new LazyReader(files.tar));
  const hash = createHash('sha256');
  try {
    writeIndex(
      {
        ...arrange(layers.map(({ tree }) => tree)),
        uuid: uuidOf(identity),
        tarBytes: layers.map(({ size }) => size),
        readTar: (tar, offset, into) => tars[tar]?.read(offset, into),
      },
      (piece) => {
        hash.update(piece);
        emit(piece);
      },
    );
  } finally {
    for (const tar of tars) tar.close();
  }
  emit(encodeSeal({ version: INDEX_VERSION, digest: digestFromHex(hash.digest('hex')) }));
}

/**
 * A random-looking UUID (RFC 9562, version 8) that is the same for the same layers, whichever writer wrote the index:
 * overlay's file handles rest on it.
 */
function uuidOf(layers: readonly { diffId: Digest; inherited: Buffer | null }[]): Buffer {
  const identity = createHash('sha256').update('layerd erofs index 1\n');
  for (const { diffId, inherited } of layers) identity.update(`${diffId}\n`).update(inherited ?? '');
  const uuid = identity.digest().subarray(0, 16);
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

/** Null where nothing is there, or no file. */
function openIfThere(path: string): number | null {
  if (statSync(path, { throwIfNoEntry: false })?.isFile() !== true) return null;
  return openSync(path, 'r');
}
