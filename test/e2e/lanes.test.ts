/** What takes long does not stand in the way of what is short. */
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { fixture, type Fixture } from '../../bench/fixtures/fixtures.js';
import { imageRef } from '../../bench/fixtures/image.js';
import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import { deepStack } from '../conformance/parts/limits.js';
import { layerTar } from '../model/spec.js';
import { describeWith } from '../support.js';
import { dockerMembers, plainLayer, testImage, writeMembers } from '../unit/image-synthetic.js';
import { needsFixtures, withStore, type TestStore } from './store.js';

const WORKERS = { ...DEFAULT_ENGINE_CONFIG.workers, short: 1 };
/** More layers than are mounted one by one. */
const DEEP = 140;

let tiny: Fixture;

beforeAll(async () => {
  tiny = await fixture('tiny');
}, 600_000);

async function loadTiny(store: TestStore): Promise<string> {
  await store.load(tiny.forms.ociArchive.path);
  return imageRef('tiny');
}

async function loadDeep(store: TestStore): Promise<string> {
  const archive = join(store.home, 'deep');
  const image = testImage(deepStack(DEEP, { implied: false }).map((entries) => plainLayer(layerTar(entries))));
  writeMembers(archive, dockerMembers([{ image, tags: ['localhost/deep:1'] }]));
  await store.load(archive);
  return 'localhost/deep:1';
}

describeWith('a container that takes long to make', needsFixtures(), () => {
  describe.each([
    ['copy', loadTiny, 'its files are copied'],
    ['erofs', loadDeep, 'its layers are merged'],
  ] as const)('%s', (driver, load, why) => {
    it(`lets short calls pass, though there is one thread for them: ${why}`, async () => {
      await withStore({ driver, workers: WORKERS }, async (store) => {
        const ref = await load(store);
        const done: string[] = [];
        const making = store.engine.createContainer(ref, { name: 'c' }).then(() => done.push('made'));
        const short = store.engine.health().then(() => done.push('short'));
        await Promise.all([making, short]);
        expect(done).toEqual(['short', 'made']);
        await store.engine.mount('c');
        expect(await store.changes('c')).toEqual([]);
      });
    });
  });
});
