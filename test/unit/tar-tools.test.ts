/** Archives of real tools read by the scanner, and archives of the writer read by real tools. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import type { ByteString } from '../../src/core/bytes.js';
import { bytesOf } from '../../src/core/bytes.js';
import { encodeEntry, endOfArchive, padding } from '../../src/tar/writer.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { entryToWrite, scan, type Scanned } from './tar-kit.js';
import {
  comparable,
  expanded,
  factsOfArchive,
  factsOfTree,
  makeSparseTree,
  makeTree,
  scratch,
  type Blind,
  type TreeFeature,
} from './tar-tree.js';

const GNU_TAR = needsProgram('tar');
const BSDTAR = needsProgram('bsdtar', 'libarchive-tools');
const PYTHON = needsProgram('python3');
const ROOT = needsRoot();

/** UTF-8 locale: libarchive translates names otherwise. */
const env = { ...process.env, LC_ALL: 'C.UTF-8' };

function run(program: string, args: string[]): void {
  execFileSync(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Packs `tree` by a tool, and scans what it wrote, in one chunk and in odd ones. */
function pack(tree: ByteString, tar: string, program: string, args: string[]): Scanned {
  run(program, [...args, tar, '-C', tree, '.']);
  return scanFile(tar);
}

function scanFile(tar: string): Scanned {
  const bytes = readFileSync(tar);
  const scanned = scan(bytes);
  expect(scanned.all.equals(bytes)).toBe(true);
  expect(scanned.summary.endMarker).toBe(true);
  const chunked = scan(bytes, [1000, 511, 1, 77_777]);
  expect(chunked.entries).toEqual(scanned.entries);
  expect(chunked.payloads.every((payload, i) => payload.equals(scanned.payloads[i] ?? payload))).toBe(true);
  expect(chunked.all.equals(bytes)).toBe(true);
  return scanned;
}

function expectSame(scanned: Scanned, tree: ByteString, blind: Blind): void {
  expect(comparable(factsOfArchive(scanned), blind)).toEqual(comparable(factsOfTree(tree), blind));
}

const SECONDS: Blind = { nanoseconds: true, xattrs: true };

describeWith('archives of GNU tar', [ROOT, GNU_TAR], () => {
  const directory = scratch();

  it.each<[string, Blind, TreeFeature[]]>([
    ['v7', SECONDS, []],
    ['ustar', SECONDS, ['nodes']],
    ['oldgnu', SECONDS, ['nodes', 'long']],
    ['gnu', SECONDS, ['nodes', 'long']],
    ['posix', {}, ['nodes', 'long', 'xattrs']],
  ])('of the format %s say what lies on disk', (format, blind, features) => {
    const tree = directory();
    makeTree(tree, ...features);
    const xattrs = format === 'posix' ? ['--xattrs', '--xattrs-include=*'] : [];
    const scanned = pack(tree, `${directory()}/tar`, 'tar', [...xattrs, `--format=${format}`, '-cf']);
    expectSame(scanned, tree, blind);
  });

  it.each([
    ['oldgnu', []],
    ['gnu', []],
    ['posix', ['--sparse-version=0.0']],
    ['posix', ['--sparse-version=0.1']],
    ['posix', ['--sparse-version=1.0']],
  ])('of sparse files in the format %s %j say what lies on disk, and store no hole', (format, more) => {
    const tree = directory();
    makeSparseTree(tree);
    const scanned = pack(tree, `${directory()}/tar`, 'tar', ['--sparse', `--format=${format}`, ...more, '-cf']);
    expectSame(scanned, tree, format === 'posix' ? {} : SECONDS);
    const sparse = scanned.entries.filter((entry) => entry.sparse !== null);
    expect(sparse.length).toBe(6);
    expect(sparse.reduce((sum, { storedSize }) => sum + storedSize, 0)).toBeLessThan(80 * 4096);
    expect(sparse.some((entry) => entry.sparse?.length === 70)).toBe(true);
  });

  it('with a global header and a label of its own are read past the one and refused for the other', () => {
    const tree = directory();
    makeTree(tree);
    const tar = `${directory()}/tar`;
    const options = ['--format=posix', '--pax-option=globexthdr.name=global,comment=hello', '-cf'];
    expectSame(pack(tree, tar, 'tar', options), tree, {});
    run('tar', ['--format=gnu', '-V', 'label', '-cf', tar, '-C', tree, '.']);
    expect(() => scanFile(tar)).toThrow(/tar entry 1 \(label\) at offset 0: the type flag "V"/);
  });
});

describeWith('archives of bsdtar', [ROOT, BSDTAR], () => {
  const directory = scratch();

  it.each<[string, Blind, TreeFeature[]]>([
    ['v7tar', SECONDS, []],
    ['ustar', SECONDS, ['nodes']],
    ['gnutar', SECONDS, ['nodes', 'long']],
    ['pax', {}, ['nodes', 'long', 'xattrs']],
  ])('of the format %s say what lies on disk', (format, blind, features) => {
    const tree = directory();
    makeTree(tree, ...features);
    expectSame(pack(tree, `${directory()}/tar`, 'bsdtar', ['--format', format, '-cf']), tree, blind);
  });

  it('of sparse files say what lies on disk', () => {
    const tree = directory();
    makeSparseTree(tree);
    const scanned = pack(tree, `${directory()}/tar`, 'bsdtar', ['--format', 'pax', '-cf']);
    expectSame(scanned, tree, {});
    expect(scanned.entries.filter((entry) => entry.sparse !== null).length).toBe(6);
  });
});

const PYTHON_PACK = `
import sys, tarfile
tar = tarfile.open(sys.argv[2], 'w', format=getattr(tarfile, sys.argv[1]), encoding='utf-8', errors='surrogateescape')
tar.add(sys.argv[3], '.')
tar.close()
`;

const PYTHON_UNPACK = `
import sys, tarfile
tar = tarfile.open(sys.argv[1], 'r', encoding='utf-8', errors='surrogateescape', errorlevel=2)
trusted = {'filter': 'fully_trusted'} if hasattr(tarfile, 'fully_trusted_filter') else {}
tar.extractall(sys.argv[2], numeric_owner=True, **trusted)
`;

describeWith('archives of Python', [ROOT, PYTHON], () => {
  const directory = scratch();

  it.each<[string, TreeFeature[]]>([
    ['USTAR_FORMAT', ['nodes']],
    ['GNU_FORMAT', ['nodes', 'long']],
    ['PAX_FORMAT', ['nodes', 'long']],
  ])('of the format %s say what lies on disk', (format, features) => {
    const tree = directory();
    makeTree(tree, ...features);
    const tar = `${directory()}/tar`;
    run('python3', ['-c', PYTHON_PACK, format, tar, tree]);
    // it keeps times as floating-point numbers
    expectSame(scanFile(tar), tree, SECONDS);
  });
});

/** A whole tree as an archive of our writer, by way of one of GNU tar. */
function writeTree(tree: ByteString, target: string): void {
  const { entries, payloads } = pack(tree, `${target}.gnu`, 'tar', [
    '--xattrs',
    '--xattrs-include=*',
    '--format=posix',
    '--sparse',
    '-cf',
  ]);
  const parts = entries.flatMap((entry, i) => {
    const content = expanded(entry, payloads[i] ?? Buffer.alloc(0));
    return [encodeEntry(entry), content, Buffer.alloc(padding(content.length))];
  });
  writeFileSync(target, Buffer.concat([...parts, endOfArchive()]));
}

describeWith('archives of the writer', [ROOT, GNU_TAR, BSDTAR, PYTHON], () => {
  const directory = scratch();

  it.each<[string, Blind, (tar: string, into: string) => void]>([
    [
      'GNU tar',
      {},
      (tar, into) => run('tar', ['--xattrs', '--xattrs-include=*', '--numeric-owner', '-xpf', tar, '-C', into]),
    ],
    ['bsdtar', { root: true }, (tar, into) => run('bsdtar', ['--xattrs', '--numeric-owner', '-xpf', tar, '-C', into])],
    ['Python', { ...SECONDS, symlinkTimes: true }, (tar, into) => run('python3', ['-c', PYTHON_UNPACK, tar, into])],
  ])('are unpacked by %s to what was packed', (_, blind, unpack) => {
    const tree = directory();
    makeTree(tree, 'nodes', 'long', 'xattrs');
    const tar = `${directory()}/tar`;
    writeTree(tree, tar);
    expectSame(scanFile(tar), tree, {});
    const into = directory();
    unpack(tar, into);
    expect(comparable(factsOfTree(into), blind)).toEqual(comparable(factsOfTree(tree), blind));
  });

  it('carry attributes with a "=" in their name to bsdtar', () => {
    const tar = `${directory()}/tar`;
    const xattrs = new Map([[bytesOf('user.a=b%c'), Buffer.from([0, 1, 2, 255])]]);
    writeFileSync(tar, Buffer.concat([encodeEntry(entryToWrite({ xattrs })), endOfArchive()]));
    const into = directory();
    run('bsdtar', ['--xattrs', '-xpf', tar, '-C', into]);
    expect(factsOfTree(into).get('file')?.xattrs).toEqual({ 'user.a=b%c': '000102ff' });
  });

  it('hold sparse files written out', () => {
    const tree = directory();
    makeSparseTree(tree);
    const tar = `${directory()}/tar`;
    writeTree(tree, tar);
    const into = directory();
    run('tar', ['-xpf', tar, '-C', into]);
    expect(comparable(factsOfTree(into))).toEqual(comparable(factsOfTree(tree)));
  });
});
