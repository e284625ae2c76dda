/**
 * One index over the tars of a whole stack: what the layers show together, whiteouts resolved, as one mount. A lookup
 * asks one file system instead of one per layer, and the stack may be deeper than overlay takes. It is a superblock of
 * its own, so that its pages are shared by the containers of this stack only.
 *
 *   t/NAME/index   the image; NAME tells the stack. A cache: made again from the layers when it is not there.
 *   RUN/t/NAME     its mount
 */
import { createHash, randomUUID } from 'node:crypto';
import { mkdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { catalogFile, catalogTree } from '../../src/content/catalog-file.js';
import { LayerNode, LayerTree } from '../../src/content/layer-tree.js';
import { mergeTrees, type MergedNode } from '../../src/content/merge.js';
import { isErrno } from '../../src/core/errors.js';
import type { Places } from '../../src/core/places.js';
import { syncPath } from '../../src/disk/sync.js';
import type { Lower, StoredLayer, TreeKeeper } from '../driver.js';
import { emitImage, isSoundIndex, isWholeIndex, scanTarFile, writePieces, type IndexedLayer } from './index-file.js';
import type { IndexSource } from './index-writer.js';
import { layerFiles } from './layer-files.js';
import { LayerMounts, type ErofsOptions, type MountImage } from './mounts.js';

/**
 * Stacks with more visible layers than this are merged. What Docker and containerd build has 127 at most: for those, pages
 * that are shared with other images count for more, and an import that asks for each prefix of a chain in turn need not
 * write an index for each.
 */
export const MERGE_ABOVE = 128;

/** A stack that appears as one layer of it. */
export interface MergedLayer extends StoredLayer {
  stack: readonly StoredLayer[];
}

export function isMergedLayer(layer: Lower): layer is MergedLayer {
  return 'stack' in layer;
}

/** The stack as overlay is to get it: one merged layer where it is deep and all erofs', else itself. */
export function foldStack(stack: readonly Lower[]): readonly Lower[] {
  const visible = stack.slice(
    Math.max(
      0,
      stack.findLastIndex(({ opaqueRoot }) => opaqueRoot),
    ),
  );
  if (visible.length <= MERGE_ABOVE || !visible.every(isOurs)) return stack;
  const top = visible.at(-1);
  if (top === undefined) return stack;
  const merged: MergedLayer = { ...top, dir: nameOf(visible), opaqueRoot: true, stack: visible };
  return [merged];
}

function isOurs(lower: Lower): lower is StoredLayer {
  return lower.driver === 'erofs';
}

export class MergedStacks implements TreeKeeper {
  private readonly places: Places;
  private readonly mounts: LayerMounts;

  constructor(places: Places, options: ErofsOptions) {
    this.places = places;
    this.mounts = new LayerMounts(join(places.run, 't'), options);
  }

  /** Makes the index of the stack, durably, if it is not there; returns its NAME. All layers are erofs'. */
  async ensure(stack: readonly StoredLayer[]): Promise<string> {
    const name = nameOf(stack);
    if (this.isThere(stack)) return name;
    const trees: LayerTree[] = [];
    for (const { dir } of stack) trees.push(await catalogTree(catalogFile(this.places.layer(dir))));
    this.publish(name, stack, trees);
    return name;
  }

  isThere(stack: readonly StoredLayer[]): boolean {
    return isWholeIndex(this.indexOf(nameOf(stack)));
  }

  /**
   * The merged root, inside its mount; mounts it first if it is not (idempotent), and makes the index again from the
   * tars if it was lost or damaged since {@link ensure}.
   */
  lower(stack: readonly StoredLayer[]): string {
    const name = nameOf(stack);
    const found = this.mounts.find(name);
    if (found !== null) return found;
    const tars = stack.map(({ dir }) => layerFiles(this.places.layer(dir)).tar);
    if (!isSoundIndex(this.indexOf(name))) this.publish(name, stack, tars.map(scanTarFile));
    const image: MountImage = { index: this.indexOf(name), tars };
    return this.mounts.mount(name, image);
  }

  /** Only stacks that {@link foldStack} folds need an index. */
  names(stacks: readonly (readonly Lower[])[]): Set<string> {
    const layers = stacks.flatMap((stack) => foldStack(stack)).filter(isMergedLayer);
    return new Set(layers.map(({ dir }) => dir));
  }

  release(name: string): void {
    this.mounts.release(name, { force: true });
  }

  private publish(name: string, stack: readonly StoredLayer[], trees: readonly LayerTree[]): void {
    const layers = stack.map(({ dir, diffId, size }, i): IndexedLayer => {
      return { files: layerFiles(this.places.layer(dir)), diffId, size, tree: trees[i] ?? new LayerTree() };
    });
    const part = `${this.places.tree(name)}.${randomUUID()}`;
    mkdirSync(part, { recursive: true, mode: 0o700 });
    try {
      writePieces(join(part, INDEX), (emit) => emitImage(layers, mergedImage, emit));
      for (const path of [join(part, INDEX), part]) syncPath(path);
      this.rename(part, name);
    } finally {
      rmSync(part, { recursive: true, force: true });
    }
    syncPath(this.places.trees);
  }

  /** Another thread may have made the same one meanwhile: then that is it, if it is sound. */
  private rename(part: string, name: string): void {
    const path = this.places.tree(name);
    if (!isSoundIndex(this.indexOf(name))) rmSync(path, { recursive: true, force: true });
    try {
      renameSync(part, path);
    } catch (thrown) {
      if (!isErrno(thrown, 'ENOTEMPTY', 'EEXIST')) throw thrown;
    }
  }

  private indexOf(name: string): string {
    return join(this.places.tree(name), INDEX);
  }
}

const INDEX = 'index';

/** By the copies of the layers, not their diff IDs alone: copies may have inherited other attributes. */
function nameOf(stack: readonly StoredLayer[]): string {
  const hash = createHash('sha256').update('erofs');
  for (const { diffId, dir } of stack) hash.update(`${diffId} ${dir}\n`);
  return hash.digest('hex').slice(0, 24);
}

/** The tree that layers show together, as the tree of one image. */
function mergedImage(trees: readonly LayerTree[]): Pick<IndexSource, 'root' | 'tarOf'> {
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
