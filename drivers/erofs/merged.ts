/**
 * One index over the tars of a whole stack: what the layers show together, whiteouts resolved, as one mount. A lookup
 * asks one file system instead of one per layer, and the stack may be deeper than overlay takes. It is a superblock of
 * its own, so that its pages are shared by the containers of this stack only.
 *
 *   t/NAME/index   the image; NAME tells the stack. A cache: made again from the layers when it is not there.
 */
import { createHash, randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { catalogFile, catalogTree } from '../../src/content/catalog-file.js';
import { LayerNode } from '../../src/content/layer-tree.js';
import { mergeTrees, type MergedNode } from '../../src/content/merge.js';
import { isErrno } from '../../src/core/errors.js';
import type { Places } from '../../src/core/places.js';
import { syncPath, syncPaths } from '../../src/disk/sync.js';
import type { StoredLayer } from '../driver.js';
import { emitImage, writePieces, type IndexedLayer } from './index-file.js';
import type { IndexSource } from './index-writer.js';
import { layerFiles } from './layer-files.js';
import { LayerMounts, type MountImage } from './mounts.js';

export class MergedStacks {
  private readonly places: Places;
  private readonly mounts: LayerMounts;

  constructor(places: Places, options: { directio: boolean }) {
    this.places = places;
    this.mounts = new LayerMounts(places, options);
  }

  /** Makes the index of the stack, durably, if it is not there; returns its NAME. All layers are erofs'. */
  async ensure(stack: readonly StoredLayer[]): Promise<string> {
    const name = this.nameOf(stack);
    if (existsSync(this.indexOf(name))) return name;
    const part = `${this.places.tree(name)}.${randomUUID()}`;
    mkdirSync(part, { recursive: true, mode: 0o700 });
    try {
      const layers = await this.layersOf(stack);
      writePieces(join(part, INDEX), (emit) => emitImage(layers, mergedImage, emit));
      await syncPaths([join(part, INDEX), part]);
      renameSync(part, this.places.tree(name));
    } catch (thrown) {
      rmSync(part, { recursive: true, force: true });
      // Another thread has made the same one meanwhile: then that is it.
      if (!isErrno(thrown, 'ENOTEMPTY', 'EEXIST')) throw thrown;
    }
    syncPath(this.places.trees);
    return name;
  }

  /** The merged root, inside the mount of an index that {@link ensure} made; mounts it first if it is not (idempotent). */
  lower(stack: readonly StoredLayer[]): string {
    const name = this.nameOf(stack);
    return this.mounts.find(name) ?? this.mounts.mount(name, this.image(name, stack));
  }

  /** Unmounts it; idempotent. MOUNT_BUSY names the holder. */
  release(name: string): void {
    this.mounts.release(name);
  }

  /** Names below t/ and below the layers' mounts that these stacks need. */
  names(stacks: readonly (readonly StoredLayer[])[]): Set<string> {
    return new Set(stacks.map((stack) => this.nameOf(stack)));
  }

  private image(name: string, stack: readonly StoredLayer[]): MountImage {
    return { index: this.indexOf(name), tars: stack.map(({ dir }) => layerFiles(this.places.layer(dir)).tar) };
  }

  private async layersOf(stack: readonly StoredLayer[]): Promise<IndexedLayer[]> {
    const layers: IndexedLayer[] = [];
    for (const { dir, diffId, size } of stack) {
      const files = layerFiles(this.places.layer(dir));
      layers.push({ files, diffId, size, tree: await catalogTree(catalogFile(files.directory)) });
    }
    return layers;
  }

  /** By the copies of the layers, not their diff IDs alone: copies may have inherited other attributes. */
  private nameOf(stack: readonly StoredLayer[]): string {
    const hash = createHash('sha256');
    for (const { diffId, dir } of stack) hash.update(`${diffId} ${dir}\n`);
    return `e${hash.digest('hex').slice(0, 23)}`;
  }

  private indexOf(name: string): string {
    return join(this.places.tree(name), INDEX);
  }
}

const INDEX = 'index';

/** The tree that layers show together, as the tree of one image. */
function mergedImage(trees: Parameters<typeof mergeTrees>[0]): Pick<IndexSource, 'root' | 'tarOf'> {
  const tars = new Map<LayerNode, number>();
  const linked = new Map<MergedNode, LayerNode>();
  const copyOf = (merged: MergedNode): LayerNode => {
    const known = linked.get(merged);
    if (known !== undefined) return known;
    const copy = copyNode(merged);
    tars.set(copy, merged.layer);
    if (merged.links > 1) linked.set(merged, copy);
    return copy;
  };
  const root = mergeTrees(trees);
  const top = copyOf(root);
  const waiting: [MergedNode, LayerNode][] = [[root, top]];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const [merged, node] = next;
    for (const [name, child] of merged.children ?? []) {
      const copy = copyOf(child);
      node.children?.set(name, copy);
      if (child.children !== null) waiting.push([child, copy]);
    }
  }
  return { root: top, tarOf: (node) => tars.get(node) ?? 0 };
}

/** Nothing lies below a merged tree: no whiteout, opaque or implied directory is left. */
function copyNode({ node, links }: MergedNode): LayerNode {
  const copy = new LayerNode(node.kind, node.entry);
  const { mode, uid, gid, mtime, devMajor, devMinor, linkTarget, xattrs } = node;
  const { size, sparse, dataOffset, storedSize } = node;
  Object.assign(copy, { mode, uid, gid, mtime, devMajor, devMinor, linkTarget, xattrs, links });
  return Object.assign(copy, { size, sparse, dataOffset, storedSize });
}
