/** The real containerd with layerd as its snapshotter: images in, containers run by runc, restarts, and nothing left. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { fixture, type Fixture } from '../../bench/fixtures/fixtures.js';
import { imageRef } from '../../bench/fixtures/image.js';
import { chainIds, type Digest } from '../../src/core/digest.js';
import type { DriverName } from '../../src/core/words.js';
import { run } from '../../bench/fixtures/shell.js';
import { needsFixture, needsTreeListing } from '../reference/needs.js';
import {
  compareTrees,
  describeTree,
  showDifferences,
  type TreeDifference,
  type TreeListing,
} from '../reference/tree.js';
import { withContainerd } from '../reference/containerd.js';
import { describeWith, needsProgram } from '../support.js';
import { ContainerdRig } from './containerd-rig.js';

const DRIVERS = ['erofs', 'overlay2'] as const satisfies DriverName[];
const REF = imageRef('tiny');
const MINUTES = 60_000;

/** containerd does not set the time of the root from the tar: it is that of the unpacking. */
function rootTime({ path, attribute }: TreeDifference): boolean {
  return path === '.' && attribute === 'mtime';
}

const needs = [...needsFixture('tiny'), ...needsTreeListing(), needsProgram('containerd'), needsProgram('runc')];

describeWith('containerd', needs, () => {
  let tiny: Fixture;
  let chain: Digest[];
  /** Every intermediate chain as containerd's own snapshotter shows it. */
  const reference = new Map<Digest, TreeListing>();

  beforeAll(async () => {
    tiny = await fixture('tiny');
    chain = chainIds(tiny.layers.map(({ diffId }) => diffId as Digest));
    await withContainerd(async ({ unpack, ctr }) => {
      await unpack(tiny.forms.ociArchive.path, REF);
      for (const [index, id] of chain.entries()) reference.set(id, await overlayView(ctr, id, index));
    });
  }, 5 * MINUTES);

  afterAll(() => reference.clear());

  async function overlayView(ctr: (...args: string[]) => Promise<string>, id: Digest, index: number) {
    const printed = await ctr('snapshot', '--snapshotter', 'overlayfs', 'view', '--mounts', `look${index}`, id);
    const [mount] = JSON.parse(printed) as { Type: string; Source: string; Options: string[] }[];
    if (mount?.Type === 'bind') return describeTree(mount.Source);
    const target = (await run('mktemp', ['-d'])).trim();
    await run('mount', ['-t', 'overlay', '-o', mount?.Options.join(',') ?? '', 'overlay', target]);
    try {
      return await describeTree(target);
    } finally {
      await run('umount', [target]);
      await run('rmdir', [target]);
    }
  }

  async function expectChains(rig: ContainerdRig): Promise<void> {
    for (const id of chain) {
      const listing = await rig.view(id, describeTree);
      const wanted = reference.get(id) ?? new Map<string, never>();
      expect(listing.size).toBeGreaterThan(100);
      expect(showDifferences(compareTrees(wanted, listing, { ignore: rootTime }))).toBe('');
    }
  }

  /** Removes what there is, and expects nothing of it anywhere. */
  async function expectNothingLeft(rig: ContainerdRig, ...namespaces: string[]): Promise<void> {
    for (const namespace of ['default', ...namespaces]) {
      await rig.removeImages(namespace);
      expect(await rig.snapshots(namespace)).toEqual([]);
    }
    expect(await rig.leftovers()).toEqual([]);
  }

  it.each(DRIVERS)(
    'unpacks images and runs containers by %s',
    (driver) =>
      ContainerdRig.with(driver, async (rig) => {
        await rig.import(tiny.forms.ociArchive.path);
        expect((await rig.snapshots()).sort()).toEqual([...chain].sort());
        await expectChains(rig);
        // the uppers become the very layers of the image, since containerd still has its blobs
        await rig.converted();
        const layers = (await rig.daemon.client.layers()).map(({ diffId }) => diffId);
        expect(layers.sort()).toEqual(tiny.layers.map(({ diffId }) => diffId).sort());
        await expectChains(rig);
        const script = 'echo new > /new; rm -rf /srv; echo more >> /etc/passwd; cat /new; ls /';
        const [one, two] = await Promise.all([
          rig.container(REF, 'one', '/bin/busybox', 'sh', '-c', script),
          rig.container(REF, 'two', '/bin/busybox', 'sh', '-c', 'ls /'),
        ]);
        expect(one.split('\n')).toContain('new');
        expect(one.split('\n')).not.toContain('srv');
        expect(two.split('\n')).toContain('srv');
        expect(two.split('\n')).not.toContain('new');
        await expectNothingLeft(rig);
      }),
    4 * MINUTES,
  );

  it.each(DRIVERS)(
    'stores once for two namespaces by %s',
    (driver) =>
      ContainerdRig.with(driver, async (rig) => {
        await rig.import(tiny.forms.ociArchive.path);
        await rig.converted();
        await rig.import(tiny.forms.ociArchive.path, 'second');
        expect((await rig.snapshots('second')).sort()).toEqual([...chain].sort());
        await rig.converted();
        expect(await rig.daemon.client.layers()).toHaveLength(chain.length);
        await rig.removeImages();
        expect(
          await rig.ctr('-n', 'second', 'run', '--rm', '--snapshotter', 'layerd', REF, 'x', '/bin/busybox', 'true'),
        ).toBe('');
        await expectNothingLeft(rig, 'second');
      }),
    4 * MINUTES,
  );

  it.each(DRIVERS)(
    'stores nothing that was loaded through another door by %s',
    (driver) =>
      ContainerdRig.with(driver, async (rig) => {
        await rig.daemon.client.load(tiny.forms.dockerArchive.path);
        await rig.import(tiny.forms.ociArchive.path);
        await rig.converted();
        expect(await rig.daemon.client.layers()).toHaveLength(chain.length);
        await expectChains(rig);
        // neither door takes from the other what it needs
        await rig.removeImages();
        expect(await rig.daemon.client.layers()).toHaveLength(chain.length);
        await rig.daemon.client.removeImage(REF, { force: true });
        expect(await rig.leftovers()).toEqual([]);
      }),
    4 * MINUTES,
  );

  it.each(DRIVERS)(
    'goes on after either was killed by %s',
    (driver) =>
      ContainerdRig.with(driver, async (rig) => {
        // layerd dies while containerd unpacks: what containerd was told is kept, and the import is done again
        const importing = rig.import(tiny.forms.ociArchive.path).then(
          () => 'done',
          () => 'failed',
        );
        await rig.stopLayerd('SIGKILL');
        await rig.startLayerd();
        await importing;
        await rig.again(() => rig.import(tiny.forms.ociArchive.path));
        await expectChains(rig);
        // at once after the commits, in the middle of what follows them
        await rig.stopLayerd('SIGKILL');
        await rig.startLayerd();
        await rig.converted();
        await rig.again(() => expectChains(rig));
        await rig.ctr('run', '-d', '--snapshotter', 'layerd', REF, 'box', '/bin/busybox', 'sleep', '600');
        await rig.stopContainerd('SIGKILL');
        await rig.stopLayerd('SIGKILL');
        await rig.startLayerd();
        await rig.startContainerd();
        const inside = ['task', 'exec', '--exec-id', 'look', 'box', '/bin/busybox'];
        expect(await rig.ctr(...inside, 'sh', '-c', 'echo alive > /here; cat /here')).toBe('alive\n');
        await rig.ctr('task', 'kill', '--signal', 'KILL', 'box');
        await rig.ctr('task', 'delete', '--force', 'box').catch(() => 'it is gone already');
        await rig.ctr('container', 'rm', 'box');
        await rig.ctr('snapshot', '--snapshotter', 'layerd', 'rm', 'box').catch(() => 'gone with its container');
        await expectNothingLeft(rig);
      }),
    6 * MINUTES,
  );
});
