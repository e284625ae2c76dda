/**
 * A layer as the image specification means it, built entry by entry from its tar. Every driver takes its meaning from
 * here, so that one piece of code decides what a whiteout, an opaque directory or a repeated name does.
 *
 * Where the specification is silent:
 *  - A name that comes twice: the last entry counts, as if the earlier one had never been. A directory over a directory
 *    takes the new attributes and keeps its content.
 *  - `.wh.X` hides X of the layers below only; an X of the same layer stays, before or after it. Is that a directory, it
 *    becomes opaque, since nothing of the X below may show in it.
 *  - The way to an entry follows symbolic links of the same layer, never out of the layer, as in a changed root.
 *    Directories missing on the way are implied, also for a whiteout or an opaque marker.
 *  - A hard link is one more name for the inode of an earlier entry of the same tar; the attributes in its own header
 *    are not looked at.
 *  - `./` gives the root's attributes. The root of a layer that does not list it is implied.
 */
import { joinBytes, type ByteString } from '../core/bytes.js';
import type { TarEntry } from '../tar/entry.js';
import { impliedDirectory, LayerNode, nodeOf, takeAttributes } from './layer-tree-node.js';
import { resolveDirectory, type ImpliedStep, type ResolvedDirectory } from './layer-tree-resolve.js';
import {
  checkLinkTarget,
  cleanPath,
  entryError,
  isOrdinary,
  meaningOf,
  WHITEOUT_PREFIX,
  whiteoutTarget,
  type NameMeaning,
} from './names.js';

export { LayerNode } from './layer-tree-node.js';
export type { NodeKind } from './node-kind.js';
export type { ImpliedStep } from './layer-tree-resolve.js';

/**
 * - 'create': `node` is new at `path`; its payload follows if it is a regular file.
 * - 'attributes': the directory `node` at `path` (or the root) takes the entry's attributes.
 * - 'link': `path` is one more name for `node`, which stands at `linkTo`.
 * - 'whiteout': `node`, of kind whiteout, hides `path` of the layers below.
 * - 'opaque': the directory `node` at `path` shows nothing of the layers below.
 * - 'ignore': the entry changes nothing and is kept for export only; `node` is null.
 */
export type LayerAction = 'create' | 'attributes' | 'link' | 'whiteout' | 'opaque' | 'ignore';

/** What one entry did to the tree. */
export interface LayerStep {
  action: LayerAction;
  /** Resolved: no leading slash, no `.` or `..`, no symbolic link on the way; '' is the root. */
  path: ByteString;
  /** Directories that were made on the way, topmost first. */
  implied: readonly ImpliedStep[];
  node: LayerNode | null;
  /** What stood at `path` before and is gone, with all below it. */
  replaced: LayerNode | null;
  /** Resolved path of a hard link's target; '' for other actions. */
  linkTo: ByteString;
}

export interface LayerLimits {
  /** Entries of one layer, directories that it implies included. */
  maxEntries: number;
}

const DEFAULT_LIMITS: LayerLimits = { maxEntries: 1_000_000 };
const ROOT = '' as ByteString;
const NOTHING_IMPLIED: readonly ImpliedStep[] = [];

/** The directory an entry lies in, and its name there. */
interface Place {
  parent: LayerNode;
  name: ByteString;
  path: ByteString;
  implied: readonly ImpliedStep[];
}

export class LayerTree {
  readonly root: LayerNode = impliedDirectory();
  private readonly limits: LayerLimits;
  private readonly whitedOut = new Map<LayerNode, Set<ByteString>>();
  /** The directory of an entry's path as it stood in the header, `prefix` with its slash; '' for none. */
  private last: { prefix: ByteString; parent: LayerNode; path: ByteString };
  private entryCount = 0;
  private impliedCount = 0;

  constructor(limits: LayerLimits = DEFAULT_LIMITS) {
    this.limits = limits;
    this.last = { prefix: ROOT, parent: this.root, path: ROOT };
  }

  /** Entries applied so far. */
  get entries(): number {
    return this.entryCount;
  }

  /** No layer below shows anything. */
  get opaqueRoot(): boolean {
    return this.root.opaque;
  }

  /**
   * The next entry of the tar. Throws TAR_INVALID, TAR_UNSAFE_PATH, NAME_UNSUPPORTED or LAYER_LIMIT, naming the entry;
   * the tree is of no use after that.
   */
  apply(entry: TarEntry): LayerStep {
    const index = this.entryCount++;
    this.checkLimit(entry.path);
    const sibling = this.placeBesideLast(entry.path);
    if (sibling !== null) return this.applyAt(sibling, entry, index);
    const components = cleanPath(entry.path);
    const name = components.pop();
    if (name === undefined) return this.applyRoot(entry, index);
    if (entry.path.includes(WHITEOUT_PREFIX)) {
      const meaning = meaningInside(components, name);
      if (meaning !== 'plain') return this.applyMark(meaning, entry, components, name);
    }
    const place = this.place(components, name, entry.path);
    this.remember(entry.path, place);
    return this.applyAt(place, entry, index);
  }

  /** Paths of the directories that are implied and not listed, the root left out; parents first. */
  implied(): ByteString[] {
    if (this.impliedCount === 0) return [];
    const paths: ByteString[] = [];
    for (const [path, node] of walkLayer(this.root)) if (node.implied) paths.push(path);
    return paths;
  }

  /** What stands at a resolved path; undefined where the layer has nothing there. */
  lookup(path: ByteString): LayerNode | undefined {
    let node: LayerNode | undefined = this.root;
    if (path === ROOT) return node;
    for (const name of path.split('/') as ByteString[]) node = node?.children?.get(name);
    return node;
  }

  /** Tars list a directory's files one after the other: the way to the parent is mostly that of the entry before. */
  private placeBesideLast(entry: ByteString): Place | null {
    const { prefix, parent, path } = this.last;
    if (prefix === '' || !entry.startsWith(prefix)) return null;
    const end = entry.endsWith('/') ? entry.length - 1 : entry.length;
    const name = entry.slice(prefix.length, end) as ByteString;
    if (name.includes('/') || !isOrdinary(name) || name.startsWith(WHITEOUT_PREFIX)) return null;
    return { parent, name, path: below(path, name), implied: NOTHING_IMPLIED };
  }

  private remember(entry: ByteString, { parent, name, path }: Place): void {
    const end = entry.endsWith('/') ? entry.length - 1 : entry.length;
    const start = end - name.length;
    if (start === 0 || entry[start - 1] !== '/' || !entry.startsWith(name, start)) return;
    this.last = {
      prefix: entry.slice(0, start) as ByteString,
      parent,
      path: path.slice(0, -name.length - 1) as ByteString,
    };
  }

  private applyAt(place: Place, entry: TarEntry, index: number): LayerStep {
    return entry.type === 'hardlink' ? this.applyLink(entry, place) : this.applyNode(entry, index, place);
  }

  private applyRoot(entry: TarEntry, index: number): LayerStep {
    if (entry.type !== 'directory') {
      const problem = `is a ${entry.type} in the place of the layer's root`;
      throw entryError('TAR_INVALID', entry.path, problem, 'Build the layer again with another tool.');
    }
    takeAttributes(this.root, entry, index);
    return step('attributes', ROOT, NOTHING_IMPLIED, this.root);
  }

  private applyMark(meaning: NameMeaning, entry: TarEntry, components: ByteString[], name: ByteString): LayerStep {
    if (meaning === 'reserved') return step('ignore', joinBytes(...components, name), NOTHING_IMPLIED, null);
    if (meaning === 'invalid') {
      throw entryError(
        'TAR_INVALID',
        entry.path,
        'is a whiteout of no file',
        'Build the layer again with another tool.',
      );
    }
    if (meaning === 'opaque') {
      const directory = this.directory(components, entry.path);
      directory.node.opaque = true;
      return step('opaque', directory.path, directory.implied, directory.node);
    }
    return this.applyWhiteout(this.place(components, whiteoutTarget(name), entry.path));
  }

  private applyWhiteout({ parent, name, path, implied }: Place): LayerStep {
    const names = this.whitedOut.get(parent);
    if (names) names.add(name);
    else this.whitedOut.set(parent, new Set([name]));
    const own = parent.children?.get(name);
    if (own === undefined) {
      const node = new LayerNode('whiteout', this.entryCount - 1);
      parent.children?.set(name, node);
      return step('whiteout', path, implied, node);
    }
    if (own.kind !== 'directory') return step('ignore', path, implied, null);
    own.opaque = true;
    own.implied = false;
    return step('opaque', path, implied, own);
  }

  private applyNode(entry: TarEntry, index: number, place: Place): LayerStep {
    const { parent, name, path, implied } = place;
    const before = parent.children?.get(name);
    if (entry.type === 'directory' && before?.kind === 'directory') {
      takeAttributes(before, entry, index);
      return step('attributes', path, implied, before);
    }
    if (entry.type === 'symlink') checkLinkTarget(entry.linkPath, entry.path);
    const node = nodeOf(entry, index);
    if (node.kind === 'directory') node.opaque = this.isWhitedOut(parent, name);
    return this.put(place, node, 'create', ROOT);
  }

  private applyLink(entry: TarEntry, place: Place): LayerStep {
    const target = this.findTarget(entry);
    if (target.path === place.path || target.path.startsWith(`${place.path}/`)) {
      throw linkError(entry, 'is a hard link to itself, or to what it replaces');
    }
    target.node.links += 1;
    return this.put(place, target.node, 'link', target.path);
  }

  /** The inode that a hard link names: of this layer, and there already. */
  private findTarget(entry: TarEntry): { node: LayerNode; path: ByteString } {
    const components = cleanPath(entry.linkPath, entry.path);
    const name = components.pop();
    const directory = resolveDirectory(this.root, components, entry.path, () => null);
    const node = name === undefined ? this.root : directory?.node.children?.get(name);
    if (node?.kind === 'directory') throw linkError(entry, 'is a hard link to a directory');
    if (directory === null || name === undefined || node === undefined || node.kind === 'whiteout') {
      throw linkError(entry, 'is a hard link to a file that does not come before it in the same layer');
    }
    return { node, path: joinBytes(directory.path, name) };
  }

  private put(place: Place, node: LayerNode, action: LayerAction, linkTo: ByteString): LayerStep {
    const replaced = place.parent.children?.get(place.name) ?? null;
    if (replaced !== null) {
      dropName(replaced);
      this.last = { prefix: ROOT, parent: this.root, path: ROOT };
    }
    place.parent.children?.set(place.name, node);
    return { action, path: place.path, implied: place.implied, node, replaced, linkTo };
  }

  private place(components: ByteString[], name: ByteString, entry: ByteString): Place {
    const directory = this.directory(components, entry);
    return { parent: directory.node, name, path: below(directory.path, name), implied: directory.implied };
  }

  private directory(components: readonly ByteString[], entry: ByteString): ResolvedDirectory {
    const found = resolveDirectory(this.root, components, entry, (parent, name) => this.imply(parent, name, entry));
    if (found === null) throw new Error('what is missing on the way has been made');
    return found;
  }

  private imply(parent: LayerNode, name: ByteString, entry: ByteString): LayerNode {
    this.impliedCount += 1;
    this.checkLimit(entry);
    const node = impliedDirectory();
    node.opaque = this.isWhitedOut(parent, name);
    node.implied = !node.opaque;
    return node;
  }

  private isWhitedOut(parent: LayerNode, name: ByteString): boolean {
    return this.whitedOut.get(parent)?.has(name) ?? false;
  }

  private checkLimit(entry: ByteString): void {
    const { maxEntries } = this.limits;
    if (this.entryCount + this.impliedCount <= maxEntries) return;
    const problem = `is one more than the ${maxEntries} files and directories that a layer may have`;
    throw entryError('LAYER_LIMIT', entry, problem, 'Spread the files over several layers, or pack them.');
  }
}

/** Every node below `root`, each with its path, parents first, names of one directory in byte order. */
export function* walkLayer(root: LayerNode): Generator<[path: ByteString, node: LayerNode]> {
  const pending: [ByteString, LayerNode][] = [[ROOT, root]];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const [path, node] = next;
    if (node !== root) yield next;
    if (node.children === null) continue;
    const children = [...node.children].sort(([a], [b]) => (a < b ? 1 : -1));
    for (const [name, child] of children) pending.push([below(path, name), child]);
  }
}

function below(path: ByteString, name: ByteString): ByteString {
  return path === ROOT ? name : (`${path}/${name}` as ByteString);
}

/** What an entry whose path has `.wh.` in it is; below a reserved name everything is reserved. */
function meaningInside(components: readonly ByteString[], name: ByteString): NameMeaning {
  return components.some((component) => meaningOf(component) === 'reserved') ? 'reserved' : meaningOf(name);
}

/** One name of a node is gone, and with a directory all names below it. */
function dropName(node: LayerNode): void {
  node.links -= 1;
  if (node.children) for (const child of node.children.values()) dropName(child);
}

function step(
  action: LayerAction,
  path: ByteString,
  implied: readonly ImpliedStep[],
  node: LayerNode | null,
): LayerStep {
  return { action, path, implied, node, replaced: null, linkTo: ROOT };
}

function linkError(entry: TarEntry, problem: string) {
  return entryError('TAR_INVALID', entry.path, problem, 'Build the layer again: its hard links must stay inside it.');
}
