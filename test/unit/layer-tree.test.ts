import { describe, expect, it } from 'vitest';
import { bytesOf, type ByteString } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import { LayerTree, walkLayer, type LayerNode, type LayerStep } from '../../src/content/layer-tree.js';
import type { TarEntry, TarEntryType } from '../../src/tar/entry.js';

const NAME_OF_255 = 'n'.repeat(255);

/** An entry with plain attributes; `path` as it would stand in the header. */
function entry(type: TarEntryType, path: string, more: Partial<TarEntry> & { to?: string } = {}): TarEntry {
  const { to, ...rest } = more;
  return {
    type,
    path: bytesOf(path),
    linkPath: bytesOf(to ?? ''),
    mode: type === 'directory' ? 0o750 : 0o640,
    uid: 1,
    gid: 2,
    size: 0,
    mtime: { sec: 100, nsec: 7 },
    devMajor: 0,
    devMinor: 0,
    xattrs: null,
    sparse: null,
    headerOffset: 0,
    dataOffset: 512,
    storedSize: 0,
    ...rest,
  };
}

const file = (path: string, more: Partial<TarEntry> = {}) => entry('file', path, more);
const dir = (path: string, more: Partial<TarEntry> = {}) => entry('directory', path, more);
const symlink = (path: string, to: string) => entry('symlink', path, { to });
const link = (path: string, to: string) => entry('hardlink', path, { to });

const deep = (levels: number) => `${'d/'.repeat(levels)}f`;
const chain = (length: number) => Array.from({ length }, (_, i) => symlink(`l${i}`, i === 0 ? 'd' : `l${i - 1}`));

function treeOf(...entries: TarEntry[]): LayerTree {
  const tree = new LayerTree();
  for (const each of entries) tree.apply(each);
  return tree;
}

function lastStep(...entries: TarEntry[]): LayerStep {
  const tree = new LayerTree();
  const steps = entries.map((each) => tree.apply(each));
  const last = steps.at(-1);
  if (last === undefined) throw new Error('no entries');
  return last;
}

/** `path:kind` of every node, with `!` where opaque and `?` where implied. */
function shape(tree: LayerTree): string[] {
  return [...walkLayer(tree.root)].map(([path, node]) => {
    const marks = (node.opaque ? '!' : '') + (node.implied ? '?' : '');
    return `${path}:${node.kind}${marks}`;
  });
}

function nodeAt(tree: LayerTree, path: string): LayerNode {
  const found = tree.lookup(bytesOf(path));
  if (found === undefined) throw new Error(`nothing at ${path}`);
  return found;
}

function codeOf(...entries: TarEntry[]): string {
  try {
    treeOf(...entries);
  } catch (thrown) {
    if (thrown instanceof LayerdError) return thrown.code;
    throw thrown;
  }
  return 'accepted';
}

describe('paths', () => {
  it.each(['a/b', '/a/b', './a/b', '//a//b', 'a/./b', 'a/x/../b', 'x/../a/b', './/a/b/'])('%s is a/b', (path) => {
    expect(lastStep(dir('a'), file(path)).path).toBe('a/b');
  });

  it.each(['..', '../a', 'a/../../b', '/..', './../a', '/../a'])('%s leaves the layer', (path) => {
    expect(codeOf(file(path))).toBe('TAR_UNSAFE_PATH');
  });

  it('keeps bytes that are not UTF-8 apart', () => {
    const tree = treeOf(
      file('a'),
      { ...file(''), path: '\xff' as ByteString },
      { ...file(''), path: '\xfe' as ByteString },
    );
    expect([...(tree.root.children?.keys() ?? [])]).toEqual(['a', '\xff', '\xfe']);
  });

  it('allows names of 255 bytes and paths beyond 4096', () => {
    const long = Array.from({ length: 20 }, () => NAME_OF_255).join('/');
    expect(lastStep(file(long)).path).toBe(long);
    expect(codeOf(file(`${NAME_OF_255}n`))).toBe('NAME_UNSUPPORTED');
    expect(codeOf(file(`${NAME_OF_255}n/a`))).toBe('NAME_UNSUPPORTED');
  });

  it('refuses empty names and NUL bytes', () => {
    expect(codeOf(file(''))).toBe('TAR_INVALID');
    expect(codeOf(file('a\0b'))).toBe('TAR_INVALID');
    expect(codeOf(file('a'), link('b', ''))).toBe('TAR_INVALID');
  });

  it('refuses ways that are too deep to walk', () => {
    expect(codeOf(file(deep(2000)))).toBe('accepted');
    expect(codeOf(file(deep(2001)))).toBe('LAYER_LIMIT');
  });

  it('names the entry, its bytes shown, in the message and the details', () => {
    const path = '../\xff' as ByteString;
    expect(() => treeOf({ ...file(''), path })).toThrow(
      expect.objectContaining({ message: expect.stringContaining('"../\\xff"'), details: { entry: '../\\xff' } }),
    );
  });
});

describe('the root', () => {
  it('is implied until it is listed', () => {
    expect(treeOf(file('a')).root).toMatchObject({ implied: true, mode: 0o755, entry: -1 });
    expect(lastStep(file('a'), dir('./', { mode: 0o1777 }))).toMatchObject({ action: 'attributes', path: '' });
    expect(treeOf(file('a'), dir('./', { mode: 0o1777 })).root).toMatchObject({
      implied: false,
      mode: 0o1777,
      entry: 1,
    });
  });

  it('is a directory', () => {
    expect(codeOf(file('/'))).toBe('TAR_INVALID');
    expect(codeOf(symlink('.', 'a'))).toBe('TAR_INVALID');
  });

  it('is opaque by its marker', () => {
    expect(treeOf(file('a')).opaqueRoot).toBe(false);
    expect(treeOf(file('a'), file('.wh..wh..opq')).opaqueRoot).toBe(true);
    expect(lastStep(file('./.wh..wh..opq'))).toMatchObject({ action: 'opaque', path: '' });
  });
});

describe('nodes', () => {
  it('keep what the header says', () => {
    const xattrs = new Map([[bytesOf('user.a'), Buffer.from('v')]]);
    const sparse = [{ offset: 4096, length: 512 }];
    const made = nodeAt(
      treeOf(file('a'), file('b', { mode: 0o4755, size: 8192, storedSize: 512, dataOffset: 1536, xattrs, sparse })),
      'b',
    );
    expect(made).toMatchObject({
      kind: 'file',
      mode: 0o4755,
      uid: 1,
      gid: 2,
      mtime: { sec: 100, nsec: 7 },
      size: 8192,
      storedSize: 512,
      dataOffset: 1536,
      entry: 1,
      links: 1,
      implied: false,
      sparse,
      xattrs,
    });
  });

  it('have device numbers, link targets and fifos', () => {
    const tree = treeOf(
      entry('char', 'c', { devMajor: 5, devMinor: 1 }),
      entry('block', 'b', { devMajor: 8, devMinor: 0 }),
      entry('fifo', 'p'),
      symlink('l', '../../x'),
    );
    expect(nodeAt(tree, 'c')).toMatchObject({ kind: 'char', devMajor: 5, devMinor: 1 });
    expect(nodeAt(tree, 'b')).toMatchObject({ kind: 'block', devMajor: 8, devMinor: 0 });
    expect(nodeAt(tree, 'p').kind).toBe('fifo');
    expect(nodeAt(tree, 'l')).toMatchObject({ kind: 'symlink', linkTarget: '../../x', mode: 0o777 });
  });

  it('never have what is private to overlay', () => {
    const value = Buffer.from('y');
    const names = ['trusted.overlay.opaque', 'user.overlay.redirect', 'user.overlay', 'trusted.overlayx', 'user.z'];
    const xattrs = new Map(names.map((name) => [bytesOf(name), value]));
    const made = nodeAt(treeOf(dir('d', { xattrs })), 'd');
    expect([...(made.xattrs?.keys() ?? [])]).toEqual(['user.overlay', 'trusted.overlayx', 'user.z']);
    expect(made.opaque).toBe(false);
    const only = new Map([[bytesOf('trusted.overlay.opaque'), value]]);
    expect(nodeAt(treeOf(dir('d', { xattrs: only })), 'd').xattrs).toBeNull();
  });

  it('are a file that nobody may read in the place of a character device 0/0', () => {
    const made = nodeAt(treeOf(entry('char', 'w', { mode: 0o666 })), 'w');
    expect(made).toMatchObject({ kind: 'file', mode: 0, size: 0, standIn: true });
    expect(nodeAt(treeOf(entry('block', 'w')), 'w')).toMatchObject({ kind: 'block', standIn: false });
    expect(nodeAt(treeOf(entry('char', 'w', { devMinor: 1 })), 'w').kind).toBe('char');
  });

  it('refuse link targets that Linux cannot hold', () => {
    expect(codeOf(symlink('l', ''))).toBe('TAR_INVALID');
    expect(codeOf(symlink('l', 'a\0'))).toBe('TAR_INVALID');
    expect(codeOf(symlink('l', 'a'.repeat(4095)))).toBe('accepted');
    expect(codeOf(symlink('l', 'a'.repeat(4096)))).toBe('NAME_UNSUPPORTED');
  });
});

describe('parents', () => {
  it('that are missing are implied, topmost first', () => {
    const made = lastStep(file('a/b/c'));
    expect(made.implied.map(({ path }) => path)).toEqual(['a', 'a/b']);
    expect(made.implied[0]?.node).toMatchObject({ implied: true, mode: 0o755, uid: 0, mtime: { sec: 0 }, entry: -1 });
    expect(lastStep(file('a/b/c'), file('a/b/d')).implied).toEqual([]);
  });

  it('are not implied any more when they are listed later', () => {
    const tree = treeOf(file('a/b/c'), dir('a/b'));
    expect(tree.implied()).toEqual(['a']);
    expect(nodeAt(tree, 'a/b')).toMatchObject({ implied: false, mode: 0o750, entry: 1 });
    expect(shape(tree)).toEqual(['a:directory?', 'a/b:directory', 'a/b/c:file']);
  });

  it('may be symbolic links of the same layer', () => {
    expect(lastStep(symlink('lib', 'usr/lib'), file('lib/x'))).toMatchObject({
      path: 'usr/lib/x',
      implied: [{ path: 'usr' }, { path: 'usr/lib' }],
    });
    expect(lastStep(dir('usr/lib'), symlink('lib', '/usr/lib'), file('lib/x')).path).toBe('usr/lib/x');
    expect(lastStep(dir('a/b'), symlink('a/b/up', '../../t'), file('a/b/up/x')).path).toBe('t/x');
    expect(lastStep(symlink('l', 'm'), symlink('m', 'n'), dir('n'), file('l/x')).path).toBe('n/x');
  });

  it('are anchored at the root of the layer', () => {
    expect(lastStep(symlink('l', '../../../etc'), file('l/x')).path).toBe('etc/x');
    expect(lastStep(symlink('l', '/../../etc'), file('l/x')).path).toBe('etc/x');
  });

  it('may not lead in circles', () => {
    expect(codeOf(symlink('a', 'b'), symlink('b', 'a'), file('a/x'))).toBe('TAR_UNSAFE_PATH');
    expect(codeOf(symlink('a', 'a/a'), file('a/x'))).toBe('TAR_UNSAFE_PATH');
  });

  it('may be 40 links away, not 41', () => {
    expect(codeOf(dir('d'), ...chain(40), file('l39/x'))).toBe('accepted');
    expect(codeOf(dir('d'), ...chain(41), file('l40/x'))).toBe('TAR_UNSAFE_PATH');
  });

  it('must be directories', () => {
    expect(codeOf(file('a'), file('a/b'))).toBe('TAR_INVALID');
    expect(codeOf(file('a'), symlink('l', 'a'), file('l/b'))).toBe('TAR_INVALID');
    expect(codeOf(entry('fifo', 'a'), file('a/.wh.b'))).toBe('TAR_INVALID');
  });

  it('may not have a name that stands for a whiteout', () => {
    expect(codeOf(file('.wh.a/b'))).toBe('TAR_INVALID');
    expect(codeOf(symlink('l', '.wh.a'), file('l/b'))).toBe('TAR_INVALID');
    expect(codeOf(symlink('l', 'n'.repeat(256)), file('l/b'))).toBe('NAME_UNSUPPORTED');
  });
});

describe('a name that comes twice', () => {
  it('is the last one', () => {
    const last = lastStep(file('a', { uid: 5 }), file('a', { uid: 6 }));
    expect(last).toMatchObject({ action: 'create', node: { uid: 6, entry: 1 }, replaced: { uid: 5, links: 0 } });
  });

  it('keeps the content of a directory over a directory', () => {
    const tree = treeOf(dir('d', { uid: 5 }), file('d/f'), dir('d', { uid: 6 }));
    expect(shape(tree)).toEqual(['d:directory', 'd/f:file']);
    expect(nodeAt(tree, 'd').uid).toBe(6);
    expect(lastStep(dir('d'), dir('d'))).toMatchObject({ action: 'attributes', replaced: null });
  });

  it('removes a directory with all below it for anything else', () => {
    const tree = treeOf(dir('d'), file('d/e/f'), file('keep'), link('d/e/k', 'keep'), symlink('d', 'x'));
    expect(shape(tree)).toEqual(['d:symlink', 'keep:file']);
    expect(nodeAt(tree, 'keep').links).toBe(1);
  });

  it('leaves nothing of the earlier directory, its opacity neither', () => {
    expect(shape(treeOf(file('d/.wh..wh..opq'), file('d/.wh.x'), file('d'), dir('d')))).toEqual(['d:directory']);
  });

  it('replaces a symbolic link by a directory, not what it points to', () => {
    const tree = treeOf(dir('t'), symlink('l', 't'), dir('l'), file('l/x'));
    expect(shape(tree)).toEqual(['l:directory', 'l/x:file', 't:directory']);
  });
});

describe('whiteouts', () => {
  it('hide a name of the layers below', () => {
    const made = lastStep(dir('d'), file('d/.wh.x'));
    expect(made).toMatchObject({ action: 'whiteout', path: 'd/x', node: { kind: 'whiteout' }, replaced: null });
    expect(lastStep(file('d/.wh.x')).implied).toMatchObject([{ path: 'd' }]);
  });

  it('are known by their name, whatever the type', () => {
    expect(lastStep(link('.wh.x', '.wh..wh.aufs')).action).toBe('whiteout');
    expect(lastStep(dir('.wh.x')).action).toBe('whiteout');
  });

  it('hide names of any length', () => {
    expect(lastStep(file(`.wh.${NAME_OF_255}`)).path).toBe(NAME_OF_255);
    expect(codeOf(file(`.wh.${NAME_OF_255}n`))).toBe('NAME_UNSUPPORTED');
  });

  it('leave a file of the same layer alone, in either order', () => {
    expect(shape(treeOf(file('x'), file('.wh.x')))).toEqual(['x:file']);
    expect(shape(treeOf(file('.wh.x'), file('x')))).toEqual(['x:file']);
    expect(lastStep(file('x'), file('.wh.x'))).toMatchObject({ action: 'ignore', node: null });
    expect(lastStep(file('.wh.x'), file('x')).replaced).toMatchObject({ kind: 'whiteout' });
  });

  it('make a directory of the same layer opaque, in either order', () => {
    expect(shape(treeOf(dir('x'), file('.wh.x')))).toEqual(['x:directory!']);
    expect(shape(treeOf(file('.wh.x'), dir('x')))).toEqual(['x:directory!']);
    expect(lastStep(dir('x'), file('.wh.x'))).toMatchObject({
      action: 'opaque',
      path: 'x',
      node: { kind: 'directory' },
    });
  });

  it('make an implied directory opaque, which then inherits nothing', () => {
    for (const entries of [
      [file('x/f'), file('.wh.x')],
      [file('.wh.x'), file('x/f')],
    ]) {
      const tree = treeOf(...entries);
      expect(shape(tree)).toEqual(['x:directory!', 'x/f:file']);
      expect(tree.implied()).toEqual([]);
    }
    expect(lastStep(file('.wh.x'), file('x/f')).implied).toMatchObject([
      { path: 'x', replaced: { kind: 'whiteout', links: 0 } },
    ]);
  });

  it('stay in force when their name is replaced again', () => {
    expect(shape(treeOf(file('.wh.x'), file('x'), dir('x')))).toEqual(['x:directory!']);
    expect(shape(treeOf(file('x'), file('.wh.x'), dir('x')))).toEqual(['x:directory!']);
  });

  it('go with the directory they lie in', () => {
    expect(shape(treeOf(file('d/.wh.x'), symlink('d', 'y'), dir('d'), dir('d/x')))).toEqual([
      'd:directory',
      'd/x:directory',
    ]);
  });

  it('twice are one', () => {
    expect(lastStep(file('.wh.x'), file('.wh.x')).action).toBe('ignore');
    expect(shape(treeOf(file('.wh.x'), file('.wh.x')))).toEqual(['x:whiteout']);
  });

  it('of nothing are refused', () => {
    expect(codeOf(file('.wh.'))).toBe('TAR_INVALID');
    expect(codeOf(file('a/.wh..'))).toBe('TAR_INVALID');
    expect(codeOf(file('a/.wh...'))).toBe('TAR_INVALID');
    expect(codeOf(file('a/.wh....'))).toBe('accepted');
  });

  it('are no target of links and no parents', () => {
    expect(codeOf(file('.wh.x'), link('y', 'x'))).toBe('TAR_INVALID');
    expect(shape(treeOf(file('.wh.x'), file('x/y/z')))).toEqual(['x:directory!', 'x/y:directory?', 'x/y/z:file']);
  });
});

describe('opaque markers', () => {
  it('count wherever they stand', () => {
    const expected = ['d:directory!', 'd/a:file', 'd/b:file'];
    expect(shape(treeOf(dir('d'), file('d/.wh..wh..opq'), file('d/a'), file('d/b')))).toEqual(expected);
    expect(shape(treeOf(dir('d'), file('d/a'), file('d/.wh..wh..opq'), file('d/b')))).toEqual(expected);
    expect(shape(treeOf(dir('d'), file('d/a'), file('d/b'), file('d/.wh..wh..opq')))).toEqual(expected);
    expect(shape(treeOf(file('d/.wh..wh..opq'), dir('d'), file('d/a'), file('d/b')))).toEqual(expected);
  });

  it('imply their directory, which inherits its attributes all the same', () => {
    const tree = treeOf(file('d/.wh..wh..opq'));
    expect(shape(tree)).toEqual(['d:directory!?']);
    expect(tree.implied()).toEqual(['d']);
  });
});

describe('other reserved names', () => {
  it.each(['.wh..wh.plnk', '.wh..wh.aufs', 'd/.wh..wh.orph', '.wh..wh.plnk/12.34', '.wh..wh.plnk/a/b'])(
    '%s is kept for export only',
    (path) => {
      const tree = new LayerTree();
      expect(tree.apply(file(path))).toMatchObject({ action: 'ignore', path, node: null, implied: [] });
      expect(shape(tree)).toEqual([]);
    },
  );
});

describe('hard links', () => {
  it('are one node under two names', () => {
    const tree = treeOf(file('a'), link('d/b', './a'));
    expect(nodeAt(tree, 'd/b')).toBe(nodeAt(tree, 'a'));
    expect(nodeAt(tree, 'a').links).toBe(2);
    expect(lastStep(file('a'), link('d/b', '/a'))).toMatchObject({ action: 'link', path: 'd/b', linkTo: 'a' });
  });

  it('take nothing of their own header', () => {
    expect(nodeAt(treeOf(file('a', { uid: 5 }), { ...link('b', 'a'), uid: 6 }), 'b').uid).toBe(5);
  });

  it('keep the first inode when the target is replaced later', () => {
    const tree = treeOf(file('a', { uid: 5 }), link('b', 'a'), file('a', { uid: 6 }));
    expect(nodeAt(tree, 'b')).toMatchObject({ uid: 5, links: 1 });
    expect(nodeAt(tree, 'a')).toMatchObject({ uid: 6, links: 1 });
  });

  it('may name any kind but a directory', () => {
    const tree = treeOf(symlink('s', 'nowhere'), link('t', 's'), entry('fifo', 'p'), link('q', 'p'));
    expect(nodeAt(tree, 't')).toMatchObject({ kind: 'symlink', links: 2 });
    expect(nodeAt(tree, 'q')).toMatchObject({ kind: 'fifo', links: 2 });
    expect(codeOf(dir('d'), link('e', 'd'))).toBe('TAR_INVALID');
    expect(codeOf(link('e', '/'))).toBe('TAR_INVALID');
  });

  it('follow the links on the way to their target, not the target itself', () => {
    const tree = treeOf(
      dir('d'),
      file('d/f'),
      symlink('l', 'd'),
      symlink('d/s', 'f'),
      link('x', 'l/f'),
      link('y', 'l/s'),
    );
    expect(nodeAt(tree, 'x')).toBe(nodeAt(tree, 'd/f'));
    expect(nodeAt(tree, 'y').kind).toBe('symlink');
  });

  it('need a target that came before, in this layer', () => {
    expect(codeOf(link('b', 'a'))).toBe('TAR_INVALID');
    expect(codeOf(link('b', 'a'), file('a'))).toBe('TAR_INVALID');
    expect(codeOf(link('b', 'd/a'))).toBe('TAR_INVALID');
    expect(codeOf(file('a'), link('b', '../a'))).toBe('TAR_UNSAFE_PATH');
  });

  it('never point to themselves or into what they replace', () => {
    expect(codeOf(file('a'), link('a', 'a'))).toBe('TAR_INVALID');
    expect(codeOf(file('d/a'), symlink('l', 'd'), link('l/a', 'd/a'))).toBe('TAR_INVALID');
    expect(codeOf(file('d/a'), link('d', 'd/a'))).toBe('TAR_INVALID');
    expect(codeOf(file('d/a'), link('da', 'd/a'))).toBe('accepted');
  });

  it('over another name of the same inode change nothing', () => {
    const tree = treeOf(file('a'), link('b', 'a'), link('b', 'a'));
    expect(nodeAt(tree, 'b').links).toBe(2);
  });

  it('replace what stood there', () => {
    const tree = treeOf(file('a'), file('d/x'), link('d', 'a'));
    expect(shape(tree)).toEqual(['a:file', 'd:file']);
    expect(lastStep(file('a'), file('.wh.b'), link('b', 'a')).replaced?.kind).toBe('whiteout');
  });
});

describe('limits', () => {
  const small = { maxEntries: 3 };

  it('count the entries', () => {
    const tree = new LayerTree(small);
    for (const path of ['a', 'b', 'c']) tree.apply(file(path));
    expect(tree.entries).toBe(3);
    expect(() => tree.apply(file('d'))).toThrow(
      expect.objectContaining({ code: 'LAYER_LIMIT', details: { entry: 'd' } }),
    );
  });

  it('count the directories that are implied', () => {
    expect(() => new LayerTree(small).apply(file('a/b'))).not.toThrow();
    expect(() => new LayerTree(small).apply(file('a/b/c/d'))).toThrow(expect.objectContaining({ code: 'LAYER_LIMIT' }));
  });

  it('bound the way through symbolic links', () => {
    const target = `${'./'.repeat(2000)}l1`;
    const links = Array.from({ length: 30 }, (_, i) => symlink(`l${i}`, target.replace('l1', `l${i + 1}`)));
    expect(codeOf(...links, file('l0/x'))).toBe('TAR_UNSAFE_PATH');
  });
});

describe('walkLayer', () => {
  it('gives parents first, names in byte order', () => {
    const tree = treeOf(file('b'), file('a/z'), file('a-b'), file('a/b'), { ...file(''), path: '\xff' as ByteString });
    expect([...walkLayer(tree.root)].map(([path]) => path)).toEqual(['a', 'a/b', 'a/z', 'a-b', 'b', '\xff']);
  });
});
