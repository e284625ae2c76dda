/** Stacks served through one index over all their tars. */
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { StoredLayer } from '../../drivers/driver.js';
import { MergedStacks } from '../../drivers/erofs/merged.js';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { describeWith, needsRoot } from '../support.js';
import { needsErofs, Scratch, store, tarOf, type Entry } from './erofs-fixture.js';

async function stackOf(scratch: Scratch, contents: readonly (readonly Entry[])[]): Promise<StoredLayer[]> {
  const stack: StoredLayer[] = [];
  for (const [i, entries] of contents.entries()) {
    writeFileSync(scratch.at('a.tar'), tarOf(entries));
    stack.push(await store(scratch, scratch.at('a.tar'), `l${i}`));
  }
  return stack;
}

function open(scratch: Scratch): MergedStacks {
  return new MergedStacks(scratch.places, { directio: false });
}

describeWith('a merged stack', [needsRoot(), needsErofs()], () => {
  it('may be deeper than overlay takes', async () => {
    using scratch = new Scratch();
    const layers = Array.from({ length: 600 }, (_, i): Entry[] => [
      { path: `layer ${i}`, content: Buffer.from(`content ${i}`) },
      { path: 'each', content: Buffer.from(`of layer ${i}`) },
      { path: `.wh.layer ${i - 2}` },
    ]);
    const stack = await stackOf(scratch, layers);
    const merged = open(scratch);
    await merged.ensure(stack);
    const root = merged.lower(stack);
    expect(readdirSync(root).sort()).toEqual(['each', 'layer 598', 'layer 599']);
    expect(readFileSync(join(root, 'each'), 'utf8')).toBe('of layer 599');
    expect(readFileSync(join(root, 'layer 598'), 'utf8')).toBe('content 598');
  });

  it('is mounted once, found again, made again when it is lost, and gone after release', async () => {
    using scratch = new Scratch();
    const stack = await stackOf(scratch, [
      [{ path: 'a', content: Buffer.from('1') }],
      [{ path: 'b' }],
      [{ path: '.wh.b' }],
    ]);
    const name = await open(scratch).ensure(stack);
    const image = readFileSync(join(scratch.places.tree(name), 'index'));
    const root = open(scratch).lower(stack);
    expect(readdirSync(root)).toEqual(['a']);
    expect(open(scratch).lower(stack)).toBe(root);
    expect(mountsBelow(scratch.places.layerMounts)).toHaveLength(1);
    open(scratch).release(name);
    expect(mountsBelow(scratch.places.layerMounts)).toEqual([]);
    expect(existsSync(root)).toBe(false);
    rmSync(scratch.places.tree(name), { recursive: true });
    expect(await open(scratch).ensure(stack)).toBe(name);
    expect(readFileSync(join(scratch.places.tree(name), 'index')).equals(image)).toBe(true);
    expect(open(scratch).names([stack])).toEqual(new Set([name]));
  });

  it('is made once by callers that come at once', async () => {
    using scratch = new Scratch();
    const stack = await stackOf(scratch, [[{ path: 'a' }], [{ path: 'b' }]]);
    const names = await Promise.all(Array.from({ length: 5 }, () => open(scratch).ensure(stack)));
    expect(new Set(names).size).toBe(1);
    expect(readdirSync(scratch.places.trees)).toEqual([names[0]]);
  });
});
