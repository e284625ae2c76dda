import { mkdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { decodeHeader, PREFIX_BYTES, type CatalogFacts } from '../../src/content/catalog.js';
import { catalogFile, writeCatalog } from '../../src/content/catalog-file.js';
import type { LayerSink, LayerTree, StoredFacts } from '../../src/content/sink.js';
import { TarFileWriter } from '../../src/content/tar-file.js';
import { measureTree } from '../../src/disk/usage.js';
import { writeIndexFile } from './index-file.js';
import { layerFiles, syncAll, type LayerFiles } from './layer-files.js';

/** A layer on its way to disk: its tar goes straight into a file, its index is written when the last byte is through. */
export class ErofsSink implements LayerSink {
  readonly driver = 'erofs';
  private readonly files: LayerFiles;
  private readonly tar: TarFileWriter;
  private readonly dropCache: boolean;

  /** `directory`: l/DIR, which must not exist. */
  constructor(directory: string, options: { dropCache: boolean }) {
    this.files = layerFiles(directory);
    this.dropCache = options.dropCache;
    mkdirSync(directory, { mode: 0o700 });
    this.tar = new TarFileWriter(this.files.tar);
  }

  bytes(chunk: Buffer): Promise<void> {
    return this.tar.write(chunk);
  }

  step(): void {
    // The tree that commit() gets says it all: files are ranges of the tar.
  }

  payload(): void {
    // Payloads stay where they are, in the tar.
  }

  payloadEnd(): void {
    // See payload().
  }

  async commit(tree: LayerTree, catalog: readonly Buffer[]): Promise<StoredFacts> {
    const syncing = this.tar.finish({ dropCache: this.dropCache });
    try {
      await setImmediate(); // lets the sync of the tar start on its thread: it runs while this one writes the index
      await this.writeBeside(tree, catalog);
    } finally {
      await syncing; // also on failure: abort() must find the descriptor at rest
    }
    await syncAll(this.files.directory, dirname(this.files.directory));
    return measureTree(this.files.directory);
  }

  async abort(): Promise<void> {
    await this.tar.abort();
    await rm(this.files.directory, { recursive: true, force: true });
  }

  private async writeBeside(tree: LayerTree, catalog: readonly Buffer[]): Promise<void> {
    const { diffId, size } = factsOf(catalog, this.files.directory);
    writeIndexFile({ files: this.files, diffId, size, tree }, this.files.index);
    const path = catalogFile(this.files.directory);
    writeCatalog(path, catalog);
    await syncAll(this.files.index, path);
  }
}

/** What a finished catalog says of its layer. */
function factsOf(catalog: readonly Buffer[], directory: string): CatalogFacts {
  const head = Buffer.concat(catalog.slice(0, 1));
  return decodeHeader(head.subarray(0, PREFIX_BYTES), head.subarray(PREFIX_BYTES), catalogFile(directory)).facts;
}
