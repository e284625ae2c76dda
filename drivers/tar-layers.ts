/**
 * Layers kept as what they are: the uncompressed tar, byte for byte, and its catalog. For drivers that make their trees
 * from tars.
 *
 *   l/DIR/tar       the uncompressed tar
 *   l/DIR/catalog   the tar without its payloads
 */
import { createHash } from 'node:crypto';
import { closeSync, fsyncSync, mkdirSync, openSync, statSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { catalogFile, readCatalogFacts, writeCatalog } from '../src/content/catalog-file.js';
import { fileSource } from '../src/content/file-source.js';
import type { LayerSink, LayerTree, StoredFacts } from '../src/content/sink.js';
import type { ByteSource } from '../src/content/source.js';
import { TarFileWriter } from '../src/content/tar-file.js';
import { digestFromHex } from '../src/core/digest.js';
import { isErrno, LayerdError } from '../src/core/errors.js';
import type { Places } from '../src/core/places.js';
import type { DriverName } from '../src/core/words.js';
import { measureTree } from '../src/disk/usage.js';
import type { LayerFault, LayerKeeper, StoredLayer } from './driver.js';

export class TarLayers implements LayerKeeper {
  private readonly driver: DriverName;
  private readonly places: Places;

  constructor(driver: DriverName, places: Places) {
    this.driver = driver;
    this.places = places;
  }

  begin(dir: string): LayerSink {
    return new TarSink(this.driver, this.places.layer(dir));
  }

  async inherit(): Promise<void> {
    // Trees are made of whole chains: what a directory inherits is decided there.
  }

  async *tar(layer: StoredLayer): ByteSource {
    yield* fileSource(this.path(layer), 0, layer.size);
  }

  lower(): null {
    return null;
  }

  release(): void {
    // Nothing is mounted.
  }

  async verify(layer: StoredLayer, options: { quick: boolean }): Promise<LayerFault[]> {
    const found = statSync(this.path(layer), { throwIfNoEntry: false })?.size;
    if (found === undefined) return [fault('LAYER_MISSING', 'tar', 'the tar is not there')];
    if (found !== layer.size) {
      return [fault('LAYER_CORRUPT', 'tar', `the tar has ${found} bytes, expected ${layer.size}`)];
    }
    const catalog = await this.verifyCatalog(layer);
    if (catalog !== null || options.quick) return catalog === null ? [] : [catalog];
    const hash = createHash('sha256');
    for await (const chunk of this.tar(layer)) hash.update(chunk);
    const diffId = digestFromHex(hash.digest('hex'));
    if (diffId === layer.diffId) return [];
    return [fault('LAYER_CORRUPT', 'tar', `the tar is ${diffId}, expected ${layer.diffId}`)];
  }

  repair(layer: StoredLayer): Promise<LayerFault[]> {
    return this.verify(layer, { quick: false });
  }

  private async verifyCatalog(layer: StoredLayer): Promise<LayerFault | null> {
    try {
      const { diffId } = await readCatalogFacts(catalogFile(this.places.layer(layer.dir)));
      return diffId === layer.diffId ? null : fault('CATALOG_CORRUPT', 'catalog', `the catalog is that of ${diffId}`);
    } catch (thrown) {
      if (isErrno(thrown, 'ENOENT')) return fault('CATALOG_CORRUPT', 'catalog', 'the catalog is not there');
      if (thrown instanceof LayerdError) return fault('CATALOG_CORRUPT', 'catalog', thrown.message);
      throw thrown;
    }
  }

  private path(layer: StoredLayer): string {
    return join(this.places.layer(layer.dir), TAR);
  }
}

const TAR = 'tar';

class TarSink implements LayerSink {
  readonly driver: DriverName;
  private readonly directory: string;
  private readonly tar: TarFileWriter;

  constructor(driver: DriverName, directory: string) {
    this.driver = driver;
    this.directory = directory;
    mkdirSync(directory, { mode: 0o700 });
    this.tar = new TarFileWriter(join(directory, TAR));
  }

  bytes(chunk: Buffer): Promise<void> {
    return this.tar.write(chunk);
  }

  step(): void {
    // The bytes say it all.
  }

  payload(): void {
    // See step().
  }

  payloadEnd(): void {
    // See step().
  }

  async commit(_tree: LayerTree, catalog: readonly Buffer[]): Promise<StoredFacts> {
    await this.tar.finish({ dropCache: false });
    const path = catalogFile(this.directory);
    writeCatalog(path, catalog);
    for (const synced of [path, this.directory, dirname(this.directory)]) syncPath(synced);
    return measureTree(this.directory);
  }

  async abort(): Promise<void> {
    await this.tar.abort();
    await rm(this.directory, { recursive: true, force: true });
  }
}

function fault(code: LayerFault['code'], path: string, message: string): LayerFault {
  return { code, path, message, repairable: false };
}

function syncPath(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
