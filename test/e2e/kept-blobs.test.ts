/** keep_blobs: what came compressed can be given back as it came, whatever comes and goes beside it. */
import { once } from 'node:events';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { fixture, type Fixture } from '../../bench/fixtures/fixtures.js';
import { run } from '../../bench/fixtures/shell.js';
import { describeWith } from '../support.js';
import { beginningOf } from './archives.js';
import { needsFixtures, withStore, type TestStore } from './store.js';

const KEEPING = { driver: 'overlay2', keepBlobs: true } as const;

let tiny: Fixture;

beforeAll(async () => {
  tiny = await fixture('tiny');
}, 600_000);

function archive(): string {
  return tiny.forms.ociArchive.path;
}

/** The manifest digests that an OCI layout's index names. */
function manifestsOf(layout: string): string[] {
  const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as { manifests: { digest: string }[] };
  return index.manifests.map(({ digest }) => digest);
}

function keptFiles(store: TestStore): string[] {
  return readdirSync(join(store.config.root, 'b'));
}

async function expectOriginal(store: TestStore): Promise<void> {
  const [image] = store.engine.images();
  expect(image).toBeDefined();
  expect(store.engine.image(image?.id ?? '').manifestKept).toBe(true);
  const saved = join(store.home, 'saved');
  await store.save([image?.id ?? ''], 'oci', `${saved}.tar`);
  await run('mkdir', ['-p', saved]);
  await run('tar', ['-C', saved, '-xf', `${saved}.tar`]);
  expect(manifestsOf(saved)).toEqual(manifestsOf(tiny.forms.ociLayout.path));
  for (const { blobDigest } of tiny.layers) {
    const blob = join('blobs', 'sha256', blobDigest.slice(7));
    expect(readFileSync(join(saved, blob)).equals(readFileSync(join(tiny.forms.ociLayout.path, blob)))).toBe(true);
  }
  expect((await store.check()).problems).toEqual([]);
}

describeWith('kept blobs', needsFixtures(), () => {
  it('are counted, given back byte for byte, and collected with their image', async () => {
    await withStore(KEEPING, async (store) => {
      await store.load(archive());
      await expectOriginal(store);
      const report = await store.engine.diskUsage();
      const blobs = report.rows.filter(({ kind }) => kind === 'blob');
      expect(blobs.map(({ id }) => id).sort()).toEqual(tiny.layers.map(({ blobDigest }) => blobDigest).sort());
      expect(report.total).toBe(await store.allocated());
      for (const { id } of store.engine.images()) await store.engine.removeImage(id, { force: true });
      const foretold = await store.engine.gc({ grace: 0, dryRun: true });
      const collected = await store.collect();
      expect(collected.removed).toEqual(foretold.removed);
      expect(collected.removed.filter(({ kind }) => kind === 'blob')).toHaveLength(tiny.layers.length);
      expect(keptFiles(store)).toEqual([]);
    });
  });

  it('stay for a load that found them, though their image goes meanwhile', async () => {
    await withStore(KEEPING, async (store) => {
      await store.load(archive());
      const before = keptFiles(store).sort();
      const gate = new EventTarget();
      const goOn = once(gate, 'on');
      const nearlyAll = beginningOf(archive(), statSync(archive()).size - 1, async () => {
        gate.dispatchEvent(new Event('there'));
        await goOn;
      });
      const there = once(gate, 'there');
      async function* stream(): AsyncGenerator<Buffer> {
        yield* nearlyAll;
        yield readFileSync(archive()).subarray(-1);
      }
      const loading = store.load({ stream: stream(), size: null });
      await there;
      for (const { id } of store.engine.images()) await store.engine.removeImage(id, { force: true });
      await store.collect();
      expect(keptFiles(store).sort()).toEqual(before);
      gate.dispatchEvent(new Event('on'));
      expect(await loading).toMatchObject({ layersLoaded: 0, layersPresent: tiny.layers.length });
      await expectOriginal(store);
    });
  });

  it('that go never meet those that come', async () => {
    await withStore(KEEPING, async (store) => {
      for (let round = 0; round < 6; round += 1) {
        await Promise.all([store.load(archive()), store.collect(), store.load(archive())]);
        await expectOriginal(store);
        const [image] = store.engine.images();
        await Promise.all([
          store.engine.removeImage(image?.id ?? '', { force: true }),
          store.load(archive()),
          store.collect(),
        ]);
      }
      await store.load(archive());
      await expectOriginal(store);
    });
  });

  it('that are wrong on disk are found, let go, and brought again by a load', async () => {
    await withStore(KEEPING, async (store) => {
      await store.load(archive());
      const [file] = keptFiles(store);
      await run('truncate', ['-s', '-1', join(store.config.root, 'b', file ?? '')]);
      expect((await store.check({ repair: true })).problems.map(({ code, repaired }) => [code, repaired])).toEqual([
        ['BLOB_CORRUPT', true],
      ]);
      expect(keptFiles(store)).not.toContain(file);
      await store.load(archive());
      await expectOriginal(store);
    });
  });
});
