import { constants, existsSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { catalogFile, readCatalog } from '../../src/content/catalog-file.js';
import { CatalogReplay } from '../../src/content/catalog-replay.js';
import { DirectoryCursor } from '../../src/content/directory-cursor.js';
import { walkLayer, type LayerNode, type LayerTree } from '../../src/content/layer-tree.js';
import { bytesOf, displayBytes, type ByteString } from '../../src/core/bytes.js';
import { isErrno, LayerdError } from '../../src/core/errors.js';
import { AT_FDCWD, close, O_CLOEXEC, O_PATH, openat } from '../../src/linux/files.js';
import { statFd, tryStatAt } from '../../src/linux/stat.js';
import type { TarEntry } from '../../src/tar/entry.js';
import { keptOf, treeOf } from './tree-sink.js';

/** O_NONBLOCK: should a fifo stand where a file was, it must not wait for a writer. */
const READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | O_CLOEXEC;
const CHUNK = 1 << 20;

/** Reads the payloads of a layer's tar entries back from the tree, or from where replaced ones are kept. */
export class Payloads {
  private readonly cursor: DirectoryCursor;
  private readonly keptCursor: DirectoryCursor | null;
  private readonly fds: number[] = [];
  private readonly paths: ReadonlyMap<number, ByteString>;

  constructor(directory: string, tree: LayerTree) {
    this.paths = payloadPaths(tree.root);
    this.cursor = new DirectoryCursor(this.openRoot(treeOf(directory)));
    const kept = keptOf(directory);
    this.keptCursor = existsSync(kept) ? new DirectoryCursor(this.openRoot(kept)) : null;
  }

  /** The stored bytes of the entry, in order. */
  *of(entry: TarEntry, index: number): Generator<Buffer> {
    const fd = this.open(entry, index);
    try {
      const stat = statFd(fd);
      if (stat.kind !== 'file' || stat.size !== entry.size) throw payloadGone(entry);
      const segments = entry.sparse ?? [{ offset: 0, length: entry.size }];
      for (const { offset, length } of segments) yield* readRange(fd, offset, length, entry);
    } finally {
      close(fd);
    }
  }

  close(): void {
    this.cursor.close();
    this.keptCursor?.close();
    for (const fd of this.fds) close(fd);
  }

  private open(entry: TarEntry, index: number): number {
    const path = this.paths.get(index);
    const cursor = path === undefined ? this.keptCursor : this.cursor;
    try {
      if (cursor === null) throw payloadGone(entry);
      const { dirFd, name } = cursor.parentOf(path ?? bytesOf(String(index)));
      return openat(dirFd, name, READ);
    } catch (thrown) {
      if (isErrno(thrown, 'ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO')) throw payloadGone(entry);
      throw thrown;
    }
  }

  private openRoot(path: string): number {
    const fd = openSync(path, O_PATH | O_CLOEXEC | constants.O_DIRECTORY);
    this.fds.push(fd);
    return fd;
  }
}

/** Where the tree holds payloads, by the index of their entry. */
function payloadPaths(root: LayerNode): Map<number, ByteString> {
  const paths = new Map<number, ByteString>();
  for (const [path, node] of walkLayer(root)) {
    if (node.kind === 'file' && node.storedSize > 0) paths.set(node.entry, path);
  }
  return paths;
}

/** Entries whose payload should be kept beside the tree, and is not, or not in its whole length. */
export async function missingKeptPayloads(directory: string, tree: LayerTree): Promise<TarEntry[]> {
  const paths = payloadPaths(tree.root);
  const missing: TarEntry[] = [];
  const catalog = catalogFile(directory);
  const replay = new CatalogReplay(catalog);
  for await (const record of readCatalog(catalog)) {
    const place = replay.take(record);
    if (place === null || paths.has(place.index)) continue;
    const stat = tryStatAt(AT_FDCWD, bytesOf(join(keptOf(directory), String(place.index))));
    if (stat?.kind !== 'file' || stat.size !== place.entry.size) missing.push(place.entry);
  }
  return missing;
}

function* readRange(fd: number, offset: number, length: number, entry: TarEntry): Generator<Buffer> {
  for (let done = 0; done < length;) {
    const chunk = Buffer.allocUnsafe(Math.min(CHUNK, length - done));
    const read = readSync(fd, chunk, 0, chunk.length, offset + done);
    if (read === 0) throw payloadGone(entry);
    done += read;
    yield read === chunk.length ? chunk : chunk.subarray(0, read);
  }
}

export function payloadGone(entry: TarEntry): LayerdError {
  const path = displayBytes(entry.path);
  return new LayerdError(
    'LAYER_DAMAGED',
    `the stored file ${path} is not there, or has another size than the layer's tar says`,
    {
      details: { path, expected: entry.size },
      hint: 'Load the image again: what is damaged is replaced in place.',
    },
  );
}
