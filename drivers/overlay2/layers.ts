import { constants, closeSync, existsSync, openSync, readSync } from 'node:fs';
import { createHash } from 'node:crypto';
import type { InheritedDirectory, LayerSink, LayerTree, LayerNode } from '../../src/content/sink.js';
import type { ByteSource } from '../../src/content/source.js';
import { assemble } from '../../src/content/assemble.js';
import { catalogFile, catalogTree } from '../../src/content/catalog-file.js';
import { DirectoryCursor } from '../../src/content/directory-cursor.js';
import { finishDirectory } from '../../src/content/node-writer.js';
import { bytesOf, displayBytes, type ByteString } from '../../src/core/bytes.js';
import { digestFromHex } from '../../src/core/digest.js';
import { isErrno, LayerdError } from '../../src/core/errors.js';
import type { Places } from '../../src/core/places.js';
import { close, O_CLOEXEC, O_PATH, openat } from '../../src/linux/files.js';
import { syncfs } from '../../src/linux/sync.js';
import { statFd } from '../../src/linux/stat.js';
import type { TarEntry } from '../../src/tar/entry.js';
import type { LayerFault, LayerKeeper, StoredLayer } from '../driver.js';
import { keptOf, treeOf, TreeSink } from './tree-sink.js';

const READ = constants.O_RDONLY | constants.O_NOFOLLOW | O_CLOEXEC;
const CHUNK = 1 << 20;

/** Layers as extracted directories. */
export class Overlay2Layers implements LayerKeeper {
  private readonly places: Places;

  constructor(places: Places) {
    this.places = places;
  }

  begin(dir: string): LayerSink {
    return new TreeSink(this.places.layer(dir));
  }

  async inherit(layer: StoredLayer, directories: readonly InheritedDirectory[]): Promise<void> {
    withTree(treeOf(this.places.layer(layer.dir)), (cursor) => {
      for (const directory of directories) {
        const { dirFd, name } = cursor.parentOf(directory.path);
        finishDirectory(dirFd, name, directory);
      }
      const fd = openSync(this.places.layer(layer.dir), 'r');
      try {
        syncfs(fd);
      } finally {
        closeSync(fd);
      }
    });
  }

  async *tar(layer: StoredLayer): ByteSource {
    const directory = this.places.layer(layer.dir);
    const payloads = new Payloads(directory, await catalogTree(catalogFile(directory)));
    try {
      yield* assemble(catalogFile(directory), (entry, index) => payloads.of(entry, index));
    } finally {
      payloads.close();
    }
  }

  lower(layer: StoredLayer): string {
    return treeOf(this.places.layer(layer.dir));
  }

  release(): void {
    // An extracted directory is held by nothing but the mounts of snapshots, which have rows of their own.
  }

  async verify(layer: StoredLayer, options: { quick: boolean }): Promise<LayerFault[]> {
    const directory = this.places.layer(layer.dir);
    if (!existsSync(treeOf(directory)) || !existsSync(catalogFile(directory))) {
      return [{ code: 'LAYER_MISSING', path: '', message: `${directory} is not whole`, repairable: false }];
    }
    if (options.quick) return [];
    const hash = createHash('sha256');
    try {
      for await (const chunk of this.tar(layer)) hash.update(chunk);
    } catch (thrown) {
      return [faultOf(thrown)];
    }
    const found = digestFromHex(hash.digest('hex'));
    if (found === layer.diffId) return [];
    const message = `the stored files give ${found}, expected ${layer.diffId}`;
    return [{ code: 'LAYER_CORRUPT', path: '', message, repairable: false }];
  }

  repair(layer: StoredLayer): Promise<LayerFault[]> {
    // Nothing here can be made again from the rest; loading the layer heals it.
    return this.verify(layer, { quick: false });
  }
}

function faultOf(thrown: unknown): LayerFault {
  const corrupt = thrown instanceof LayerdError && thrown.code === 'LAYER_DAMAGED';
  if (!corrupt && !isErrno(thrown, 'ENOENT', 'ENOTDIR', 'ELOOP', 'EISDIR', 'EIO', 'EUCLEAN')) throw thrown;
  const catalog = corrupt && thrown.details['catalog'] === true;
  return {
    code: catalog ? 'CATALOG_CORRUPT' : 'LAYER_CORRUPT',
    path: corrupt ? String(thrown.details['path'] ?? '') : '',
    message: thrown instanceof Error ? thrown.message : String(thrown),
    repairable: false,
  };
}

/** Reads the payloads of a layer's tar entries back from the tree, or from where replaced ones are kept. */
class Payloads {
  private readonly cursor: DirectoryCursor;
  private readonly keptCursor: DirectoryCursor | null;
  private readonly fds: number[] = [];
  private readonly paths = new Map<number, ByteString>();

  constructor(directory: string, tree: LayerTree) {
    this.notePaths('' as ByteString, tree.root);
    this.cursor = new DirectoryCursor(this.openRoot(treeOf(directory)));
    const kept = keptOf(directory);
    this.keptCursor = existsSync(kept) ? new DirectoryCursor(this.openRoot(kept)) : null;
  }

  /** The stored bytes of the entry, in order. */
  *of(entry: TarEntry, index: number): Generator<Buffer> {
    const path = this.paths.get(index);
    const cursor = path === undefined ? this.keptCursor : this.cursor;
    const at = path ?? bytesOf(String(index));
    if (cursor === null) throw payloadGone(entry);
    const { dirFd, name } = cursor.parentOf(at);
    const fd = openat(dirFd, name, READ);
    try {
      const stat = statFd(fd);
      const whole = path === undefined ? entry.storedSize : entry.size;
      if (stat.kind !== 'file' || stat.size !== whole) throw payloadGone(entry);
      const segments = path === undefined || entry.sparse === null ? [{ offset: 0, length: whole }] : entry.sparse;
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

  private openRoot(path: string): number {
    const fd = openSync(path, O_PATH | O_CLOEXEC | constants.O_DIRECTORY);
    this.fds.push(fd);
    return fd;
  }

  private notePaths(path: ByteString, node: LayerNode): void {
    for (const [name, child] of node.children ?? []) {
      const below = (path === '' ? name : `${path}/${name}`) as ByteString;
      if (child.kind === 'file' && child.storedSize > 0) this.paths.set(child.entry, below);
      else if (child.children !== null) this.notePaths(below, child);
    }
  }
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

function payloadGone(entry: TarEntry): LayerdError {
  const path = displayBytes(entry.path);
  return new LayerdError('LAYER_DAMAGED', `the stored file ${path} has another size than the layer's tar says`, {
    details: { path, expected: entry.size },
    hint: 'Load the image again: what is damaged is replaced in place.',
  });
}

function withTree(path: string, work: (cursor: DirectoryCursor) => void): void {
  const rootFd = openSync(path, O_PATH | O_CLOEXEC | constants.O_DIRECTORY);
  const cursor = new DirectoryCursor(rootFd);
  try {
    work(cursor);
  } finally {
    cursor.close();
    close(rootFd);
  }
}
