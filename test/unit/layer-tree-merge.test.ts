import { describe, expect, it } from 'vitest';
import { bytesOf, type ByteString } from '../../src/core/bytes.js';
import type { LayerTree } from '../../src/content/layer-tree.js';
import { inheritedDirectories, mergeTrees, type MergedNode } from '../../src/content/merge.js';
import { entrySpec, layerTar, type EntrySpec } from '../model/spec.js';
import { treeOfTar } from '../model/tree.js';

/** An entry of each path; one that ends in / is a directory. `mode` tells whose attributes a node has. */
function layer(mode: number, ...paths: (string | EntrySpec)[]): LayerTree {
  const entries = paths.map((path) => {
    if (typeof path !== 'string') return path;
    return entrySpec(bytesOf(path), { mode, type: path.endsWith('/') ? 'directory' : 'file' });
  });
  return treeOfTar(layerTar(entries));
}

const link = (path: string, to: string) => entrySpec(bytesOf(path), { type: 'hardlink', linkPath: bytesOf(to) });

/** `path layer mode` of every node, with the count of names where there are several. */
function lines(node: MergedNode, path = ''): string[] {
  const links = node.links > 1 ? ` x${node.links}` : '';
  const line = `${path === '' ? '.' : path} ${node.layer} ${node.node.mode.toString(8)}${links}`;
  const children = [...(node.children ?? [])].sort(([a], [b]) => (a < b ? -1 : 1));
  return [line, ...children.flatMap(([name, child]) => lines(child, path === '' ? name : `${path}/${name}`))];
}

const inherited = (upper: LayerTree, ...below: LayerTree[]): string[] =>
  inheritedDirectories(upper, below).map(({ path, mode }) => `${path} ${mode.toString(8)}`);

describe('merged trees', () => {
  it('of no layer are an empty root', () => {
    expect(lines(mergeTrees([]))).toEqual(['. 0 755']);
  });

  it('take each node from the topmost layer that has it', () => {
    const merged = mergeTrees([layer(0o700, './', 'd/', 'd/a', 'd/b'), layer(0o711, 'd/', 'd/b', 'e')]);
    expect(lines(merged)).toEqual(['. 0 700', 'd 1 711', 'd/a 0 700', 'd/b 1 711', 'e 1 711']);
  });

  it('leave nothing of what a whiteout or an opaque directory hides', () => {
    const below = layer(0o700, 'd/', 'd/a', 'e/', 'e/f', 'x/y/z');
    const merged = mergeTrees([below, layer(0o711, '.wh.d', 'e/.wh..wh..opq', 'e/g', 'x/y', '.wh.nothing')]);
    expect(lines(merged)).toEqual(['. 0 755', 'e 0 700', 'e/g 1 711', 'x 0 755', 'x/y 1 711']);
    expect(lines(mergeTrees([below, layer(0o711, '.wh..wh..opq', 'n')]))).toEqual(['. 0 755', 'n 1 711']);
  });

  it('count the names that are left of an inode', () => {
    const below = layer(0o700, 'a', link('b', 'a'), link('d/c', 'a'), link('e/c', 'a'));
    expect(lines(mergeTrees([below]))).toContain('a 0 700 x4');
    expect(lines(mergeTrees([below, layer(0o711, 'b')]))).toContain('a 0 700 x3');
    expect(lines(mergeTrees([below, layer(0o711, '.wh.d', 'e/.wh..wh..opq')]))).toContain('a 0 700 x2');
    expect(lines(mergeTrees([below, layer(0o711, 'd', 'e', 'b')]))).toContain('a 0 700');
  });

  it('keep links of one layer apart from those of another', () => {
    const merged = mergeTrees([layer(0o700, 'a', link('b', 'a')), layer(0o711, 'b', link('c', 'b'))]);
    expect(lines(merged)).toEqual(['. 0 755', 'a 0 700', 'b 1 711 x2', 'c 1 711 x2']);
  });
});

describe('implied directories', () => {
  const upper = layer(0o711, 'd/e/f');

  it('take what the topmost layer says that lists them', () => {
    expect(inherited(upper, layer(0o700, 'd/'), layer(0o750, 'd/', 'd/e/'))).toEqual(['d 700', 'd/e 750']);
  });

  it('look through layers that imply them, too', () => {
    expect(inherited(upper, layer(0o700, 'd/e/x'), layer(0o750, 'd/', 'd/e/'))).toEqual(['d 750', 'd/e 750']);
  });

  it('are left out where they are new', () => {
    expect(inherited(upper)).toEqual([]);
    expect(inherited(upper, layer(0o700, 'x'), layer(0o700, 'd/x'))).toEqual([]);
  });

  it('take nothing from behind a whiteout, an opaque directory or something else', () => {
    const base = layer(0o750, 'd/', 'd/e/');
    expect(inherited(upper, layer(0o700, '.wh.d'), base)).toEqual([]);
    expect(inherited(upper, layer(0o700, '.wh..wh..opq'), base)).toEqual([]);
    expect(inherited(upper, layer(0o700, 'd'), base)).toEqual([]);
    expect(inherited(upper, layer(0o700, 'd/.wh.e'), base)).toEqual(['d 750']);
    expect(inherited(upper, layer(0o700, 'd/.wh..wh..opq'), base)).toEqual(['d 750']);
    expect(inherited(upper, layer(0o700, 'd/e/.wh..wh..opq'), base)).toEqual(['d 750', 'd/e 750']);
    expect(inherited(upper, layer(0o700, '.wh.d', 'd/e/x'), base)).toEqual([]);
  });

  it('take nothing through an opaque directory of their own layer', () => {
    const base = layer(0o750, 'd/', 'd/e/');
    expect(inherited(layer(0o711, 'd/.wh..wh..opq', 'd/e/f'), base)).toEqual(['d 750']);
    expect(inherited(layer(0o711, '.wh.d', 'd/e/f'), base)).toEqual([]);
    expect(inherited(layer(0o711, '.wh..wh..opq', 'd/e/f'), base)).toEqual([]);
  });

  it('come with all of their attributes', () => {
    const xattrs = new Map([[bytesOf('user.a'), Buffer.from('v')]]);
    const mtime = { sec: 5, nsec: 6 };
    const listed = entrySpec('d/' as ByteString, { type: 'directory', mode: 0o2755, uid: 7, gid: 8, mtime, xattrs });
    expect(inheritedDirectories(layer(0, 'd/f'), [layer(0, listed)])).toEqual([
      { path: 'd', mode: 0o2755, uid: 7, gid: 8, mtime, xattrs },
    ]);
  });
});
