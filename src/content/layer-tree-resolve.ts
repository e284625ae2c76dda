import { displayBytes, joinBytes, type ByteString } from '../core/bytes.js';
import type { LayerNode } from './layer-tree-node.js';
import { checkDirectoryName, entryError } from './names.js';

/** As many symbolic links as Linux follows on one path. */
const MAX_LINKS = 40;
/** Deepest nesting of directories: far above what a path of Linux can name, far below what recursion can walk. */
const MAX_DEPTH = 2000;
/** Most components that one path may grow to by the links on it. */
const MAX_STEPS = 20_000;

/** A directory that was needed before, or without, an entry that lists it. */
export interface ImpliedStep {
  path: ByteString;
  node: LayerNode;
  /** The whiteout of the same layer that stood there; null where there was nothing. */
  replaced: LayerNode | null;
}

export interface ResolvedDirectory {
  node: LayerNode;
  path: ByteString;
  implied: readonly ImpliedStep[];
}

/** Makes the node of a missing directory, or says by null that it shall stay missing. */
export type Imply = (parent: LayerNode, name: ByteString) => LayerNode | null;

const NOTHING_IMPLIED: readonly ImpliedStep[] = [];

/**
 * Walks `components` down from `root`, following the layer's symbolic links as in a changed root: an absolute target
 * starts at `root`, and `..` stops there. Null where something is missing and `imply` does not make it. `entry` is the
 * name for messages. Throws TAR_UNSAFE_PATH where links lead in circles, TAR_INVALID where the way goes through
 * something that is no directory, LAYER_LIMIT where it goes too deep.
 */
export function resolveDirectory(
  root: LayerNode,
  components: readonly ByteString[],
  entry: ByteString,
  imply: Imply,
): ResolvedDirectory | null {
  const node = plainWay(root, components);
  if (node !== null) return { node, path: components.join('/') as ByteString, implied: NOTHING_IMPLIED };
  return new Walk(root, entry, imply).along(components);
}

/** The usual case: every component is a directory that is there. */
function plainWay(root: LayerNode, components: readonly ByteString[]): LayerNode | null {
  let node: LayerNode = root;
  for (const name of components) {
    const child = node.children?.get(name);
    if (child?.kind !== 'directory') return null;
    node = child;
  }
  return node;
}

class Walk {
  private readonly root: LayerNode;
  private readonly entry: ByteString;
  private readonly imply: Imply;
  private readonly implied: ImpliedStep[] = [];
  /** The way so far: `nodes[i]` is the directory `names[i]`, which lies in `nodes[i - 1]`, or in the root. */
  private readonly nodes: LayerNode[] = [];
  private readonly names: ByteString[] = [];
  private links = 0;
  private steps = 0;

  constructor(root: LayerNode, entry: ByteString, imply: Imply) {
    this.root = root;
    this.entry = entry;
    this.imply = imply;
  }

  along(components: readonly ByteString[]): ResolvedDirectory | null {
    if (!this.follow(components)) return null;
    return { node: this.here(), path: joinBytes(...this.names), implied: this.implied };
  }

  private here(): LayerNode {
    return this.nodes.at(-1) ?? this.root;
  }

  private follow(components: readonly ByteString[]): boolean {
    return components.every((name) => {
      this.steps += 1;
      if (this.steps > MAX_STEPS) throw this.unsafe('takes too long a way through symbolic links');
      if (name === '' || name === '.') return true;
      if (name === '..') {
        this.nodes.pop();
        this.names.pop();
        return true;
      }
      return this.enter(name);
    });
  }

  private enter(name: ByteString): boolean {
    const child = this.here().children?.get(name);
    if (child === undefined || child.kind === 'whiteout') return this.make(name, child ?? null);
    if (child.kind === 'symlink') return this.followLink(child.linkTarget);
    if (child.kind !== 'directory') {
      const problem = `lies below "${displayBytes(name)}", which is a ${child.kind} and no directory`;
      throw entryError('TAR_INVALID', this.entry, problem, 'Build the layer again with another tool.');
    }
    this.push(name, child);
    return true;
  }

  private followLink(target: ByteString): boolean {
    this.links += 1;
    if (this.links > MAX_LINKS) throw this.unsafe(`lies below more than ${MAX_LINKS} symbolic links`);
    if (target.startsWith('/')) this.nodes.length = this.names.length = 0;
    return this.follow(target.split('/') as ByteString[]);
  }

  private make(name: ByteString, replaced: LayerNode | null): boolean {
    checkDirectoryName(name, this.entry);
    const parent = this.here();
    const node = this.imply(parent, name);
    if (node === null) return false;
    if (replaced !== null) replaced.links -= 1;
    parent.children?.set(name, node);
    this.push(name, node);
    this.implied.push({ path: joinBytes(...this.names), node, replaced });
    return true;
  }

  private push(name: ByteString, node: LayerNode): void {
    if (this.names.length >= MAX_DEPTH) {
      const problem = `lies more than ${MAX_DEPTH} directories deep`;
      throw entryError('LAYER_LIMIT', this.entry, problem, 'Build the layer with fewer nested directories.');
    }
    this.names.push(name);
    this.nodes.push(node);
  }

  private unsafe(problem: string) {
    return entryError('TAR_UNSAFE_PATH', this.entry, problem, 'Do not trust the origin of the layer.');
  }
}
