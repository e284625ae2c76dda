/** All layers of a chain damaged at once: loading the image again, once, makes all of them whole. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { fixture } from '../../bench/fixtures/fixtures.js';
import { compareTrees, describeTree, showDifferences } from '../reference/tree.js';
import { describeWith } from '../support.js';
import { needsFixtures, TESTED_DRIVERS, withStore } from './store.js';

const PATIENCE_MS = 120_000;

describeWith('an image whose layers are all damaged', needsFixtures(), () => {
  it.each(TESTED_DRIVERS)(
    'is healed by one load: %s',
    async (driver) => {
      const { forms } = await fixture('odd');
      await withStore({ driver }, async (store) => {
        const { images } = await store.load(forms.ociArchive.path);
        const [image] = images;
        if (image === undefined) throw new Error('an image is loaded');
        const before = await describeTree(await store.container(image.imageId, 'before'));
        // An implied directory has what the layer below gives it, also what goes between threads as bytes.
        expect(before.get('implied-below/nested')?.xattrs).toEqual({
          'user.note': Buffer.from('below').toString('hex'),
        });
        const { layers } = store.engine.image(image.imageId);
        for (const { path } of layers) rmSync(join(String(path), 'catalog'));
        expect((await store.check()).problems).not.toEqual([]);
        expect((await store.load(forms.ociArchive.path)).layersLoaded).toBe(layers.length);
        expect((await store.check()).problems).toEqual([]);
        const after = await describeTree(await store.container(image.imageId, 'after'));
        expect(showDifferences(compareTrees(after, before))).toBe('');
      });
    },
    PATIENCE_MS,
  );
});
