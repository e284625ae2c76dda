import { existsSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { catalogFile, catalogTree } from '../../src/content/catalog-file.js';
import { fileSource } from '../../src/content/file-source.js';
import type { InheritedDirectory, LayerSink } from '../../src/content/sink.js';
import type { ByteSource } from '../../src/content/source.js';
import { isErrno, LayerdError } from '../../src/core/errors.js';
import type { Places } from '../../src/core/places.js';
import type { LayerFault, LayerKeeper, StoredLayer } from '../driver.js';
import { indexLooksWhole, replaceIndexFile, scanTarFile } from './index-file.js';
import { encodeInherited } from './inherited.js';
import { layerFiles, syncAll, type LayerFiles } from './layer-files.js';
import { LayerMounts } from './mounts.js';
import { ErofsSink } from './sink.js';
import { repairLayer, verifyLayer } from './verify.js';

/** Layers as tars with an EROFS index beside them, mounted straight from the two files. */
export class ErofsLayers implements LayerKeeper {
  private readonly places: Places;
  private readonly directio: boolean;
  private readonly mounts: LayerMounts;

  constructor(places: Places, options: { directio: boolean }) {
    this.places = places;
    this.directio = options.directio;
    this.mounts = new LayerMounts(places, options);
  }

  begin(dir: string): LayerSink {
    // With directio the mount never reads through the page cache of the tar; without, what import left there is used.
    return new ErofsSink(this.places.layer(dir), { dropCache: this.directio });
  }

  async inherit(layer: StoredLayer, directories: readonly InheritedDirectory[]): Promise<void> {
    if (directories.length === 0) return;
    const files = this.files(layer);
    const tree = await catalogTree(catalogFile(files.directory));
    const part = `${files.inherited}.new`;
    writeFileSync(part, encodeInherited(directories), { mode: 0o600 });
    await syncAll(part);
    renameSync(part, files.inherited);
    replaceIndexFile({ files, diffId: layer.diffId, size: layer.size, tree });
  }

  async *tar(layer: StoredLayer): ByteSource {
    const { tar } = this.files(layer);
    try {
      yield* fileSource(tar, 0, layer.size);
    } catch (thrown) {
      if (!isErrno(thrown, 'ENOENT') && !(thrown instanceof LayerdError && thrown.code === 'ARCHIVE_TRUNCATED'))
        throw thrown;
      throw tarGone(tar, layer, thrown);
    }
  }

  lower(layer: StoredLayer): string {
    const found = this.mounts.find(layer.dir);
    if (found !== null) return found;
    const files = this.files(layer);
    if (!indexLooksWhole(files)) this.healIndex(files, layer);
    return this.mounts.mount(layer.dir, files);
  }

  release(layer: StoredLayer): void {
    this.mounts.release(layer.dir);
  }

  verify(layer: StoredLayer, options: { quick: boolean }): Promise<LayerFault[]> {
    return verifyLayer(this.files(layer), layer, options);
  }

  repair(layer: StoredLayer): Promise<LayerFault[]> {
    return repairLayer(this.files(layer), layer);
  }

  /** The index is made again from the tar when it is lost or cut off; damage inside it is for `verify` to find. */
  private healIndex(files: LayerFiles, layer: StoredLayer): void {
    if (!existsSync(files.tar) || statSync(files.tar).size !== layer.size) throw tarGone(files.tar, layer);
    replaceIndexFile({ files, diffId: layer.diffId, size: layer.size, tree: scanTarFile(files.tar) });
  }

  private files(layer: StoredLayer): LayerFiles {
    return layerFiles(this.places.layer(layer.dir));
  }
}

function tarGone(path: string, layer: StoredLayer, cause?: unknown): LayerdError {
  return new LayerdError('LAYER_DAMAGED', `${path} is not there, or not as long as the layer: ${layer.size} bytes`, {
    details: { path, expected: layer.size },
    hint: 'Load the image again: what is damaged is replaced in place.',
    cause,
  });
}
