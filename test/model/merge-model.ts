/**
 * What the image specification says a stack of layers must be, as plainly as it can be said: maps from full paths to
 * nodes, no trees, no cleverness, nothing of the product. Slow, and meant to be.
 */
import { posix } from 'node:path';
import type { ByteString } from '../../src/core/bytes.js';
import type { TarTime } from '../../src/tar/entry.js';
import type { EntrySpec } from './spec.js';

export interface ModelNode {
  type: 'file' | 'directory' | 'symlink' | 'char' | 'block' | 'fifo';
  mode: number;
  uid: number;
  gid: number;
  mtime: TarTime;
  devMajor: number;
  devMinor: number;
  linkTarget: ByteString;
  xattrs: ReadonlyMap<ByteString, Buffer>;
  content: Buffer;
  /** The same object for all names of one inode. */
  inode: object;
}

/** The merged tree: '' is the root, other paths have no leading slash. Throws on a layer that must be refused. */
export function mergeModel(layers: readonly (readonly EntrySpec[])[]): Map<ByteString, ModelNode> {
  let merged = new Map([['' as ByteString, directoryOfRoot()]]);
  for (const layer of layers) {
    const own = new OwnLayer();
    for (const entry of layer) own.add(entry);
    merged = layOver(merged, own);
  }
  return merged;
}

/** The entries of `layer` that a reader takes, in order: each that would have to be refused is left out. */
export function acceptedEntries(layer: readonly EntrySpec[]): EntrySpec[] {
  const accepted: EntrySpec[] = [];
  for (const entry of layer) {
    accepted.push(entry);
    if (!isAccepted(accepted)) accepted.pop();
  }
  return accepted;
}

/** No entry of the layer has to be refused. */
export function isAccepted(layer: readonly EntrySpec[]): boolean {
  try {
    mergeModel([layer]);
    return true;
  } catch (thrown) {
    if (thrown instanceof Refused) return false;
    throw thrown;
  }
}

/** The layer breaks a rule of the specification, or reaches out of itself. */
export class Refused extends Error {}

function directoryOfRoot(): ModelNode {
  return {
    type: 'directory',
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtime: { sec: 0, nsec: 0 },
    devMajor: 0,
    devMinor: 0,
    linkTarget: '' as ByteString,
    xattrs: new Map(),
    content: Buffer.alloc(0),
    inode: {},
  };
}

/** What one tar holds, extracted alone into an empty directory. */
class OwnLayer {
  readonly nodes = new Map<ByteString, ModelNode>();
  readonly implied = new Set<ByteString>();
  readonly whiteouts = new Set<ByteString>();
  readonly opaque = new Set<ByteString>();

  add(entry: EntrySpec): void {
    const path = normal(entry.path);
    const name = posix.basename(path) as ByteString;
    if (path === '') {
      this.addRoot(entry);
      return;
    }
    if (path.split('/').some((part) => part.startsWith('.wh..wh.') && part !== '.wh..wh..opq')) return;
    const parent = this.wayTo(posix.dirname(`/${path}`) as ByteString);
    if (['.wh.', '.wh..', '.wh...'].includes(name)) throw new Refused(`whiteout of nothing: ${path}`);
    for (const missing of parent.missing) this.imply(missing);
    if (name.replace(/^\.wh\./, '').length > 255) throw new Refused(`too long a name: ${path}`);
    if (name === '.wh..wh..opq') this.opaque.add(parent.path);
    else if (name.startsWith('.wh.')) this.whiteOut(below(parent.path, name.slice(4) as ByteString));
    else this.put(below(parent.path, name), entry);
  }

  private addRoot(entry: EntrySpec): void {
    if (entry.type !== 'directory') throw new Refused('the root is a directory');
    this.nodes.set('' as ByteString, nodeOf(entry));
  }

  private whiteOut(path: ByteString): void {
    this.whiteouts.add(path);
    this.implied.delete(path);
  }

  private imply(path: ByteString): void {
    this.nodes.set(path, { ...directoryOfRoot() });
    if (!this.whiteouts.has(path)) this.implied.add(path);
  }

  private put(path: ByteString, entry: EntrySpec): void {
    const node = entry.type === 'hardlink' ? this.target(entry, path) : nodeOf(entry);
    this.implied.delete(path);
    if (this.nodes.get(path)?.type === 'directory' && node.type !== 'directory') {
      for (const map of [this.nodes, this.implied, this.whiteouts, this.opaque]) deleteBelow(map, path);
      this.opaque.delete(path);
    }
    this.nodes.set(path, node);
  }

  private target(entry: EntrySpec, from: ByteString): ModelNode {
    const path = normal(entry.linkPath);
    const parent = this.wayTo(posix.dirname(`/${path}`) as ByteString);
    const real = below(parent.path, posix.basename(path) as ByteString);
    const node = this.nodes.get(real);
    if (parent.missing.length > 0 || node === undefined) throw new Refused(`no link target ${path}`);
    if (node.type === 'directory') throw new Refused(`link to a directory ${path}`);
    if (real === from || real.startsWith(`${from}/`)) throw new Refused(`link to itself ${path}`);
    return node;
  }

  /** The directory at the end of an absolute path, links followed, and what of it has to be made. */
  private wayTo(absolute: ByteString): { path: ByteString; missing: ByteString[] } {
    const todo = absolute.split('/');
    const done: string[] = [];
    const missing: ByteString[] = [];
    let hops = 0;
    for (let part = todo.shift(); part !== undefined; part = todo.shift()) {
      if (part === '' || part === '.') continue;
      if (part === '..') {
        done.pop();
        continue;
      }
      const path = [...done, part].join('/') as ByteString;
      const node = this.nodes.get(path);
      if (node?.type === 'symlink') {
        hops += 1;
        if (hops > 40) throw new Refused('too many links');
        if (node.linkTarget.startsWith('/')) done.length = 0;
        todo.unshift(...node.linkTarget.split('/'));
        continue;
      }
      if (node !== undefined && node.type !== 'directory') throw new Refused(`${path} is no directory`);
      if (node === undefined && part.length > 255) throw new Refused(`too long a name: ${path}`);
      if (node === undefined && part.startsWith('.wh.')) throw new Refused(`${path} is kept for whiteouts`);
      if (node === undefined && !missing.includes(path)) missing.push(path);
      done.push(part);
    }
    return { path: done.join('/') as ByteString, missing };
  }
}

function layOver(lower: ReadonlyMap<ByteString, ModelNode>, own: OwnLayer): Map<ByteString, ModelNode> {
  const merged = new Map(lower);
  for (const path of own.whiteouts) {
    merged.delete(path);
    deleteBelow(merged, path);
  }
  for (const path of own.opaque) deleteBelow(merged, path);
  const parentsFirst = [...own.nodes].sort(([a], [b]) => a.split('/').length - b.split('/').length);
  for (const [path, node] of parentsFirst) {
    const before = merged.get(path);
    if (before?.type === 'directory' && node.type === 'directory') {
      if (own.implied.has(path)) continue;
    } else {
      deleteBelow(merged, path);
    }
    merged.set(path, node);
  }
  return merged;
}

function deleteBelow(paths: Map<ByteString, unknown> | Set<ByteString>, directory: ByteString): void {
  const prefix = directory === '' ? '' : `${directory}/`;
  for (const path of paths.keys()) if (path !== '' && path.startsWith(prefix)) paths.delete(path);
}

function below(directory: ByteString, name: ByteString): ByteString {
  return (directory === '' ? name : `${directory}/${name}`) as ByteString;
}

/** As Go's filepath.Clean, without a slash at either end; '' is the root. */
function normal(path: ByteString): ByteString {
  if (path === '') throw new Refused('no name');
  const relative = posix.normalize(path.replace(/^\/+/, '')).replace(/\/+$/, '');
  if (relative === '..' || relative.startsWith('../')) throw new Refused(`${path} leaves the layer`);
  return (relative === '.' ? '' : relative) as ByteString;
}

function nodeOf(entry: EntrySpec): ModelNode {
  if (entry.type === 'hardlink') throw new Error('a hard link has the node of its target');
  const isDevice = entry.type === 'char' || entry.type === 'block';
  const standIn = entry.type === 'char' && entry.devMajor === 0 && entry.devMinor === 0;
  return {
    type: standIn ? 'file' : entry.type,
    mode: permissions(entry, standIn),
    uid: entry.uid,
    gid: entry.gid,
    mtime: entry.mtime,
    devMajor: isDevice ? entry.devMajor : 0,
    devMinor: isDevice ? entry.devMinor : 0,
    linkTarget: entry.type === 'symlink' ? entry.linkPath : ('' as ByteString),
    xattrs: new Map([...(entry.xattrs ?? [])].filter(([name]) => !/^(trusted|user)\.overlay\./.test(name))),
    content: entry.type === 'file' ? entry.content : Buffer.alloc(0),
    inode: {},
  };
}

/** Symbolic links are 0777 on Linux; a device that would be a whiteout becomes a file without permissions. */
function permissions(entry: EntrySpec, standIn: boolean): number {
  if (standIn) return 0;
  return entry.type === 'symlink' ? 0o777 : entry.mode;
}
