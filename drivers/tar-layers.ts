/**
 * Layers kept as what they are: the uncompressed tar, byte for byte, and its catalog. For drivers that make their trees
 * from tars, or mount them; what such a driver keeps beside the two it says by overriding the `…Beside` methods.
 *
 *   l/DIR/tar       the uncompressed tar
 *   l/DIR/catalog   the tar without its payloads
 */
import { createHash } from 'node:crypto';
import { existsSync, statSync } from 'node:fs';
import { catalogFile, readCatalog, readCatalogFacts } from '../src/content/catalog-file.js';
import { fileSource } from '../src/content/file-source.js';
import { ingest } from '../src/content/ingest.js';
import type { InheritedDirectory, LayerSink } from '../src/content/sink.js';
import type { ByteSource } from '../src/content/source.js';
import { digestFromHex, type Digest } from '../src/core/digest.js';
import { isErrno, LayerdError, toLayerdError } from '../src/core/errors.js';
import type { Places } from '../src/core/places.js';
import type { DriverName } from '../src/core/words.js';
import type { LayerFault, LayerKeeper, StoredLayer } from './driver.js';
import { CatalogSink, tarFile, TarSink, type TarLayer } from './tar-sink.js';

export interface TarLayersOptions {
  driver: DriverName;
  places: Places;
  /** Nobody reads the tar through the page cache soon: it is dropped from it once it is on disk. */
  dropCache?: boolean;
}

export class TarLayers implements LayerKeeper {
  protected readonly places: Places;
  private readonly options: TarLayersOptions;

  constructor(options: TarLayersOptions) {
    this.places = options.places;
    this.options = options;
  }

  begin(dir: string): LayerSink {
    return new TarSink({
      driver: this.options.driver,
      directory: this.places.layer(dir),
      dropCache: this.options.dropCache ?? false,
      writeBeside: (layer) => this.writeBeside(layer),
    });
  }

  async inherit(_layer: StoredLayer, _directories: readonly InheritedDirectory[]): Promise<void> {
    // Trees are made of whole chains: what a directory inherits is decided there.
  }

  async *tar(layer: StoredLayer): ByteSource {
    const size = this.sizeOfTar(layer);
    if (size !== layer.size) throw tarDamaged(this.tarFile(layer), layer, size);
    yield* this.bytes(layer);
  }

  lower(_layer: StoredLayer): string | null {
    return null;
  }

  release(_layer: StoredLayer): void {
    // Nothing is mounted.
  }

  looksWhole(layer: StoredLayer): boolean {
    return this.sizeOfTar(layer) === layer.size && existsSync(catalogFile(this.places.layer(layer.dir)));
  }

  async verify(layer: StoredLayer, options: { quick: boolean }): Promise<LayerFault[]> {
    const tar = this.verifySize(layer) ?? (options.quick ? null : await this.verifyBytes(layer));
    if (tar !== null) return [tar];
    const catalog = await this.verifyCatalog(layer, options);
    return [this.verifyBeside(layer, options), catalog].filter((fault) => fault !== null);
  }

  /** The tar is the truth: while its digest is right, everything beside it can be made again. */
  async repair(layer: StoredLayer): Promise<LayerFault[]> {
    const faults = await this.verify(layer, { quick: false });
    if (faults.some(({ repairable }) => !repairable)) return faults;
    for (const { code } of faults) {
      if (code === 'CATALOG_CORRUPT') await this.repairCatalog(layer);
      else this.repairBeside(layer);
    }
    return [];
  }

  /** Writes what is kept beside the tar, and returns the paths to be synced. Throws LAYER_LIMIT and the like. */
  protected writeBeside(_layer: TarLayer): string[] {
    return [];
  }

  /** Checks what {@link writeBeside} wrote; the tar is what it should be. */
  protected verifyBeside(_layer: StoredLayer, _options: { quick: boolean }): LayerFault | null {
    return null;
  }

  /** Makes it again, durably. */
  protected repairBeside(_layer: StoredLayer): void {
    // Nothing is beside.
  }

  protected tarFile(layer: StoredLayer): string {
    return tarFile(this.places.layer(layer.dir));
  }

  /** Bytes of the tar on disk; null where there is none. */
  protected sizeOfTar(layer: StoredLayer): number | null {
    return statSync(this.tarFile(layer), { throwIfNoEntry: false })?.size ?? null;
  }

  private bytes(layer: StoredLayer): ByteSource {
    return fileSource(this.tarFile(layer), 0, layer.size);
  }

  private verifySize(layer: StoredLayer): LayerFault | null {
    const found = this.sizeOfTar(layer);
    if (found === layer.size) return null;
    if (found !== null) return badTar(`the tar has ${found} bytes, expected ${layer.size}`);
    return { code: 'LAYER_MISSING', path: 'tar', message: 'the tar is not there', repairable: false };
  }

  private async verifyBytes(layer: StoredLayer): Promise<LayerFault | null> {
    try {
      const found = await digestOf(this.bytes(layer));
      return found === layer.diffId ? null : badTar(`the tar is ${found}, expected ${layer.diffId}`);
    } catch (thrown) {
      return badTar(mediumError(thrown));
    }
  }

  private async verifyCatalog(layer: StoredLayer, { quick }: { quick: boolean }): Promise<LayerFault | null> {
    const path = catalogFile(this.places.layer(layer.dir));
    try {
      const { diffId } = await readCatalogFacts(path);
      if (diffId !== layer.diffId) return badCatalog(`the catalog is that of ${diffId}`);
      if (!quick) await digestOf(rawBytes(path));
      return null;
    } catch (thrown) {
      return badCatalog(isDamage(thrown) ? toLayerdError(thrown).message : mediumError(thrown));
    }
  }

  private async repairCatalog(layer: StoredLayer): Promise<void> {
    const sink = new CatalogSink(this.options.driver, this.places.layer(layer.dir));
    await ingest(this.bytes(layer), sink, { diffId: layer.diffId });
  }
}

/** The error for a layer whose tar is not there, or not as long as it should be. */
export function tarDamaged(path: string, layer: StoredLayer, found: number | null): LayerdError {
  const what = found === null ? 'is not there' : `has ${found} bytes, expected ${layer.size}`;
  return new LayerdError('LAYER_DAMAGED', `${path} ${what}`, {
    details: { path, expected: layer.size, found },
    hint: 'Load the image again: what is damaged is replaced in place.',
  });
}

/** A layer's own fault, as opposed to one of the machine. */
export function isDamage(thrown: unknown): boolean {
  return thrown instanceof LayerdError && thrown.code === 'LAYER_DAMAGED';
}

/** What a disk that cannot read says; anything else is no fault of the layer and goes on. */
export function mediumError(thrown: unknown): string {
  if (!isErrno(thrown, 'EIO', 'EUCLEAN', 'EBADMSG')) throw thrown;
  return toLayerdError(thrown).message;
}

function badTar(message: string): LayerFault {
  return { code: 'LAYER_CORRUPT', path: 'tar', message, repairable: false };
}

function badCatalog(message: string): LayerFault {
  return { code: 'CATALOG_CORRUPT', path: 'catalog', message, repairable: true };
}

async function digestOf(source: AsyncIterable<Buffer>): Promise<Digest> {
  const hash = createHash('sha256');
  for await (const chunk of source) hash.update(chunk);
  return digestFromHex(hash.digest('hex'));
}

/** Reading a catalog is checking it: each block is compared with its digest. */
async function* rawBytes(catalog: string): AsyncGenerator<Buffer> {
  for await (const record of readCatalog(catalog)) if ('raw' in record) yield record.raw;
}
