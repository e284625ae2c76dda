import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { fromBuffer, type ByteString } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import { LayerTree, walkLayer } from '../../src/content/layer-tree.js';
import { inheritedDirectories, mergeTrees, type MergedNode } from '../../src/content/merge.js';
import { acceptedEntries, mergeModel, isAccepted, type ModelNode } from '../model/merge-model.js';
import { arbitraryEntries, arbitraryStack } from '../model/arbitrary.js';
import { entrySpec, layerTar, type EntrySpec } from '../model/spec.js';
import { treeOfTar } from '../model/tree.js';
import { runs } from './runs.js';

const RUNS = { numRuns: runs(400) };

/** A node as both sides can say it: hard links by all of their names, bytes as text that compares fast. */
type Line = Omit<ModelNode, 'inode' | 'xattrs' | 'content'> & {
  path: ByteString;
  content: string;
  xattrs: string[];
  names: ByteString[];
};

function linesOfModel(model: ReadonlyMap<ByteString, ModelNode>): Line[] {
  const names = namesByInode([...model].map(([path, node]) => [path, node.inode]));
  const lines: Line[] = [];
  for (const [path, { inode, xattrs, content, ...attributes }] of model) {
    const more = { path, content: fromBuffer(content), xattrs: xattrLines(xattrs), names: names.get(inode) ?? [] };
    lines.push({ ...attributes, ...more });
  }
  return inOrder(lines);
}

function linesOfMerged(root: MergedNode, tars: readonly Buffer[]): Line[] {
  const all = [...walkMerged(root, '' as ByteString)];
  const names = namesByInode(all);
  return inOrder(
    all.map(([path, merged]) => {
      const { node, layer } = merged;
      const { kind, mode, uid, gid, mtime, devMajor, devMinor, linkTarget } = node;
      if (kind === 'whiteout') throw new Error(`a whiteout is left at ${path}`);
      expect(merged.links).toBe(names.get(merged)?.length);
      return {
        path,
        type: kind,
        mode,
        uid,
        gid,
        mtime,
        devMajor,
        devMinor,
        linkTarget,
        content: fromBuffer(tars[layer]?.subarray(node.dataOffset, node.dataOffset + node.size) ?? Buffer.alloc(0)),
        xattrs: xattrLines(node.xattrs ?? new Map()),
        names: names.get(merged) ?? [],
      };
    }),
  );
}

function* walkMerged(node: MergedNode, path: ByteString): Generator<[ByteString, MergedNode]> {
  yield [path, node];
  for (const [name, child] of node.children ?? []) {
    yield* walkMerged(child, (path === '' ? name : `${path}/${name}`) as ByteString);
  }
}

function namesByInode(all: readonly [ByteString, object][]): Map<object, ByteString[]> {
  const names = new Map<object, ByteString[]>();
  for (const [path, inode] of all) names.set(inode, [...(names.get(inode) ?? []), path].sort());
  return names;
}

function xattrLines(xattrs: ReadonlyMap<ByteString, Buffer>): string[] {
  return [...xattrs].map(([name, value]) => `${name}=${value.toString('hex')}`).sort();
}

function inOrder(lines: Line[]): Line[] {
  return lines.sort((a, b) => (a.path < b.path ? -1 : 1));
}

function isTaken(layer: readonly EntrySpec[]): boolean {
  try {
    treeOfTar(layerTar(layer));
    return true;
  } catch (thrown) {
    if (thrown instanceof LayerdError) return false;
    throw thrown;
  }
}

/** The attributes of implied directories, as a driver that keeps one layer at a time fixes them. */
function inherit(trees: readonly LayerTree[]): void {
  trees.forEach((upper, layer) => {
    const below = trees.slice(0, layer).toReversed();
    for (const { path, ...attributes } of inheritedDirectories(upper, below)) {
      Object.assign(upper.lookup(path) ?? {}, attributes);
    }
  });
}

describe('a layer tree', () => {
  it('and the layers below it are what the specification says', () => {
    fc.assert(
      fc.property(arbitraryStack(), (stack) => {
        const tars = stack.map(layerTar);
        const merged = mergeTrees(tars.map(treeOfTar));
        expect(linesOfMerged(merged, tars)).toEqual(linesOfModel(mergeModel(stack)));
      }),
      RUNS,
    );
  });

  it('is refused exactly where the specification refuses it', () => {
    fc.assert(
      fc.property(arbitraryEntries(), (layer) => {
        const valid = acceptedEntries(layer.slice(0, -1));
        const candidate = [...valid, ...layer.slice(-1)];
        expect(isTaken(candidate)).toBe(isAccepted(candidate));
      }),
      RUNS,
    );
  });

  it('gives its implied directories what they have below', () => {
    fc.assert(
      fc.property(arbitraryStack(), (stack) => {
        const trees = stack.map(layerTar).map(treeOfTar);
        inherit(trees);
        const model = mergeModel(stack);
        const top = trees.at(-1);
        for (const [path, node] of top ? walkLayer(top.root) : []) {
          if (node.kind !== 'directory') continue;
          const { mode, uid, gid, mtime } = node;
          expect({ path, mode, uid, gid, mtime }).toEqual(expectedAttributes(path, model.get(path)));
        }
      }),
      RUNS,
    );
  });

  it('counts the names of every inode', () => {
    fc.assert(
      fc.property(arbitraryEntries().map(acceptedEntries), (layer) => {
        const tree = treeOfTar(layerTar(layer));
        const names = namesByInode([...walkLayer(tree.root)]);
        for (const [, node] of walkLayer(tree.root)) expect(node.links).toBe(names.get(node)?.length);
      }),
      RUNS,
    );
  });
});

describe('paths that nobody would write', () => {
  const component = fc.constantFrom(
    'a',
    'b',
    'c',
    '.',
    '..',
    '',
    '.wh.',
    '.wh.a',
    '.wh..',
    '.wh..wh..opq',
    '.wh..wh.x',
  );
  const path = fc.array(component, { minLength: 1, maxLength: 5 }).map((parts) => parts.join('/') as ByteString);
  const type = fc.constantFrom('file', 'directory', 'symlink', 'symlink', 'hardlink');
  const entry = fc.tuple(type, path, path).map(([kind, from, to]) => {
    const linkPath = kind === 'symlink' && to === '' ? ('/' as ByteString) : to;
    return entrySpec(from, { type: kind, linkPath });
  });

  it('mean what the specification says, or are refused', () => {
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 8 }), (entries) => {
        const layer = acceptedEntries(entries);
        expect(kindsOf(applied(layer))).toEqual(kindsOfModel(mergeModel([layer])));
        for (const refused of entries.filter((one) => !layer.includes(one))) {
          expect(isAccepted([...layer, refused])).toBe(isApplied([...layer, refused]));
        }
      }),
      { numRuns: runs(2000) },
    );
  });
});

/** The tree of entries that no tar writer would take. */
function applied(layer: readonly EntrySpec[]): LayerTree {
  const tree = new LayerTree();
  for (const { content, ...spec } of layer) {
    tree.apply({ ...spec, size: content.length, sparse: null, headerOffset: 0, dataOffset: 0, storedSize: 0 });
  }
  return tree;
}

function isApplied(layer: readonly EntrySpec[]): boolean {
  try {
    applied(layer);
    return true;
  } catch (thrown) {
    if (thrown instanceof LayerdError) return false;
    throw thrown;
  }
}

function kindsOf(tree: LayerTree): string[] {
  return [...walkMerged(mergeTrees([tree]), '' as ByteString)].map(([path, { node }]) => `${path}:${node.kind}`).sort();
}

function kindsOfModel(model: ReadonlyMap<ByteString, ModelNode>): string[] {
  return [...model].map(([path, { type }]) => `${path}:${type}`).sort();
}

function expectedAttributes(path: ByteString, node: ModelNode | undefined) {
  if (node === undefined) throw new Error(`the model has nothing at ${path}`);
  const { mode, uid, gid, mtime } = node;
  return { path, mode, uid, gid, mtime };
}
