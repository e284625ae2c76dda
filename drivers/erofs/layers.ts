import { existsSync } from 'node:fs';
import { catalogFile, catalogTree } from '../../src/content/catalog-file.js';
import { writeInherited } from '../../src/content/inherited.js';
import type { InheritedDirectory } from '../../src/content/sink.js';
import { toLayerdError } from '../../src/core/errors.js';
import type { Places } from '../../src/core/places.js';
import { dropFromCache } from '../../src/disk/cache.js';
import type { LayerFault, StoredLayer } from '../driver.js';
import { isDamage, mediumError, tarDamaged, TarLayers } from '../tar-layers.js';
import type { TarLayer } from '../tar-sink.js';
import {
  isRightIndex,
  isSoundIndex,
  isWholeIndex,
  replaceIndexFile,
  scanTarFile,
  writeIndexFile,
  type IndexedLayer,
} from './index-file.js';
import { layerFiles, type LayerFiles } from './layer-files.js';
import { isMergedLayer, MergedStacks } from './merged.js';
import { LayerMounts, type ErofsOptions } from './mounts.js';

/** Layers as tars with an EROFS index beside them, mounted straight from the two files. */
export class ErofsLayers extends TarLayers {
  /** Whole stacks as one layer. */
  readonly merged: MergedStacks;
  private readonly mounts: LayerMounts;
  private readonly directio: ErofsOptions['directio'];

  constructor(places: Places, { directio }: ErofsOptions) {
    // With directio on no mount reads through the page cache of the tar; else what import left there is used.
    super({ driver: 'erofs', places, dropCache: directio === 'on' });
    this.directio = directio;
    this.merged = new MergedStacks(places, { directio });
    this.mounts = new LayerMounts(places.layerMounts, { directio });
  }

  override async inherit(layer: StoredLayer, directories: readonly InheritedDirectory[]): Promise<void> {
    const files = this.files(layer);
    // After a crash before the row was written it comes again, with what another chain has below.
    if (directories.length === 0 && !existsSync(files.inherited)) return;
    const tree = await catalogTree(catalogFile(files.directory));
    writeInherited(files.inherited, directories);
    replaceIndexFile({ files, diffId: layer.diffId, size: layer.size, tree });
  }

  override lower(layer: StoredLayer): string {
    if (isMergedLayer(layer)) return this.merged.lower(layer.stack);
    const found = this.mounts.find(layer.dir);
    if (found !== null) return found;
    const files = this.files(layer);
    const size = this.sizeOfTar(layer);
    if (size !== layer.size) throw tarDamaged(files.tar, layer, size);
    if (!isSoundIndex(files.index)) this.repairBeside(layer);
    return this.mounts.mount(layer.dir, { index: files.index, tars: [files.tar] });
  }

  override release(layer: StoredLayer): void {
    this.mounts.release(layer.dir, { force: false });
  }

  /** What was read through the mount is in its cache; the tar's pages, through which it came, only take room. */
  settle(layer: StoredLayer): void {
    if (this.directio !== 'on') dropFromCache(this.files(layer).tar);
  }

  protected override writeBeside({ directory, diffId, size, tree }: TarLayer): string[] {
    const files = layerFiles(directory);
    writeIndexFile({ files, diffId, size, tree }, files.index);
    return [files.index];
  }

  protected override verifyBeside(layer: StoredLayer, { quick }: { quick: boolean }): LayerFault | null {
    const files = this.files(layer);
    if (quick) return isWholeIndex(files.index) ? null : badIndex('the index is not there, or not whole');
    try {
      const right = isRightIndex({ ...layer, files }, () => this.fromTar(layer));
      return right ? null : badIndex('the index is not what its tar gives');
    } catch (thrown) {
      // What the directories inherited is known from this file alone.
      if (isDamage(thrown)) return { ...badIndex(toLayerdError(thrown).message), path: 'inherited', repairable: false };
      return badIndex(mediumError(thrown));
    }
  }

  protected override repairBeside(layer: StoredLayer): void {
    replaceIndexFile(this.fromTar(layer));
  }

  private fromTar(layer: StoredLayer): IndexedLayer {
    const files = this.files(layer);
    return { files, diffId: layer.diffId, size: layer.size, tree: scanTarFile(files.tar) };
  }

  private files(layer: StoredLayer): LayerFiles {
    return layerFiles(this.places.layer(layer.dir));
  }
}

function badIndex(message: string): LayerFault {
  return { code: 'INDEX_CORRUPT', path: 'index', message, repairable: true };
}
