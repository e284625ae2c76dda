/** What a stack of layers is together: whiteouts resolved, attributes of implied directories taken from below. */
import type { ByteString } from '../core/bytes.js';
import { LayerNode, type LayerTree } from './layer-tree.js';
import type { InheritedDirectory } from './sink.js';

/** One inode of the merged tree. Hard links are one merged node under several names. */
export interface MergedNode {
  /** The node that attributes and payload come from; never a whiteout. */
  node: LayerNode;
  /** Index in the stack, bottom first, of the layer that `node` belongs to. */
  layer: number;
  /** Names in the merged tree that lead here. */
  links: number;
  /** Null for all but directories. */
  children: Map<ByteString, MergedNode> | null;
}

/** The tree that the layers, bottom first, show together. An empty stack shows an empty root, 0755 of root. */
export function mergeTrees(trees: readonly LayerTree[]): MergedNode {
  const root: MergedNode = { node: new LayerNode('directory', -1), layer: 0, links: 1, children: new Map() };
  root.node.mode = 0o755;
  trees.forEach((tree, layer) => new Merge(layer).directory(root, tree.root));
  return root;
}

/** Lays one layer over what is below it. */
class Merge {
  private readonly layer: number;
  /** Nodes with several names become one merged node. */
  private readonly linked = new Map<LayerNode, MergedNode>();

  constructor(layer: number) {
    this.layer = layer;
  }

  directory(target: MergedNode, upper: LayerNode): void {
    if (!upper.implied) {
      target.node = upper;
      target.layer = this.layer;
    }
    const children = childrenOf(target);
    if (upper.opaque) {
      for (const gone of children.values()) dropName(gone);
      children.clear();
    }
    for (const [name, node] of upper.children ?? []) this.child(children, name, node);
  }

  private child(children: Map<ByteString, MergedNode>, name: ByteString, node: LayerNode): void {
    const before = children.get(name);
    if (node.kind === 'directory' && before?.children) {
      this.directory(before, node);
      return;
    }
    if (before !== undefined) dropName(before);
    if (node.kind === 'whiteout') {
      children.delete(name);
      return;
    }
    const merged = this.merged(node);
    children.set(name, merged);
    if (merged.children) this.directory(merged, node);
  }

  private merged(node: LayerNode): MergedNode {
    const known = this.linked.get(node);
    if (known !== undefined) {
      known.links += 1;
      return known;
    }
    const children = node.kind === 'directory' ? new Map<ByteString, MergedNode>() : null;
    const merged: MergedNode = { node, layer: this.layer, links: 1, children };
    if (node.links > 1) this.linked.set(node, merged);
    return merged;
  }
}

function childrenOf(directory: MergedNode): Map<ByteString, MergedNode> {
  if (directory.children === null) throw new Error('only directories are merged');
  return directory.children;
}

function dropName(node: MergedNode): void {
  node.links -= 1;
  if (node.children) for (const child of node.children.values()) dropName(child);
}

/**
 * The attributes that the implied directories of `upper` have in the layers below it, given top first. Directories
 * that are new in `upper` are left out: they stay as LayerTree made them. Parents first.
 */
export function inheritedDirectories(upper: LayerTree, below: readonly LayerTree[]): InheritedDirectory[] {
  return upper.implied().flatMap((path) => {
    const components = path.split('/') as ByteString[];
    if (hidesBelow(upper, components)) return [];
    const node = findBelow(components, below);
    if (node === null) return [];
    const { mode, uid, gid, mtime, xattrs } = node;
    return [{ path, mode, uid, gid, mtime, xattrs }];
  });
}

/** A directory on the way, not the last, is opaque. */
function hidesBelow({ root }: LayerTree, components: readonly ByteString[]): boolean {
  let node: LayerNode | undefined = root;
  for (const name of components) {
    if (node?.opaque) return true;
    node = node?.children?.get(name);
  }
  return false;
}

/** The topmost layer's node that lists the directory; null where none below shows a listed one. */
function findBelow(components: readonly ByteString[], below: readonly LayerTree[]): LayerNode | null {
  for (const tree of below) {
    const found = follow(tree, components);
    if (found === 'hidden') return null;
    if (found !== null && !found.implied) return found.entry === -1 ? null : found;
    if (hidesBelow(tree, components)) return null;
  }
  return null;
}

/** 'hidden': a whiteout, or something that is no directory, stands at the path or on the way. */
function follow({ root }: LayerTree, components: readonly ByteString[]): LayerNode | null | 'hidden' {
  let node = root;
  for (const name of components) {
    const child = node.children?.get(name);
    if (child === undefined) return null;
    if (child.kind !== 'directory') return 'hidden';
    node = child;
  }
  return node;
}
