/** The catalog on disk: one file in the directory of each stored layer. */
import { closeSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../core/errors.js';
import {
  catalogDamaged,
  decodeBlock,
  decodeHeader,
  headerLength,
  PREFIX_BYTES,
  type CatalogFacts,
  type CatalogHeader,
  type CatalogRecord,
} from './catalog.js';
import { CatalogReplay } from './catalog-replay.js';
import { LayerTree } from './layer-tree.js';

/** Longer than the header of a layer with a thousand million entries; a wrong length is no reason to allocate it. */
const MAX_HEADER_BYTES = 64 * 1024 * 1024;

/** Where the catalog of the stored layer in `directory` lies. */
export function catalogFile(directory: string): string {
  return join(directory, 'catalog');
}

/** Writes a catalog that CatalogBuilder finished. Not synced: the driver makes its whole directory durable at once. */
export function writeCatalog(path: string, parts: readonly Buffer[]): void {
  const fd = openSync(path, 'wx', 0o600);
  try {
    writeAll(fd, parts);
  } finally {
    closeSync(fd);
  }
}

/** What the catalog says of its layer. Reads the header only. Throws LAYER_DAMAGED. */
export async function readCatalogFacts(path: string): Promise<CatalogFacts> {
  let fd;
  try {
    fd = openSync(path, 'r');
  } catch (thrown) {
    throw notThere(path, thrown);
  }
  try {
    return readHeader(fd, path).header.facts;
  } finally {
    closeSync(fd);
  }
}

/**
 * The facts, and the tar without its payloads, a MiB of it in memory at a time. Each record is checked before it is
 * given. Throws LAYER_DAMAGED for a file that is not, to the last bit, what was written.
 */
export async function* readCatalog(path: string): AsyncGenerator<CatalogRecord> {
  const reader = await CatalogReader.open(path);
  try {
    for await (const records of reader.blocks()) yield* records;
  } finally {
    await reader.close();
  }
}

/** The layer that a catalog describes, as its tar built it when it was stored. Throws LAYER_DAMAGED. */
export async function catalogTree(path: string): Promise<LayerTree> {
  // The layer was accepted once: no limit is asked again.
  const tree = new LayerTree({ maxEntries: Number.POSITIVE_INFINITY });
  const replay = new CatalogReplay(path, (entry) => {
    tree.apply(entry);
  });
  for await (const record of readCatalog(path)) replay.take(record);
  replay.finish();
  return tree;
}

class CatalogReader {
  readonly header: CatalogHeader;
  private readonly handle: FileHandle;
  private readonly path: string;
  private position: number;

  private constructor(handle: FileHandle, path: string, header: CatalogHeader, position: number) {
    this.handle = handle;
    this.path = path;
    this.header = header;
    this.position = position;
  }

  static async open(path: string): Promise<CatalogReader> {
    const handle = await open(path, 'r').catch((thrown: unknown) => {
      throw notThere(path, thrown);
    });
    try {
      const { header, bytes } = readHeader(handle.fd, path);
      return new CatalogReader(handle, path, header, bytes);
    } catch (thrown) {
      await handle.close();
      throw thrown;
    }
  }

  async *blocks(): AsyncGenerator<CatalogRecord[]> {
    for (const entry of this.header.blocks) {
      const stored = await readExactly(this.handle, this.path, this.position, entry.stored);
      this.position += entry.stored;
      yield decodeBlock(entry, stored, this.path);
    }
  }

  close(): Promise<void> {
    return this.handle.close();
  }
}

/** The header and the bytes it takes, of a file that is as long as it says. Without waiting: it is a page or so. */
function readHeader(fd: number, path: string): { header: CatalogHeader; bytes: number } {
  const stat = fstatSync(fd);
  if (!stat.isFile()) throw catalogDamaged(path, 'it is no file');
  const { size } = stat;
  const prefix = readAt(fd, path, 0, PREFIX_BYTES);
  const length = headerLength(prefix, path);
  if (length > Math.min(size, MAX_HEADER_BYTES)) throw catalogDamaged(path, 'its header is not whole');
  const bytes = PREFIX_BYTES + length;
  const header = decodeHeader(prefix, readAt(fd, path, PREFIX_BYTES, length), path);
  const end = header.blocks.reduce((sum, { stored }) => sum + stored, bytes);
  if (size !== end) throw catalogDamaged(path, `it has ${size} bytes, expected ${end}`);
  return { header, bytes };
}

function readAt(fd: number, path: string, position: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  for (let filled = 0; filled < length;) {
    const read = readSync(fd, bytes, filled, length - filled, position + filled);
    if (read === 0) throw catalogDamaged(path, 'it ends too early');
    filled += read;
  }
  return bytes;
}

/** A catalog that cannot be opened, as what it means for the layer. */
function notThere(path: string, thrown: unknown): unknown {
  return isErrno(thrown, 'ENOENT', 'ENOTDIR') ? catalogDamaged(path, 'it is not there', thrown) : thrown;
}

async function readExactly(handle: FileHandle, path: string, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  for (let filled = 0; filled < length;) {
    const { bytesRead } = await handle.read(bytes, filled, length - filled, position + filled);
    if (bytesRead === 0) throw catalogDamaged(path, 'it ends too early');
    filled += bytesRead;
  }
  return bytes;
}

function writeAll(fd: number, parts: readonly Buffer[]): void {
  for (const part of parts) {
    for (let done = 0; done < part.length;) done += writeSync(fd, part, done);
  }
}
