/** What is btrfs's own: chains that continue each other, sizes, nested subvolumes, the probe. The rest is conformance. */
import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { probeDrivers } from '../../drivers/index.js';
import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import { toLayerdError } from '../../src/core/errors.js';
import { Places } from '../../src/core/places.js';
import { emptyTrash, moveToTrash } from '../../src/disk/trash.js';
import { dir, file, link, opaque, whiteout, xattrs } from '../conformance/entries.js';
import { loopFileSystem } from '../conformance/file-system.js';
import { listModel } from '../conformance/listing.js';
import { Rig, type RigStack } from '../conformance/rig.js';
import { HOSTILE, STACKS } from '../conformance/stacks.js';
import { mergeModel } from '../model/merge-model.js';
import type { EntrySpec } from '../model/spec.js';
import { compareTrees, showDifferences } from '../reference/tree.js';
import { describeWith, needsProgram } from '../support.js';
import { scratchDirectory, thrownBy } from './linux-fixture.js';

const options = DEFAULT_ENGINE_CONFIG.driverOptions;
const MIB = 1 << 20;
const BTRFS = loopFileSystem('btrfs');
const NEEDS = [...BTRFS.needs, needsProgram('btrfs', 'btrfs-progs')];

/** u::rwx, g::rwx, o::---, default for what is made below: linux/posix_acl_xattr.h. */
const DEFAULT_ACL = Buffer.from(
  ['02000000', '01000700ffffffff', '04000700ffffffff', '20000000ffffffff'].join(''),
  'hex',
);

/** Lower directories whose attributes would reach what is made in them, and what an upper layer does there. */
const INHERITING: EntrySpec[][] = [
  [
    dir('acl', { mode: 0o770, ...xattrs({ 'system.posix_acl_default': DEFAULT_ACL, 'user.old': 'old' }) }),
    dir('setgid', { mode: 0o2775, gid: 50 }),
    file('setgid/stays', 'as it was'),
    link('acl/link', 'setgid/stays'),
    dir('gone'),
    file('gone/one'),
    dir('bare', xattrs({ 'user.old': 'old' })),
  ],
  [
    file('acl/new', 'no acl', { mode: 0o600 }),
    dir('acl/below', { mode: 0o700 }),
    dir('setgid/below', { mode: 0o755, gid: 0 }),
    file('setgid/new', 'of root', { gid: 0 }),
    whiteout('gone'),
    dir('bare', { mode: 0o700 }),
  ],
  [opaque('acl'), file('acl/only'), whiteout('setgid/stays'), whiteout('setgid/new')],
];

describeWith('chains on btrfs that continue another', NEEDS, () => {
  const rig = useRig(beforeAll, afterAll);

  const cases = { ...STACKS, 'attributes that would be inherited': INHERITING, hostile: HOSTILE };
  const deep = Object.entries(cases).filter(([, contents]) => contents.length > 1);

  it.each(deep)('%s', async (_, contents) => {
    const { layers, root } = await rig().stack(contents);
    for (let depth = 1; depth <= layers.length; depth += 1) {
      const view = await rig().view({ layers: layers.slice(0, depth), root });
      const expected = listModel(mergeModel(contents.slice(0, depth)));
      expect(showDifferences(compareTrees(await view.tree(), expected))).toBe('');
      view.remove();
    }
    expect(readdirSync(rig().places.trees)).toHaveLength(layers.length);
  });

  it('share what further layers leave alone', async () => {
    const base = await rig().stack([[file('large', Buffer.alloc(MIB, 'x')), file('replaced', 'old')]]);
    const longer = await rig().onto(base, await rig().layer([file('replaced', 'new'), file('more')]));
    const [below, above] = [await treeOf(rig(), base), await treeOf(rig(), longer)];
    const [then, now] = [statSync(join(below, 'large')), statSync(join(above, 'large'))];
    expect([now.ino, now.ctimeMs]).toEqual([then.ino, then.ctimeMs]);
    expect(readFileSync(join(above, 'replaced'), 'utf8')).toBe('new');
    expect(readFileSync(join(below, 'replaced'), 'utf8')).toBe('old');
    execFileSync('sync', ['-f', above]);
    expect(execFileSync('filefrag', ['-v', join(above, 'large')], { encoding: 'utf8' })).toContain('shared');
  });
});

describeWith('the btrfs driver', NEEDS, () => {
  const rig = useRig(beforeEach, afterEach);

  it('keeps trees and views from being written, by root too', async () => {
    const stack = await rig().stack([[file('f', 'image')]]);
    const view = await rig().view(stack);
    for (const path of [join(await treeOf(rig(), stack), 'f'), join(view.mount(), 'f')]) {
      expect(() => writeFileSync(path, 'x')).toThrow(/EROFS/);
    }
  });

  it('tells changes in the tick of the clock in which the container was made', async () => {
    const stack = await rig().stack([[file('same'), file('f', 'image'), dir('d')]]);
    const container = await rig().snapshot(stack);
    const root = container.mount();
    writeFileSync(join(root, 'f'), 'imagE');
    writeFileSync(join(root, 'd/new'), '');
    expect(await container.changes()).toEqual(['C /d', 'A /d/new', 'C /f']);
  });

  it('tells changes when the tree of the chain was made again meanwhile', async () => {
    const stack = await rig().stack([[dir('d'), file('d/same', 'content'), file('f', 'image')]]);
    const container = await rig().snapshot(stack);
    writeFileSync(join(container.mount(), 'f'), 'changed');
    moveToTrash(rig().places, { layers: [], snapshots: [], trees: readdirSync(rig().places.trees), blobs: [] });
    expect(await container.changes()).toEqual(['C /f']);
  });

  it('limits what a container writes; nobody else notices', async () => {
    const stack = await rig().stack([[file('large', Buffer.alloc(8 * MIB, 'x'))]]);
    const limited = await rig().snapshot(stack, { sizeLimit: 4 * MIB });
    const free = await rig().snapshot(stack);
    const root = limited.mount();
    const refusal = toLayerdError(thrownBy(() => fill(join(root, 'f'), 16 * MIB)));
    expect(refusal).toMatchObject({ code: 'NO_SPACE', details: { errno: 'EDQUOT' } });
    expect(statSync(join(root, 'f')).size).toBeLessThanOrEqual(4 * MIB);
    fill(join(free.mount(), 'f'), 16 * MIB);
    fill(rig().file('beside'), 16 * MIB);
    const { snapshots } = rig().driver;
    expect(snapshots.usage(limited.spec).bytes).toBeLessThanOrEqual(4 * MIB);
    expect(snapshots.usage(free.spec).bytes).toBeGreaterThanOrEqual(16 * MIB);
    // What the container overwrites of its image counts; what it removes does not.
    execFileSync('rm', [join(root, 'f'), join(root, 'large')]);
    fill(join(root, 'again'), 2 * MIB);
  });

  it('tells what a container holds for itself where nothing counts', async () => {
    const stack = await rig().stack([[file('large', Buffer.alloc(MIB, 'x')), dir('d'), file('d/f', 'image')]]);
    const container = await rig().snapshot(stack);
    const { snapshots } = rig().driver;
    expect(snapshots.usage(container.spec)).toEqual({ bytes: 0, inodes: 0 });
    fill(join(container.mount(), 'd/own'), MIB);
    rig().writeBack();
    expect(snapshots.usage(container.spec)).toEqual({ bytes: MIB, inodes: 2 });
  });

  it('leaves no subvolume behind, not even one that a container made', async () => {
    const stack = await rig().stack([[dir('d'), file('d/f')]]);
    const container = await rig().snapshot(stack);
    const root = container.mount();
    execFileSync('btrfs', ['-q', 'subvolume', 'create', join(root, 'd/inner')]);
    execFileSync('btrfs', ['-q', 'subvolume', 'snapshot', '-r', join(root, 'd/inner'), join(root, 'frozen')]);
    container.unmount();
    const snapshots = readdirSync(rig().places.snapshots);
    moveToTrash(rig().places, { layers: [], snapshots, trees: readdirSync(rig().places.trees), blobs: [] });
    expect(await emptyTrash(rig().places, 100, new AbortController().signal)).toMatchObject({ remaining: 0, held: [] });
    expect(subvolumes(rig())).toBe('');
    mkdirSync(rig().places.snapshot(container.spec.dir)); // for the rig to remove
  });

  it('is found by its probe, which leaves nothing, and is not what auto takes', () => {
    const probes = probeDrivers(rig().places, options);
    expect(probes.find(({ name }) => name === 'btrfs')).toMatchObject({ available: true, auto: false });
    expect(probes.filter(({ auto }) => auto).map(({ name }) => name)).toEqual(['erofs', 'overlay2', 'copy']);
    expect(readdirSync(rig().places.snapshots).filter((name) => name.startsWith('probe'))).toEqual([]);
    expect(subvolumes(rig())).toBe('');
  });
});

describe('the btrfs driver elsewhere', () => {
  const scratch = scratchDirectory();

  it('says what the root lies on', () => {
    const probes = probeDrivers(new Places(join(scratch(), 'root'), join(scratch(), 'run')), options);
    expect(probes.find(({ name }) => name === 'btrfs')).toMatchObject({
      available: false,
      reason: expect.stringMatching(/^(the root lies on .*, not on btrfs|system calls cannot be made)/),
    });
  });
});

/** A rig per test, on a file system of its own or of them all. */
function useRig(before: (make: () => void) => void, after: (dispose: () => void) => void): () => Rig {
  let place: ReturnType<typeof BTRFS.make>;
  let rig: Rig;
  let tests = 0;
  before(() => {
    place = BTRFS.make();
  });
  after(() => place.dispose());
  beforeEach(() => {
    tests += 1;
    rig = new Rig(join(place.path, String(tests)), 'btrfs', options);
  });
  afterEach(() => rig.dispose());
  return () => rig;
}

/** Every subvolume of the file system that the rig is on. */
function subvolumes(rig: Rig): string {
  return execFileSync('btrfs', ['subvolume', 'list', rig.places.root], { encoding: 'utf8' });
}

/** The root of the stack's tree. */
async function treeOf(rig: Rig, { layers }: RigStack): Promise<string> {
  const name = await rig.driver.trees?.ensure(layers);
  return join(rig.places.tree(name ?? ''), 't');
}

/** Writes so many bytes, and sees to it that they are on disk. */
function fill(path: string, bytes: number): void {
  const fd = openSync(path, 'w');
  try {
    for (let at = 0; at < bytes; at += MIB) writeSync(fd, Buffer.alloc(MIB, at / MIB + 1));
  } finally {
    closeSync(fd);
  }
}
