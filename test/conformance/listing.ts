/** Trees that are on no disk, in the words of the independent listing of trees that are. */
import { createHash } from 'node:crypto';
import type { ByteString } from '../../src/core/bytes.js';
import { TarScanner } from '../../src/tar/scanner.js';
import type { TarEntry, TarTime } from '../../src/tar/entry.js';
import type { ModelNode } from '../model/merge-model.js';
import type { TreeEntry, TreeListing } from '../reference/tree.js';

/** What the model says of a stack. */
export function listModel(model: ReadonlyMap<ByteString, ModelNode>): TreeListing {
  const links = new Links<object>();
  for (const [path, { type, inode }] of model) if (type !== 'directory') links.add(inode, path);
  const listing: TreeListing = new Map();
  for (const [path, node] of model) {
    const entry = entryOf(path, node, node.content);
    listing.set(entry.path, { ...entry, ...links.of(node.inode) });
  }
  return listing;
}

/** What a tar without whiteouts and repeated names says. */
export function listTar(tar: Buffer): TreeListing {
  const found = new Map<ByteString, { entry: TarEntry; content: Buffer[] }>();
  const links = new Links<object>();
  let content: Buffer[] = [];
  const scanner = new TarScanner({
    entry: (entry) => {
      const path = entry.path.replace(/^\.\/|\/$/g, '') as ByteString;
      if (found.has(path)) throw new Error(`${path} is there twice`);
      const own = { entry, content: [] };
      const target = entry.type === 'hardlink' ? found.get(entry.linkPath) : own;
      if (target === undefined) throw new Error(`${path} is a link to ${entry.linkPath}, which is not there`);
      found.set(path, target);
      content = target.content;
      if (target.entry.type !== 'directory') links.add(target, path);
    },
    data: (chunk) => content.push(Buffer.from(chunk)),
    entryEnd: () => undefined,
  });
  scanner.write(tar);
  if (!scanner.finish().endMarker) throw new Error('the tar has no end');
  const listing: TreeListing = new Map();
  for (const [path, target] of found) {
    const entry = entryOf(path, { ...target.entry, linkTarget: target.entry.linkPath }, Buffer.concat(target.content));
    listing.set(entry.path, { ...entry, ...links.of(target) });
  }
  return listing;
}

/** As the listing of a tree on disk escapes names: see describe.py. */
export function escapeName(name: ByteString): string {
  return name.replace(/[^\x20-\x5b\x5d-\x7e]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

/** Names by inode, and the smallest of those that share one. */
class Links<K> {
  private readonly names = new Map<K, string[]>();

  add(inode: K, path: ByteString): void {
    this.names.set(inode, [...(this.names.get(inode) ?? []), escapeName(path)]);
  }

  of(inode: K): Pick<TreeEntry, 'links'> {
    const [first, second] = (this.names.get(inode) ?? []).toSorted();
    return first === undefined || second === undefined ? {} : { links: first };
  }
}

interface Described {
  type: ModelNode['type'] | 'hardlink';
  mode: number;
  uid: number;
  gid: number;
  mtime: TarTime;
  devMajor: number;
  devMinor: number;
  linkTarget: ByteString;
  xattrs: ReadonlyMap<ByteString, Buffer> | null;
}

function entryOf(path: ByteString, node: Described, content: Buffer): TreeEntry {
  const { type } = node;
  if (type === 'hardlink') throw new Error('a hard link has the entry of its target');
  return {
    path: path === '' ? '.' : escapeName(path),
    type: type === 'char' ? 'character' : type,
    mode: node.mode.toString(8).padStart(4, '0'),
    uid: node.uid,
    gid: node.gid,
    mtime: String(BigInt(node.mtime.sec) * 1_000_000_000n + BigInt(node.mtime.nsec)),
    ...(type === 'file' ? { size: content.length, sha256: sha256(content) } : {}),
    ...(type === 'symlink' ? { size: node.linkTarget.length, target: escapeName(node.linkTarget) } : {}),
    ...(type === 'char' || type === 'block' ? { rdev: `${node.devMajor}:${node.devMinor}` } : {}),
    xattrs: xattrsOf(node.xattrs),
  };
}

function xattrsOf(xattrs: ReadonlyMap<ByteString, Buffer> | null): Record<string, string> {
  const pairs = [...(xattrs ?? [])].map(([name, value]) => [escapeName(name), value.toString('hex')] as const);
  return Object.fromEntries(pairs.toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
