/** df and du agree for layers whose tars imply directories: what such a copy inherits lies beside it. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { fixture } from '../../bench/fixtures/fixtures.js';
import { describeWith } from '../support.js';
import { needsFixtures, TESTED_DRIVERS, withStore } from './store.js';

const PATIENCE_MS = 120_000;

describeWith('every byte is accounted for', needsFixtures(), () => {
  it.each(TESTED_DRIVERS)(
    'where directories are implied, after loading and after healing: %s',
    async (driver) => {
      const { forms } = await fixture('odd');
      await withStore({ driver }, async (store) => {
        const { images } = await store.load(forms.ociArchive.path);
        expect((await store.engine.diskUsage()).total).toBe(await store.allocated());
        for (const { path } of store.engine.image(images[0]?.imageId ?? '').layers) {
          rmSync(join(String(path), 'catalog'));
          expect((await store.load(forms.ociArchive.path)).layersLoaded).toBe(1);
        }
        await store.engine.gc({ wait: true });
        expect((await store.engine.diskUsage()).total).toBe(await store.allocated());
      });
    },
    PATIENCE_MS,
  );
});
