/**
 * Checking and mending a layer. The tar is the truth: if its digest is the diff ID, index and catalog can be made again
 * from it, and so be compared with what should be there.
 */
import { createHash } from 'node:crypto';
import { renameSync, rmSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { catalogFile, readCatalog, readCatalogFacts, writeCatalog } from '../../src/content/catalog-file.js';
import { fileSource } from '../../src/content/file-source.js';
import { ingest } from '../../src/content/ingest.js';
import type { LayerSink, LayerTree, StoredFacts } from '../../src/content/sink.js';
import { digestFromHex, type Digest } from '../../src/core/digest.js';
import { isErrno, LayerdError, toLayerdError } from '../../src/core/errors.js';
import type { LayerFault, StoredLayer } from '../driver.js';
import { indexLooksWhole, indexMatches, replaceIndexFile, scanTarFile } from './index-file.js';
import { syncAll, type LayerFiles } from './layer-files.js';

/** Faults of the layer. `quick` looks at presence and sizes, else every byte is read. */
export async function verifyLayer(
  files: LayerFiles,
  layer: StoredLayer,
  options: { quick: boolean },
): Promise<LayerFault[]> {
  const tar = checkTarSize(files, layer) ?? (options.quick ? null : await checkTarBytes(files, layer));
  if (tar !== null) return [tar];
  const index = options.quick ? quickIndex(files) : checkIndex(files, layer);
  const catalog = await checkCatalog(files, layer, options);
  return [index, catalog].filter((fault) => fault !== null);
}

/** Makes index and catalog again where they are not what they should be; returns what cannot be mended. */
export async function repairLayer(files: LayerFiles, layer: StoredLayer): Promise<LayerFault[]> {
  const faults = await verifyLayer(files, layer, { quick: false });
  if (faults.some(({ repairable }) => !repairable)) return faults;
  for (const { code } of faults) {
    if (code === 'CATALOG_CORRUPT') await ingest(tarOf(files, layer), new CatalogSink(files), { diffId: layer.diffId });
    else replaceIndexFile({ files, diffId: layer.diffId, size: layer.size, tree: scanTarFile(files.tar) });
  }
  return [];
}

function tarOf(files: LayerFiles, layer: StoredLayer) {
  return fileSource(files.tar, 0, layer.size);
}

function checkTarSize({ tar }: LayerFiles, layer: StoredLayer): LayerFault | null {
  const found = statSync(tar, { throwIfNoEntry: false })?.size;
  if (found === layer.size) return null;
  if (found !== undefined) return badTar(`the tar has ${found} bytes, expected ${layer.size}`);
  return { code: 'LAYER_MISSING', path: 'tar', message: 'the tar is not there', repairable: false };
}

async function checkTarBytes(files: LayerFiles, layer: StoredLayer): Promise<LayerFault | null> {
  try {
    const found = await digestOf(tarOf(files, layer));
    return found === layer.diffId ? null : badTar(`the tar is ${found}, expected ${layer.diffId}`);
  } catch (thrown) {
    return badTar(mediumError(thrown));
  }
}

function badTar(message: string): LayerFault {
  return { code: 'LAYER_CORRUPT', path: 'tar', message, repairable: false };
}

async function digestOf(source: AsyncIterable<Buffer>): Promise<Digest> {
  const hash = createHash('sha256');
  for await (const chunk of source) hash.update(chunk);
  return digestFromHex(hash.digest('hex'));
}

function quickIndex(files: LayerFiles): LayerFault | null {
  return indexLooksWhole(files) ? null : badIndex('the index is not there, or not whole');
}

function checkIndex(files: LayerFiles, layer: StoredLayer): LayerFault | null {
  try {
    const tree = scanTarFile(files.tar);
    if (indexMatches({ files, diffId: layer.diffId, size: layer.size, tree })) return null;
    return badIndex('the index is not what its tar gives');
  } catch (thrown) {
    // What the directories inherited is known from this file alone.
    if (isDamage(thrown)) return { ...badIndex(toLayerdError(thrown).message), path: 'inherited', repairable: false };
    return badIndex(mediumError(thrown));
  }
}

function badIndex(message: string): LayerFault {
  return { code: 'INDEX_CORRUPT', path: 'index', message, repairable: true };
}

async function checkCatalog(
  files: LayerFiles,
  layer: StoredLayer,
  { quick }: { quick: boolean },
): Promise<LayerFault | null> {
  const path = catalogFile(files.directory);
  try {
    const { diffId } = await readCatalogFacts(path);
    if (diffId !== layer.diffId) return badCatalog(`the catalog is that of ${diffId}`);
    if (!quick) await digestOf(recordsOf(path));
    return null;
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return badCatalog('the catalog is not there');
    return badCatalog(isDamage(thrown) ? toLayerdError(thrown).message : mediumError(thrown));
  }
}

function badCatalog(message: string): LayerFault {
  return { code: 'CATALOG_CORRUPT', path: 'catalog', message, repairable: true };
}

/** Reading them is the check: each block is compared with its digest. */
async function* recordsOf(path: string): AsyncGenerator<Buffer> {
  for await (const record of readCatalog(path)) if ('raw' in record) yield record.raw;
}

function isDamage(thrown: unknown): boolean {
  return thrown instanceof LayerdError && thrown.code === 'LAYER_DAMAGED';
}

/** What a disk that cannot read says; anything else is no fault of the layer and goes on. */
function mediumError(thrown: unknown): string {
  if (!isErrno(thrown, 'EIO', 'EUCLEAN', 'EBADMSG')) throw thrown;
  return toLayerdError(thrown).message;
}

/** Takes the catalog that a tar gives, and nothing else. */
class CatalogSink implements LayerSink {
  readonly driver = 'erofs';
  private readonly path: string;

  constructor(files: LayerFiles) {
    this.path = catalogFile(files.directory);
  }

  bytes(): undefined {
    return undefined;
  }

  step(): void {
    // The tar is there already, and so is everything that a step would make.
  }

  payload(): void {
    // See step().
  }

  payloadEnd(): void {
    // See step().
  }

  async commit(_tree: LayerTree, catalog: readonly Buffer[]): Promise<StoredFacts> {
    const part = `${this.path}.new`;
    rmSync(part, { force: true });
    writeCatalog(part, catalog);
    await syncAll(part);
    renameSync(part, this.path);
    await syncAll(dirname(this.path));
    return { disk: 0, inodes: 0 };
  }

  async abort(): Promise<void> {
    rmSync(`${this.path}.new`, { force: true });
  }
}
