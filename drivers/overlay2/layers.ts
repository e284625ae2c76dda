import { closeSync, constants, existsSync, openSync } from 'node:fs';
import { createHash } from 'node:crypto';
import type { InheritedDirectory, LayerSink, LayerTree } from '../../src/content/sink.js';
import type { ByteSource } from '../../src/content/source.js';
import { assemble } from '../../src/content/assemble.js';
import { catalogFile, catalogTree } from '../../src/content/catalog-file.js';
import { compareWithTree, type TreeFault } from '../../src/content/compare-tree.js';
import { DirectoryCursor } from '../../src/content/directory-cursor.js';
import { applyInherited, inheritedFile, readInherited, writeInherited } from '../../src/content/inherited.js';
import { restoreAttributes } from '../../src/content/node-writer.js';
import { overlayMarks } from '../../src/content/overlay-marks.js';
import { bytesOf, displayBytes, type ByteString } from '../../src/core/bytes.js';
import { digestFromHex } from '../../src/core/digest.js';
import { isErrno, LayerdError, toLayerdError } from '../../src/core/errors.js';
import type { Places } from '../../src/core/places.js';
import { close, O_CLOEXEC, O_PATH } from '../../src/linux/files.js';
import { removeTreeSync } from '../../src/linux/rmtree.js';
import { syncfs } from '../../src/linux/sync.js';
import type { LayerFault, LayerKeeper, StoredLayer } from '../driver.js';
import { missingKeptPayloads, payloadGone, Payloads } from './payloads.js';
import { treeOf, TreeSink } from './tree-sink.js';

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
    const directory = this.places.layer(layer.dir);
    const file = inheritedFile(directory);
    // After a crash before the row was written it comes again, with what another chain has below.
    if (directories.length === 0 && !existsSync(file)) return;
    const tree = await catalogTree(catalogFile(directory));
    const implied = tree.implied();
    writeInherited(file, directories);
    applyInherited(tree, directories);
    withTree(treeOf(directory), (cursor) => {
      for (const path of implied) restore(cursor, tree, path);
    });
    syncFileSystem(directory);
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

  looksWhole(layer: StoredLayer): boolean {
    const directory = this.places.layer(layer.dir);
    return existsSync(treeOf(directory)) && existsSync(catalogFile(directory));
  }

  async verify(layer: StoredLayer, options: { quick: boolean }): Promise<LayerFault[]> {
    const directory = this.places.layer(layer.dir);
    if (!existsSync(treeOf(directory))) return [missing('', `${treeOf(directory)} is not there`)];
    try {
      const tree = await this.tree(directory);
      const faults = [...compareWithTree(treeOf(directory), tree.root, options)].map(faultOf);
      for (const entry of await missingKeptPayloads(directory, tree)) faults.push(faultOfError(payloadGone(entry)));
      if (faults.some(({ repairable }) => !repairable) || options.quick) return faults;
      return [...faults, ...(await this.verifyBytes(layer))];
    } catch (thrown) {
      return [faultOfError(thrown)];
    }
  }

  /** What the catalog tells can be made good; what was in files cannot. */
  async repair(layer: StoredLayer): Promise<LayerFault[]> {
    const faults = await this.verify(layer, { quick: false });
    if (faults.length === 0 || faults.some(({ repairable }) => !repairable)) return faults;
    const directory = this.places.layer(layer.dir);
    const tree = await this.tree(directory);
    const found = [...compareWithTree(treeOf(directory), tree.root, { quick: false })];
    withTree(treeOf(directory), (cursor) => {
      for (const fault of found) mend(cursor, tree, fault);
    });
    syncFileSystem(directory);
    return this.verify(layer, { quick: false });
  }

  private async verifyBytes(layer: StoredLayer): Promise<LayerFault[]> {
    const hash = createHash('sha256');
    for await (const chunk of this.tar(layer)) hash.update(chunk);
    const found = digestFromHex(hash.digest('hex'));
    return found === layer.diffId ? [] : [corrupt('', `the stored files give ${found}, expected ${layer.diffId}`)];
  }

  /** The layer as it is in this chain. */
  private async tree(directory: string): Promise<LayerTree> {
    const tree = await catalogTree(catalogFile(directory));
    const inherited = readInherited(inheritedFile(directory));
    if (inherited !== null) applyInherited(tree, inherited.directories);
    return tree;
  }
}

function faultOf({ path, kind, message }: TreeFault): LayerFault {
  const shown = displayBytes(`/${path}` as ByteString);
  return { ...corrupt(shown, `${shown}: ${message}`), repairable: kind === 'extra' || kind === 'attributes' };
}

function corrupt(path: string, message: string): LayerFault {
  return { code: 'LAYER_CORRUPT', path, message, repairable: false };
}

function missing(path: string, message: string): LayerFault {
  return { code: 'LAYER_MISSING', path, message, repairable: false };
}

/** A layer that cannot be read is damaged; anything else is no fault of the layer and goes on. */
function faultOfError(thrown: unknown): LayerFault {
  if (thrown instanceof LayerdError && thrown.code === 'LAYER_DAMAGED') {
    const code = thrown.details['catalog'] === true ? 'CATALOG_CORRUPT' : 'LAYER_CORRUPT';
    return { ...corrupt(String(thrown.details['path'] ?? ''), thrown.message), code };
  }
  // Files of the tree that are gone have been told by then.
  if (isErrno(thrown, 'ENOENT')) return { ...corrupt('catalog', 'the catalog is not there'), code: 'CATALOG_CORRUPT' };
  if (isErrno(thrown, 'EIO', 'EUCLEAN', 'EBADMSG')) return corrupt('', toLayerdError(thrown).message);
  throw thrown;
}

/** Makes a fault good that is not in a file's content. */
function mend(cursor: DirectoryCursor, tree: LayerTree, { path, kind }: TreeFault): void {
  if (kind === 'attributes') {
    restore(cursor, tree, path);
    return;
  }
  const { dirFd, name } = cursor.parentOf(path);
  removeTreeSync(dirFd, name);
  restore(cursor, tree, path.slice(0, Math.max(0, path.lastIndexOf('/'))) as ByteString);
}

function restore(cursor: DirectoryCursor, tree: LayerTree, path: ByteString): void {
  const node = tree.lookup(path);
  if (node === undefined) return;
  const { dirFd, name } = path === '' ? { dirFd: cursor.at(path), name: DOT } : cursor.parentOf(path);
  restoreAttributes(dirFd, name, node, overlayMarks(node));
}

const DOT = bytesOf('.');

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

/** One sync for thousands of files. */
function syncFileSystem(path: string): void {
  const fd = openSync(path, 'r');
  try {
    syncfs(fd);
  } finally {
    closeSync(fd);
  }
}
