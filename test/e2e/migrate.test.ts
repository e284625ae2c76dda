/** A store that moves from driver to driver while containers live on it. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { toLayerdError } from '../../src/core/errors.js';
import type { DriverName, MigrateReport, Progress } from '../../src/core/words.js';
import { makeHome, removeHome, TestDaemon } from '../cli/daemon.js';
import { dir, file, opaque, symlink, whiteout } from '../conformance/entries.js';
import { loopFileSystem } from '../conformance/file-system.js';
import { listModel } from '../conformance/listing.js';
import { mergeModel } from '../model/merge-model.js';
import { layerTar, type EntrySpec } from '../model/spec.js';
import { compareTrees, describeTree, showDifferences, type TreeListing } from '../reference/tree.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { descriptor, layoutMembers, named, plainLayer, testImage, writeMembers } from '../unit/image-synthetic.js';
import { thrownBy } from '../unit/linux-fixture.js';
import { allocatedBytes, ignore, never, withStore, type TestStore } from './store.js';

/** A layer that implies `d/`, which has other attributes in each image: it needs a copy for each where copies are trees. */
const SHARED: EntrySpec[] = [file('d/implied/x', 'shared'), symlink('d/link', 'a')];
const IMAGES: Record<string, EntrySpec[][]> = {
  'localhost/one:1': [
    [dir('d', { mode: 0o700, uid: 5 }), file('d/a', 'one'), file('large', Buffer.alloc(3 << 20, 'layers '))],
    SHARED,
    [whiteout('d/a'), file('top', 'of one')],
  ],
  'localhost/other:1': [
    [dir('d', { mode: 0o1777, uid: 9 }), dir('e'), file('e/gone')],
    SHARED,
    [opaque('e'), file('e/stays')],
  ],
};
const ONE = 'localhost/one:1';
const CHAINS = 6;
/** SHARED once where copies serve every chain, twice where they are extracted for one. */
const COPIES = 6;

let archive: string;

beforeAll(() => {
  archive = mkdtempSync(join(tmpdir(), 'layerd-migrate-'));
  const images = Object.entries(IMAGES).map(([ref, layers]) => ({
    ref,
    image: testImage(layers.map((entries) => plainLayer(layerTar(entries)))),
  }));
  writeMembers(
    archive,
    layoutMembers(
      images.map(({ image }) => image),
      images.map(({ ref, image }) => descriptor(image.manifest, named(ref))),
    ),
  );
});
afterAll(() => rmSync(archive, { recursive: true, force: true }));

function expected(ref: string): TreeListing {
  return listModel(mergeModel(IMAGES[ref] ?? []));
}

/** A container of the image shows what the model says. */
async function expectShown(store: TestStore, ref: string, name: string, driver: DriverName): Promise<string> {
  const root = await store.container(ref, name);
  expect(store.engine.container(name).driver).toBe(driver);
  expect(showDifferences(compareTrees(await describeTree(root), expected(ref)))).toBe('');
  return root;
}

function migrate(store: TestStore, to: DriverName): Promise<MigrateReport> {
  return store.engine.migrate({ to }, ignore, never);
}

/** The drivers of the copies of every layer. */
function keptBy(store: TestStore): DriverName[][] {
  return [...store.engine.layers()].map(({ drivers }) => [...new Set(drivers)].sort());
}

/** `check` finds nothing, and `df` accounts for every block but for those of containers, whose measure may have an age. */
async function expectClean(store: TestStore): Promise<void> {
  expect(await store.problems()).toEqual([]);
  const { rows } = await store.engine.diskUsage();
  const told = rows.filter(({ kind }) => kind !== 'container').reduce((sum, { bytes }) => sum + bytes, 0);
  const held = await Promise.all(
    [...store.engine.containers()].map(({ id }) => {
      const { directories } = store.engine.container(id);
      return allocatedBytes(directories['snapshot'] ?? '');
    }),
  );
  expect(told).toBe((await store.allocated()) - held.reduce((sum, bytes) => sum + bytes, 0));
}

describeWith('a migration', [needsRoot(), needsProgram('python3'), needsProgram('setfattr', 'attr')], () => {
  it('goes from driver to driver under containers that are mounted', async () => {
    await withStore({ driver: 'overlay2' }, async (store) => {
      await store.load(archive);
      const alive = await expectShown(store, ONE, 'alive', 'overlay2');
      writeFileSync(join(alive, 'written'), 'before');
      const before = await describeTree(alive);

      const report = await migrate(store, 'erofs');
      expect(report).toMatchObject({ to: 'erofs', layers: COPIES, chains: CHAINS, chainsLeft: 0, failures: [] });
      expect(report.containers).toEqual([store.engine.container('alive').id]);
      expect(report.afterRestart).toContain('overlay2');
      for (const ref of Object.keys(IMAGES)) await expectShown(store, ref, `erofs-${ref.length}`, 'erofs');
      expect(showDifferences(compareTrees(await describeTree(alive), before))).toBe('');
      await expectClean(store);

      // What the living container lies on stays; all else of overlay2 goes.
      await store.collect();
      expect(keptBy(store).filter((drivers) => drivers.includes('overlay2'))).toHaveLength(3);
      writeFileSync(join(alive, 'later'), 'after');
      expect(await store.changes('alive')).toEqual(['A /later', 'A /written']);
      await store.commit('alive', { ref: 'localhost/committed:1' });
      await expectClean(store);

      expect(await migrate(store, 'copy')).toMatchObject({ to: 'copy', chains: CHAINS + 1, chainsLeft: 0 });
      const committed = await store.container('localhost/committed:1', 'committed');
      expect(readFileSync(join(committed, 'later'), 'utf8')).toBe('after');
      await expectShown(store, ONE, 'copied', 'copy');
      await expectClean(store);

      for (const { id, driver } of store.engine.containers()) {
        if (driver !== 'copy') await store.engine.removeContainer(id, { force: true });
      }
      await store.collect();
      expect(new Set(keptBy(store).flat())).toEqual(new Set(['copy']));
      await expectClean(store);
      await store.reopen({ driver: 'auto' });
      expect(await store.engine.info()).toMatchObject({
        driver: 'copy',
        driverReason: expect.stringContaining('the store was migrated to it'),
      });
      await store.removeAll();
      expect(await store.leftovers()).toEqual([]);
    });
  });

  it('copies nothing twice, and takes what comes in meanwhile', async () => {
    await withStore({ driver: 'copy' }, async (store) => {
      await store.load(archive);
      const moving = migrate(store, 'overlay2');
      const loading = store.load(archive);
      expect(await moving).toMatchObject({ chains: CHAINS, chainsLeft: 0, failures: [] });
      await loading;
      expect(await migrate(store, 'overlay2')).toMatchObject({ layers: 0, bytes: 0, chains: 0, chainsLeft: 0 });
      for (const ref of Object.keys(IMAGES)) await expectShown(store, ref, `new-${ref.length}`, 'overlay2');
      await store.collect();
      expect(new Set(keptBy(store).flat())).toEqual(new Set(['overlay2']));
      await expectClean(store);
    });
  });

  it('stops when it is told to; containers meanwhile get the driver that can serve them', async () => {
    await withStore({ driver: 'copy' }, async (store) => {
      await store.load(archive);
      const abort = new AbortController();
      const stopped = store.engine.migrate({ to: 'overlay2' }, () => abort.abort(), abort.signal);
      await expect(stopped).rejects.toThrow();
      await store.collect();
      await expectShown(store, ONE, 'between', 'copy');
      await expectClean(store);
      expect(await migrate(store, 'overlay2')).toMatchObject({ chainsLeft: 0 });
      await expectShown(store, ONE, 'after', 'overlay2');
      await expectClean(store);
    });
  });

  it('leaves a layer that is damaged where it is, and says so; loaded again, it goes too', async () => {
    await withStore({ driver: 'overlay2' }, async (store) => {
      await store.load(archive);
      writeFileSync(findFile(store.config.root, 'large'), 'spoilt');
      const report = await migrate(store, 'erofs');
      expect(report).toMatchObject({ chains: 3, chainsLeft: 3, failures: [{ code: 'LAYER_DAMAGED' }] });
      await expectShown(store, 'localhost/other:1', 'other', 'erofs');
      expect(await store.problems()).toEqual([expect.stringContaining('LAYER_CORRUPT')]);
      await store.load(archive);
      expect(await migrate(store, 'erofs')).toMatchObject({ chainsLeft: 0, failures: [] });
      await expectShown(store, ONE, 'one', 'erofs');
      await store.collect();
      await expectClean(store);
    });
  });

  it.each([
    ['the image is loaded again', async (store: TestStore) => void (await store.load(archive))],
    ['check repairs it', async (store: TestStore) => void (await store.engine.check({ repair: true }, ignore, never))],
  ])('makes a damaged copy anew from the one that it came from, when %s', async (_when, repair) => {
    await withStore({ driver: 'overlay2' }, async (store) => {
      await store.load(archive);
      await migrate(store, 'erofs');
      const [layer] = store.engine.image(ONE).layers;
      const tar = join(layer?.path ?? '', 'tar');
      const bytes = readFileSync(tar);
      writeFileSync(tar, Buffer.from(bytes).fill('spoilt', bytes.length / 2));
      const { problems } = await store.check();
      expect(problems).toMatchObject([{ code: 'LAYER_CORRUPT', hint: expect.stringContaining('--repair') as string }]);
      await repair(store);
      expect(readFileSync(tar).equals(bytes)).toBe(true);
      await store.collect();
      await expectShown(store, ONE, 'one', 'erofs');
      expect(keptBy(store)).toEqual(keptBy(store).map(() => ['erofs']));
      await expectClean(store);
    });
  });

  it('refuses a driver that does not work here, and changes nothing', async () => {
    await withStore({ driver: 'overlay2' }, async (store) => {
      await store.load(archive);
      await expect(migrate(store, 'btrfs')).rejects.toMatchObject({ code: 'DRIVER_UNAVAILABLE' });
      expect(await store.engine.info()).toMatchObject({ driver: 'overlay2' });
      expect(new Set(keptBy(store).flat())).toEqual(new Set(['overlay2']));
    });
  });

  it('goes on where a kill ended it', async () => {
    const home = makeHome();
    try {
      let daemon = await TestDaemon.start(home, ['--driver', 'overlay2', '--gc-interval', '0']);
      await daemon.client.load(archive);
      const container = await daemon.client.createContainer(ONE, { name: 'alive' });
      const { path } = await daemon.client.mount(container.id);
      writeFileSync(join(path, 'written'), 'before');
      const copied = new Set<string>();
      const killed = daemon.client.migrate({
        to: 'erofs',
        onProgress: ({ subject, done, total }: Progress) => {
          if (done === total) copied.add(subject);
          if (copied.size === 3) daemon.signal('SIGKILL');
        },
      });
      await expect(killed).rejects.toThrow();
      await daemon.stop();

      daemon = await TestDaemon.start(home, ['--driver', 'auto', '--gc-interval', '0']);
      expect(await daemon.info()).toMatchObject({ driver: 'erofs' });
      expect(await daemon.client.check()).toMatchObject({ ok: true, problems: [] });
      expect(readFileSync(join(path, 'written'), 'utf8')).toBe('before');
      const again = await daemon.ctl(['--json', 'migrate', '--to', 'erofs']);
      expect(again).toMatchObject({ code: 0 });
      const report = JSON.parse(again.stdout) as MigrateReport;
      expect(report).toMatchObject({ chainsLeft: 0, failures: [], containers: [container.id] });
      expect(report.layers).toBeLessThan(COPIES - 1);
      expect(await daemon.client.check()).toMatchObject({ ok: true, problems: [] });
      const fresh = await daemon.client.createContainer(ONE, { name: 'fresh' });
      const shown = await daemon.client.mount(fresh.id);
      expect(showDifferences(compareTrees(await describeTree(shown.path), expected(ONE)))).toBe('');
      await daemon.stop();
    } finally {
      removeHome(home);
    }
  });
});

const BTRFS = loopFileSystem('btrfs');

describeWith('a migration on btrfs', [...BTRFS.needs, needsProgram('python3')], () => {
  it('goes to subvolumes and away again; sizes are those of the driver', async () => {
    const place = BTRFS.make();
    try {
      await withStore({ driver: 'overlay2', root: join(place.path, 'root') }, async (store) => {
        await store.load(archive);
        expect(await migrate(store, 'btrfs')).toMatchObject({ chains: CHAINS, chainsLeft: 0, failures: [] });
        for (const ref of Object.keys(IMAGES)) await expectShown(store, ref, `new-${ref.length}`, 'btrfs');
        await store.engine.createContainer(ONE, { name: 'limited', sizeLimit: 1 << 20 });
        const { path } = await store.engine.mount('limited');
        const refused = thrownBy(() => {
          for (let index = 0; index < 8; index += 1)
            writeFileSync(join(path, `f${index}`), Buffer.alloc(1 << 20, index + 1));
        });
        expect(toLayerdError(refused)).toMatchObject({ code: 'NO_SPACE', details: { errno: 'EDQUOT' } });
        expect(await store.problems()).toEqual([]);

        expect(await migrate(store, 'erofs')).toMatchObject({ chains: CHAINS, chainsLeft: 0, failures: [] });
        await expectShown(store, ONE, 'away', 'erofs');
        await store.removeAll();
        expect(await store.problems()).toEqual([]);
        expect(subvolumes(place.path)).toBe('');
      });
    } finally {
      place.dispose();
    }
  });
});

function subvolumes(path: string): string {
  return execFileSync('btrfs', ['subvolume', 'list', path], { encoding: 'utf8' });
}

/** The path of the only file of this name below a directory. */
function findFile(root: string, name: string): string {
  const found = readdirSync(root, { recursive: true, encoding: 'utf8' }).find((path) => path.endsWith(`/${name}`));
  if (found === undefined) throw new Error(`no file ${name} below ${root}`);
  return join(root, found);
}
