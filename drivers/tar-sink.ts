/** Sinks for layers that are kept as their tars. */
import { mkdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { decodeHeader, PREFIX_BYTES, type CatalogFacts } from '../src/content/catalog.js';
import { catalogFile, writeCatalog } from '../src/content/catalog-file.js';
import type { LayerSink, LayerTree, StoredFacts } from '../src/content/sink.js';
import { TarFileWriter } from '../src/content/tar-file.js';
import type { Digest } from '../src/core/digest.js';
import type { DriverName } from '../src/core/words.js';
import { replaceFile } from '../src/disk/replace.js';
import { syncPaths } from '../src/disk/sync.js';
import { measureTree } from '../src/disk/usage.js';

/** A layer whose tar is whole and right. */
export interface TarLayer {
  /** l/DIR. */
  directory: string;
  diffId: Digest;
  /** Bytes of the tar. */
  size: number;
  tree: LayerTree;
}

export interface TarSinkOptions {
  driver: DriverName;
  /** l/DIR, which must not exist. */
  directory: string;
  dropCache: boolean;
  /** See TarLayers.writeBeside. */
  writeBeside: (layer: TarLayer) => string[];
}

/** Where the tar of the stored layer in `directory` lies. */
export function tarFile(directory: string): string {
  return join(directory, 'tar');
}

/** Payloads stay where they are in the tar, and the tree that comes in the end says what is made of them. */
abstract class WholeTarSink implements LayerSink {
  readonly driver: DriverName;

  constructor(driver: DriverName) {
    this.driver = driver;
  }

  step(): void {
    // See above.
  }

  payload(): void {
    // See above.
  }

  payloadEnd(): void {
    // See above.
  }

  abstract bytes(chunk: Buffer): Promise<void> | undefined;
  abstract commit(tree: LayerTree, catalog: readonly Buffer[]): Promise<void>;
  abstract settle(synced: boolean): Promise<StoredFacts>;
  abstract abort(): Promise<void>;
}

/** A layer on its way to disk. */
export class TarSink extends WholeTarSink {
  private readonly options: TarSinkOptions;
  private readonly tar: TarFileWriter;
  /** The files beside the tar. */
  private beside: string[] = [];

  constructor(options: TarSinkOptions) {
    super(options.driver);
    this.options = options;
    mkdirSync(options.directory, { mode: 0o700 });
    this.tar = new TarFileWriter(tarFile(options.directory));
  }

  bytes(chunk: Buffer): Promise<void> | undefined {
    return this.tar.write(chunk);
  }

  async commit(tree: LayerTree, catalog: readonly Buffer[]): Promise<void> {
    const flushing = this.tar.flush(); // on its thread, while this one writes what is beside
    try {
      this.beside = this.writeAll(tree, catalog);
    } finally {
      await flushing; // also on failure: abort() must find the descriptor at rest
    }
  }

  async settle(synced: boolean): Promise<StoredFacts> {
    const { directory, dropCache } = this.options;
    if (synced) await this.tar.close({ dropCache });
    else {
      // All at once: where there is a journal, one commit of it serves them.
      const outcomes = await Promise.allSettled([this.tar.finish({ dropCache }), syncPaths(this.beside)]);
      for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
      await syncPaths([directory, dirname(directory)]);
    }
    return measureTree(directory);
  }

  async abort(): Promise<void> {
    await this.tar.abort();
    await rm(this.options.directory, { recursive: true, force: true });
  }

  private writeAll(tree: LayerTree, catalog: readonly Buffer[]): string[] {
    const { directory, writeBeside } = this.options;
    const path = catalogFile(directory);
    const { diffId, size } = factsOf(catalog, path);
    const written = writeBeside({ directory, diffId, size, tree });
    writeCatalog(path, catalog);
    return [...written, path];
  }
}

/** Takes the catalog that a stored tar gives, in the place of the one that is there, and nothing else. */
export class CatalogSink extends WholeTarSink {
  private readonly path: string;

  constructor(driver: DriverName, directory: string) {
    super(driver);
    this.path = catalogFile(directory);
  }

  bytes(): undefined {
    return undefined;
  }

  async commit(_tree: LayerTree, catalog: readonly Buffer[]): Promise<void> {
    replaceFile(this.path, (part) => writeCatalog(part, catalog));
  }

  async settle(): Promise<StoredFacts> {
    return measureTree(dirname(this.path));
  }

  async abort(): Promise<void> {
    // Nothing is written before it commits.
  }
}

/** What a finished catalog says of its layer. `path` is for errors. */
function factsOf(catalog: readonly Buffer[], path: string): CatalogFacts {
  const head = Buffer.concat(catalog.slice(0, 1));
  return decodeHeader(head.subarray(0, PREFIX_BYTES), head.subarray(PREFIX_BYTES), path).facts;
}
