/** What takes long does not stand in the way of what is short. */
import { beforeAll, describe, expect, it } from 'vitest';
import { fixture, type Fixture } from '../../bench/fixtures/fixtures.js';
import { imageRef } from '../../bench/fixtures/image.js';
import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import { describeWith } from '../support.js';
import { needsFixtures, withStore } from './store.js';

const WORKERS = { ...DEFAULT_ENGINE_CONFIG.workers, short: 1 };

let images: Record<'tiny' | 'deep', Fixture>;

beforeAll(async () => {
  images = { tiny: await fixture('tiny'), deep: await fixture('deep') };
}, 600_000);

describeWith('a container that takes long to make', needsFixtures(), () => {
  describe.each([
    ['copy', 'tiny', 'its files are copied'],
    ['erofs', 'deep', 'its layers are merged'],
  ] as const)('%s', (driver, name, why) => {
    it(`lets short calls pass, though there is one thread for them: ${why}`, async () => {
      await withStore({ driver, workers: WORKERS }, async (store) => {
        await store.load(images[name].forms.ociArchive.path);
        const done: string[] = [];
        const making = store.engine.createContainer(imageRef(name), { name: 'c' }).then(() => done.push('made'));
        const short = store.engine.health().then(() => done.push('short'));
        await Promise.all([making, short]);
        expect(done).toEqual(['short', 'made']);
        await store.engine.mount('c');
        expect(await store.changes('c')).toEqual([]);
      });
    });
  });
});
