/** Stacks served through one index over all their tars. */
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { StoredLayer } from '../../drivers/driver.js';
import { foldStack, MERGE_ABOVE, MergedStacks } from '../../drivers/erofs/merged.js';
import { createDrivers } from '../../drivers/index.js';
import { sha256 } from '../../src/core/digest.js';
import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import { dropFromCache } from '../../src/disk/cache.js';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { describeWith, needsRoot } from '../support.js';
import { filesOf, needsErofs, readsDirectly, Scratch, store, tarOf, useDisk, type Entry } from './erofs-fixture.js';

async function stackOf(scratch: Scratch, contents: readonly (readonly Entry[])[]): Promise<StoredLayer[]> {
  const stack: StoredLayer[] = [];
  for (const [i, entries] of contents.entries()) {
    writeFileSync(scratch.at('a.tar'), tarOf(entries));
    stack.push(await store(scratch, scratch.at('a.tar'), `l${i}`));
  }
  return stack;
}

function open(scratch: Scratch): MergedStacks {
  return new MergedStacks(scratch.places, { directio: 'auto' });
}

function layer(i: number, more: Partial<StoredLayer> = {}): StoredLayer {
  return { driver: 'erofs', dir: `l${i}`, diffId: sha256(String(i)), size: 1024, opaqueRoot: false, ...more };
}

describeWith('a merged stack', [needsRoot(), needsErofs()], () => {
  it('may be deeper than overlay takes', { timeout: 300_000 }, async () => {
    using scratch = new Scratch();
    const layers = Array.from({ length: 600 }, (_, i): Entry[] => [
      { path: `layer ${i}`, content: Buffer.from(`content ${i}`) },
      { path: 'each', content: Buffer.from(`of layer ${i}`) },
      { path: `.wh.layer ${i - 2}` },
    ]);
    const stack = await stackOf(scratch, layers);
    const { places } = scratch;
    for (const directory of [places.snapshots, places.empty]) mkdirSync(directory);
    const { snapshots, trees } = createDrivers(places, DEFAULT_ENGINE_CONFIG.driverOptions)('erofs');
    const root = { mode: 0o755, uid: 0, gid: 0, mtime: { sec: 0, nsec: 0 } };
    const spec = { dir: 's', stack, root, readOnly: false, sizeLimit: null, volatile: false };
    await snapshots.create(spec);
    const path = snapshots.mount(spec);
    expect(readdirSync(path).sort()).toEqual(['each', 'layer 598', 'layer 599']);
    expect(readFileSync(join(path, 'each'), 'utf8')).toBe('of layer 599');
    expect(readFileSync(join(path, 'layer 598'), 'utf8')).toBe('content 598');
    writeFileSync(join(path, 'each'), 'of the container');
    rmSync(join(path, 'layer 598'));
    const changes = [];
    for await (const change of snapshots.changes(spec)) changes.push(`${change.kind} ${change.path}`);
    expect(changes).toEqual(['C /each', 'D /layer 598']);
    const [instruction] = snapshots.instructions(spec);
    expect(instruction?.options.filter((option) => option.startsWith('lowerdir='))).toHaveLength(1);
    snapshots.release(spec, { force: false });
    const names = trees?.names([stack]) ?? new Set();
    expect([...names]).toEqual(readdirSync(places.trees));
    for (const name of names) trees?.release(name);
    expect(mountsBelow(places.run)).toEqual([]);
  });

  it('is mounted once, found again, made again when it is lost or damaged, and gone after release', async () => {
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
    expect(mountsBelow(scratch.places.run)).toHaveLength(1);
    open(scratch).release(name);
    expect(mountsBelow(scratch.places.run)).toEqual([]);
    expect(existsSync(root)).toBe(false);
    rmSync(scratch.places.tree(name), { recursive: true });
    expect(readdirSync(open(scratch).lower(stack))).toEqual(['a']);
    expect(readFileSync(join(scratch.places.tree(name), 'index')).equals(image)).toBe(true);
    open(scratch).release(name);
    for (const at of [1500, image.length - 300]) {
      writeFileSync(join(scratch.places.tree(name), 'index'), Buffer.from(image).fill(0xff, at, at + 8));
      expect(readdirSync(open(scratch).lower(stack))).toEqual(['a']);
      expect(readFileSync(join(scratch.places.tree(name), 'index')).equals(image)).toBe(true);
      open(scratch).release(name);
    }
    truncateSync(join(scratch.places.tree(name), 'index'), 2048);
    expect(await open(scratch).ensure(stack)).toBe(name);
    expect(readFileSync(join(scratch.places.tree(name), 'index')).equals(image)).toBe(true);
  });

  it('of large files is read around the page cache, where less than half of them is in it', async () => {
    using scratch = new Scratch();
    useDisk(scratch);
    const content = Buffer.alloc(4 * 1024 * 1024, 1);
    const stack = await stackOf(scratch, [
      [{ path: 'a', content }],
      [{ path: 'b', content }],
      [{ path: 'c', content }],
    ]);
    const name = await open(scratch).ensure(stack);
    const direct: boolean[] = [];
    for (const dropped of stack) {
      dropFromCache(filesOf(scratch, dropped).tar);
      direct.push(readsDirectly(open(scratch).lower(stack)));
      open(scratch).release(name);
    }
    expect(direct).toEqual([false, true, true]);
  });

  it('is what lies above an opaque root, if that is deep and all of it is kept by erofs', () => {
    const stack = Array.from({ length: MERGE_ABOVE + 1 }, (_, i) => layer(i));
    const [merged, ...rest] = foldStack(stack);
    expect(rest).toEqual([]);
    expect(merged).toMatchObject({ driver: 'erofs', stack });
    expect(foldStack(stack.slice(1))).toEqual(stack.slice(1));
    expect(foldStack(stack.with(0, layer(0, { driver: 'overlay2' })))).toHaveLength(stack.length);
    expect(foldStack(stack.with(1, layer(1, { opaqueRoot: true })))).toHaveLength(stack.length);
    expect(foldStack([layer(-1, { driver: 'overlay2' }), ...stack.with(0, layer(0, { opaqueRoot: true }))])).toEqual([
      expect.objectContaining({ opaqueRoot: true }),
    ]);
  });

  it('is made once by callers that come at once', async () => {
    using scratch = new Scratch();
    const stack = await stackOf(scratch, [[{ path: 'a' }], [{ path: 'b' }]]);
    const names = await Promise.all(Array.from({ length: 5 }, () => open(scratch).ensure(stack)));
    expect(new Set(names).size).toBe(1);
    expect(readdirSync(scratch.places.trees)).toEqual([names[0]]);
  });
});
