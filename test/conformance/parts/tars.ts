/** Tars as programs write them, and as none should: kept bit for bit, shown as they mean. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { mergeModel } from '../../model/merge-model.js';
import { endOfArchive } from '../../../src/tar/writer.js';
import { describeTree } from '../../reference/tree.js';
import { dir, file, symlink, whiteout, xattrs } from '../entries.js';
import { listModel } from '../listing.js';
import { collect, tarOf, type Rig } from '../rig.js';
import type { UseRig } from '../suite.js';
import { expectEqualTrees } from './stacks.js';

const CONTENT = [dir('d'), file('d/a', 'content of a'), file('b', 'b'.repeat(1000))];
const WHOLE = tarOf(CONTENT);
const WITHOUT_END = WHOLE.subarray(0, WHOLE.length - endOfArchive().length);

/** The same content, written oddly. */
const ODD: Record<string, Buffer> = {
  'without an end': WITHOUT_END,
  'with one block of zeros at its end': Buffer.concat([WITHOUT_END, Buffer.alloc(512)]),
  'filled up to a record of 10 KiB': Buffer.concat([WHOLE, Buffer.alloc(10_240 - (WHOLE.length % 10_240))]),
  'with garbage behind its end': Buffer.concat([WHOLE, Buffer.from('not a tar, of no round length')]),
  'with another tar behind its end': Buffer.concat([WHOLE, tarOf([file('unseen')])]),
};

async function expectBitExact(rig: Rig, tar: Buffer) {
  const stack = await rig.stack([tar]);
  for (const layer of stack.layers) {
    expect((await collect(rig.driver.layers.tar(layer))).equals(tar)).toBe(true);
    expect(await rig.driver.layers.verify(layer, { quick: false })).toEqual([]);
  }
  return stack;
}

/** A tree with sparse files, made by the shell; holes at the beginning, in the middle, at the end, and nothing else. */
function makeSparse(directory: string): void {
  mkdirSync(directory);
  const script = `truncate -s 16M hole
    printf begin > end; truncate -s 3M end
    truncate -s 3M begin; printf end | dd of=begin bs=1 seek=3145725 conv=notrunc status=none
    for i in 1 2 3 4 5 6 7 8 9 10 11 12; do printf "part $i" | dd of=many bs=1 seek=$((i * 300000)) conv=notrunc status=none; done
    echo dense > dense; ln many linked; touch -d @1200000000.5 *`;
  execFileSync('sh', ['-euc', script], { cwd: directory });
}

export function sparsePart(rig: UseRig): void {
  describe('keeps bit for bit', () => {
    it.each(['gnu', 'posix --sparse-version=0.0', 'posix --sparse-version=0.1', 'posix --sparse-version=1.0'])(
      'sparse files of GNU tar (%s), which stay sparse',
      async (format) => {
        const source = rig().file('source');
        makeSparse(source);
        const options = ['--sparse', ...`--format=${format}`.split(' '), '--xattrs', '--numeric-owner'];
        const tar = execFileSync('tar', ['-c', ...options, '-C', source, '.']);
        const stack = await expectBitExact(rig(), tar);
        const view = await rig().view(stack);
        expectEqualTrees(await view.exported(), await describeTree(source));
        expectEqualTrees(await view.tree(), await describeTree(source));
        const twice = rig().file('twice.tar');
        execFileSync('tar', ['-c', '-f', twice, ...options, '-C', source, './many', './hole']);
        execFileSync('tar', ['-r', '-f', twice, ...options, '-C', source, '.']);
        await expectBitExact(rig(), readFileSync(twice));
        const { snapshots } = rig().driver;
        rig().writeBack();
        expect(snapshots.usage(view.spec).bytes).toBeLessThan(2 * 1024 * 1024);
        expect(stack.layers[0]?.ingested.facts.disk).toBeLessThan(2 * 1024 * 1024);
      },
    );
  });
}

export function tarsPart(rig: UseRig): void {
  describe('keeps bit for bit', () => {
    it.each(Object.entries(ODD))('a tar %s', async (_, tar) => {
      const stack = await expectBitExact(rig(), tar);
      expectEqualTrees(await (await rig().view(stack)).tree(), listModel(mergeModel([CONTENT])));
    });

    it('the payload of entries that make no file', async () => {
      const marked = file('.wh.gone');
      const tar = tarOf([
        { ...marked, content: Buffer.from('payload of a whiteout') },
        file('.wh..wh.aufs', 'payload'),
        file('x'),
      ]);
      const stack = await expectBitExact(rig(), tar);
      expectEqualTrees(await (await rig().view(stack)).tree(), listModel(mergeModel([[file('x'), whiteout('y')]])));
    });

    it.each(['v7', 'ustar', 'oldgnu', 'gnu', 'posix'])('a tar of the format %s', async (format) => {
      const source = rig().file('source');
      mkdirSync(source);
      const long = 'long-'.repeat(format === 'v7' || format === 'ustar' ? 5 : 30);
      const script = `mkdir -p a/b; echo x > a/b/c; ln a/b/c a/link; ln -s ../x a/b/s; echo y > "${long}" ; chmod 4711 a/b/c`;
      execFileSync('sh', ['-euc', `${script}; find . -exec touch -h -d @1300000000 {} +`], { cwd: source });
      const tar = execFileSync('tar', ['-c', `--format=${format}`, '-C', source, '.']);
      const stack = await expectBitExact(rig(), tar);
      expectEqualTrees(await (await rig().view(stack)).exported(), await describeTree(source));
    });

    it('attributes that Linux has no place for', async () => {
      const odd = { 'com.apple.provenance': 'x', 'system.nfs4_acl': 'y', 'LIBARCHIVE.xattr': 'z', 'user.': 'none' };
      const tar = tarOf([
        file('a', 'x', xattrs({ ...odd, 'user.ok': 'kept' })),
        symlink('s', 'a', xattrs({ 'user.on.link': 'x' })),
      ]);
      const stack = await expectBitExact(rig(), tar);
      if (!rig().driver.properties.fullFidelity) return;
      const expected = [file('a', 'x', xattrs({ 'user.ok': 'kept' })), symlink('s', 'a')];
      expectEqualTrees(await (await rig().view(stack)).tree(), listModel(mergeModel([expected])));
    });
  });
}
