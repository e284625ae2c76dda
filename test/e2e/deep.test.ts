/** An image of more than a thousand layers, many more than overlay takes: through the whole engine, by one merged index. */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { loopFileSystem } from '../conformance/file-system.js';
import { deepStack } from '../conformance/parts/limits.js';
import { listModel } from '../conformance/listing.js';
import { mergeModel } from '../model/merge-model.js';
import { layerTar } from '../model/spec.js';
import { compareTrees, describeTree, showDifferences } from '../reference/tree.js';
import { describeWith, needsProgram } from '../support.js';
import { needsErofs } from '../unit/erofs-fixture.js';
import { dockerMembers, plainLayer, testImage, writeMembers } from '../unit/image-synthetic.js';
import { withStore, type TestStore } from './store.js';

const DEPTH = 1200;
const REF = 'localhost/deep:1';
const MINUTES = 60_000;
/** One of its own, in memory where it can be: a thousand layers are synced one by one. */
const EXT4 = loopFileSystem('ext4');

describeWith(`an image of ${DEPTH} layers`, [...EXT4.needs, needsErofs(), needsProgram('python3')], () => {
  it(
    'is loaded, mounted, committed to, saved, found again after a reboot, and removed',
    { timeout: 10 * MINUTES },
    () =>
      onFileSystem(async (store) => {
        const contents = deepStack(DEPTH, { implied: true });
        const expected = listModel(mergeModel(contents));
        const archive = join(store.home, 'deep');
        const image = testImage(contents.map((entries) => plainLayer(layerTar(entries))));
        writeMembers(archive, dockerMembers([{ image, tags: [REF] }]));
        await store.load(archive);

        const root = await store.container(REF, 'first');
        expect(showDifferences(compareTrees(await describeTree(root), expected))).toBe('');
        // one merged index for all of its layers, and the container
        expect(store.mounted()).toHaveLength(2);
        writeFileSync(join(root, 'common'), 'of the container');
        rmSync(join(root, `own/${DEPTH - 1}`));
        expect(await store.changes('first')).toEqual(['C /common', 'C /own', `D /own/${DEPTH - 1}`]);
        await store.commit('first', { ref: 'localhost/deeper:1' });
        const live = await describeTree(root);
        const deeper = await store.container('localhost/deeper:1', 'second');
        expect(showDifferences(compareTrees(await describeTree(deeper), live))).toBe('');

        await reboot(store);
        expect(existsSync(join(root, 'common'))).toBe(false);
        const { path } = await store.engine.mount('first');
        expect(showDifferences(compareTrees(await describeTree(path), live))).toBe('');

        const saved = join(store.home, 'saved.tar');
        await store.save([REF], 'oci', saved);
        expect(await store.load(saved)).toMatchObject({
          layersLoaded: 0,
          layersPresent: DEPTH,
          images: [{ imageId: image.id }],
        });

        expect(await store.problems()).toEqual([]);
        await store.removeAll();
        rmSync(archive, { recursive: true });
        rmSync(saved);
        expect(await store.leftovers()).toEqual([]);
      }),
  );
});

async function onFileSystem(work: (store: TestStore) => Promise<void>): Promise<void> {
  const place = EXT4.make();
  try {
    await withStore({ driver: 'erofs', root: join(place.path, 'root') }, work);
  } finally {
    place.dispose();
  }
}

/** Ends the engine as a reboot does: nothing is mounted any more, and the run directory is empty. */
async function reboot(store: TestStore): Promise<void> {
  await store.stop();
  for (const { mountPoint } of mountsBelow(store.home).toReversed()) execFileSync('umount', [mountPoint]);
  for (const name of readdirSync(store.config.run)) rmSync(join(store.config.run, name), { recursive: true });
  await store.start();
}
