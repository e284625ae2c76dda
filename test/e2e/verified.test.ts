/** Loads that go wrong leave nothing and say what was expected and found; loads of the same layer do the work once. */
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { fixture, type Fixture, type FixtureFile } from '../../bench/fixtures/fixtures.js';
import type { WrittenLayer } from '../../bench/fixtures/image.js';
import { run } from '../../bench/fixtures/shell.js';
import { LayerdError } from '../../src/core/errors.js';
import type { LoadResult } from '../../src/core/words.js';
import { describeWith } from '../support.js';
import { beginningOf, withLayout } from './archives.js';
import { ignore, needsFixtures, never, TESTED_DRIVERS, withStore, type TestStore } from './store.js';

let tiny: Fixture;
let middle: WrittenLayer;
let oci: FixtureFile;
let deep: Fixture;

beforeAll(async () => {
  tiny = await fixture('tiny');
  deep = await fixture('deep');
  oci = tiny.forms.ociArchive;
  const [, layer] = tiny.layers;
  if (layer === undefined) throw new Error('the fixture has no second layer');
  middle = layer;
}, 600_000);

async function failureOf(promise: Promise<unknown>): Promise<LayerdError> {
  const thrown: unknown = await promise.then(
    () => null,
    (error: unknown) => error,
  );
  if (thrown instanceof LayerdError) return thrown;
  throw new Error(`expected a LayerdError, got ${String(thrown)}`);
}

/** No row, no lease, no file. */
async function expectNothing(store: TestStore): Promise<void> {
  const { counts } = await store.engine.info();
  expect(counts).toMatchObject({ images: 0, leases: 0 });
  await store.collect();
  expect((await store.engine.info()).counts).toEqual({ images: 0, layers: 0, containers: 0, leases: 0 });
  expect(await store.leftovers()).toEqual([]);
  expect((await store.check()).problems).toEqual([]);
}

describeWith('verified loads', needsFixtures(), () => {
  describe.each(TESTED_DRIVERS)('%s', (driver) => {
    it('refuses a blob with another digest, and names layer, expected and found', async () => {
      await withLayout(tiny, (layout) =>
        withStore({ driver }, async (store) => {
          // Byte 5 of a gzip file belongs to its time stamp: it unpacks to the same bytes.
          const found = layout.flip(middle.blobDigest, 5);
          const failure = await failureOf(store.load(layout.path));
          expect(failure).toMatchObject({
            code: 'BLOB_DIGEST_MISMATCH',
            details: {
              expected: middle.blobDigest,
              found,
              layer: expect.stringContaining(middle.blobDigest.slice(7)) as string,
            },
          });
          expect(failure.message).toContain(middle.blobDigest.slice(7));
          await expectNothing(store);
        }),
      );
    });

    it('refuses a blob that does not unpack', async () => {
      await withLayout(tiny, (layout) =>
        withStore({ driver }, async (store) => {
          layout.flip(middle.blobDigest, Math.floor(middle.blobSize / 2));
          const failure = await failureOf(store.load(layout.path));
          expect(['BLOB_DIGEST_MISMATCH', 'COMPRESSION_INVALID', 'TAR_INVALID']).toContain(failure.code);
          expect(failure.message).toContain(middle.blobDigest.slice(7));
          await expectNothing(store);
        }),
      );
    });

    it('refuses a config that names another diff ID', async () => {
      await withLayout(tiny, (layout, directory) =>
        withStore({ driver }, async (store) => {
          const wrong = `sha256:${'ab'.repeat(32)}`;
          layout.renameDiffId(middle.diffId, wrong);
          const archive = join(directory, 'oci.tar');
          await run('tar', ['-C', layout.path, '-cf', archive, '.']);
          const stream = beginningOf(archive, statSync(archive).size, done);
          for (const input of [layout.path, archive, { stream, size: null }]) {
            const failure = await failureOf(store.load(input));
            expect(failure).toMatchObject({
              code: 'DIFF_ID_MISMATCH',
              details: { expected: wrong, found: middle.diffId },
            });
          }
          await expectNothing(store);
        }),
      );
    });

    it('refuses a docker-archive with a changed byte in a layer', async () => {
      await withLayout(tiny, (_, directory) =>
        withStore({ driver }, async (store) => {
          const bytes = readFileSync(tiny.forms.dockerArchive.path);
          const position = bytes.indexOf('root:x:0:0:root');
          expect(position).toBeGreaterThan(0);
          bytes.write('toor', position);
          writeFileSync(join(directory, 'docker.tar'), bytes);
          const failure = await failureOf(store.load(join(directory, 'docker.tar')));
          expect(failure).toMatchObject({
            code: 'DIFF_ID_MISMATCH',
            details: { expected: tiny.layers[0]?.diffId, found: expect.stringMatching(/^sha256:/) as string },
          });
          await expectNothing(store);
        }),
      );
    });

    it('tells which of many small layers is wrong, and takes none of them', async () => {
      await withLayout(deep, (layout) =>
        withStore({ driver }, async (store) => {
          const wrong = deep.layers[100];
          if (wrong === undefined) throw new Error('the fixture has too few layers');
          const found = layout.flip(wrong.blobDigest, 5);
          const failure = await failureOf(store.load(layout.path));
          expect(failure).toMatchObject({
            code: 'BLOB_DIGEST_MISMATCH',
            details: { expected: wrong.blobDigest, found },
          });
          await expectNothing(store);
        }),
      );
    });

    it('takes many small layers from two loads at once, each of them once', async () => {
      await withStore({ driver }, async (store) => {
        const { ociArchive, dockerArchive } = deep.forms;
        const loads = await Promise.all([store.load(ociArchive.path), store.load(dockerArchive.path)]);
        const diffIds = new Set(deep.layers.map(({ diffId }) => diffId));
        expect(sum(loads, 'layersLoaded')).toBe(diffIds.size);
        for (const { images } of loads) {
          expect(images[0]?.layers.map(({ diffId }) => diffId)).toEqual(deep.layers.map(({ diffId }) => diffId));
        }
        expect((await store.check()).problems).toEqual([]);
      });
    });

    it('refuses truncated archives, wherever they end', async () => {
      await withLayout(tiny, (_, directory) =>
        withStore({ driver }, async (store) => {
          for (const file of [oci, tiny.forms.dockerArchive]) {
            for (const part of [0.1, 0.5, 0.9]) {
              const size = Math.floor(file.size * part);
              const archive = join(directory, 'truncated.tar');
              writeFileSync(archive, readFileSync(file.path).subarray(0, size));
              const codes = ['ARCHIVE_TRUNCATED', 'ARCHIVE_INCOMPLETE', 'ARCHIVE_INVALID', 'TAR_TRUNCATED'];
              expect(codes).toContain((await failureOf(store.load(archive))).code);
              const stream = beginningOf(file.path, size, done);
              expect(codes).toContain((await failureOf(store.load({ stream, size: null }))).code);
            }
          }
          await expectNothing(store);
        }),
      );
    });

    it('leaves nothing of a stream that breaks or is given up', async () => {
      await withStore({ driver }, async (store) => {
        const size = Math.floor(oci.size * 0.8);
        const broken = new LayerdError('STREAM_BROKEN', 'the client went away');
        const stream = beginningOf(oci.path, size, () => Promise.reject(broken));
        expect((await failureOf(store.load({ stream, size: null }))).code).toBe('STREAM_BROKEN');

        const abort = new AbortController();
        const stalling = beginningOf(oci.path, size, () => {
          setTimeout(() => abort.abort(), 50);
          return new Promise<void>(ignore);
        });
        const given = store.engine.load({ stream: stalling, size: null }, {}, ignore, abort.signal);
        expect((await failureOf(given)).code).toBe('CANCELLED');
        await expectNothing(store);
      });
    });

    it('does the work of simultaneous loads once', async () => {
      await withStore({ driver }, async (store) => {
        // The names by which layers are known before they are read: both, the blob's only, the diff ID only.
        const { path: docker } = tiny.forms.dockerArchive;
        const stream = () => ({ stream: beginningOf(oci.path, oci.size, done), size: null });
        for (const inputs of [
          [oci.path, oci.path, docker],
          [oci.path, stream(), stream()],
          [docker, docker],
        ]) {
          const results = await Promise.all(inputs.map((input) => store.load(input)));
          expect(sum(results, 'layersLoaded')).toBe(3);
          expect(sum(results, 'layersPresent')).toBe(3 * (inputs.length - 1));
          expect(sum(results, 'bytesLoaded')).toBe(tiny.tarSize);
          expect(readdirSync(join(store.config.root, 'l'))).toHaveLength(3);
          expect(readdirSync(join(store.config.root, 'trash'))).toEqual([]);
          expect((await store.check()).problems).toEqual([]);
          await store.removeAll();
        }
        expect(await created(store)).toBe(9);
      });
    });

    it('takes over where the load that it waits for is given up', async () => {
      await withStore({ driver }, async (store) => {
        const abort = new AbortController();
        const stalled = new Promise<void>((resolve) => {
          const stream = beginningOf(oci.path, 600_000, () => {
            resolve();
            return new Promise<void>(ignore);
          });
          store.engine.load({ stream, size: null }, {}, ignore, abort.signal).catch(ignore);
        });
        await stalled;
        const others = Promise.all([store.load(oci.path), store.load(oci.path)]);
        setTimeout(() => abort.abort(), 100);
        expect(sum(await others, 'layersLoaded')).toBe(3);
        expect(await created(store)).toBe(3);
        expect((await store.check()).problems).toEqual([]);
      });
    });
  });
});

function done(): Promise<void> {
  return Promise.resolve();
}

function sum(results: LoadResult[], what: 'layersLoaded' | 'layersPresent' | 'bytesLoaded'): number {
  return results.reduce((total, result) => total + result[what], 0);
}

/** Layers that were made, as the event log has it. */
async function created(store: TestStore): Promise<number> {
  let layers = 0;
  for await (const { type } of store.engine.events(0, false, never)) if (type === 'layer.create') layers += 1;
  return layers;
}
