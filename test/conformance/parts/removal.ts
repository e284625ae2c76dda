/** What is released can be renamed away and unlinked, and its name taken again. */
import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { mergeModel } from '../../model/merge-model.js';
import { mountsBelow } from '../../../src/linux/mountinfo.js';
import { emptyTrash, moveToTrash } from '../../../src/disk/trash.js';
import { IMAGE } from '../edits.js';
import { file } from '../entries.js';
import { listModel } from '../listing.js';
import type { UseRig } from '../suite.js';
import { expectEqualTrees } from './stacks.js';

export function removalPart(rig: UseRig): void {
  describe('removes', () => {
    it('a mounted container at once, while others use its layers', async () => {
      const stack = await rig().stack(IMAGE);
      const [gone, stays] = [await rig().snapshot(stack), await rig().snapshot(stack)];
      gone.edit('echo x > new');
      stays.mount();
      gone.remove();
      expect(existsSync(rig().places.snapshot(gone.spec.dir))).toBe(false);
      expectEqualTrees(await stays.tree(), listModel(mergeModel(IMAGE)));
    });

    it('through the trash, as the store does', async () => {
      const { places, driver } = rig();
      const container = await rig().snapshot(await rig().stack(IMAGE));
      container.edit('mkdir -p deep/er; echo x > deep/er/file; chmod 500 deep deep/er');
      driver.snapshots.release(container.spec, { force: false });
      driver.snapshots.release(container.spec, { force: false });
      moveToTrash(places, { layers: [], snapshots: [container.spec.dir], trees: [], blobs: [] });
      expect(await emptyTrash(places, 10, new AbortController().signal)).toMatchObject({
        removed: 1,
        remaining: 0,
        held: [],
      });
      rig().forget(container);
    });

    it('layers, and leaves nothing mounted', async () => {
      const stack = await rig().stack(IMAGE);
      const view = await rig().view(stack);
      await view.tree();
      view.remove();
      for (const layer of stack.layers) {
        const { layers } = rig().drivers(layer.driver);
        layers.release(layer);
        rig().removeLayer(layer);
        expect(existsSync(rig().places.layer(layer.dir))).toBe(false);
      }
      expect(mountsBelow(rig().places.run)).toEqual([]);
    });

    it('a layer whose storing failed, as if it had never been begun', async () => {
      const { places, driver } = rig();
      const sink = driver.layers.begin('half');
      await sink.abort();
      expect(existsSync(places.layer('half'))).toBe(false);
      const bad = Buffer.concat([Buffer.alloc(512, 'no tar'), Buffer.alloc(1024)]);
      await expect(rig().layer(bad)).rejects.toMatchObject({ code: 'TAR_INVALID' });
      expect((await rig().layer([file('x')])).size).toBeGreaterThan(0);
    });

    it('so that names can be taken again', async () => {
      const [first, second] = [[file('first', '1')], [file('second', '2')]];
      const stack = await rig().stack([first]);
      const container = await rig().snapshot(stack, { dir: 'again' });
      container.edit('echo old > left-over');
      container.remove();
      for (const layer of stack.layers) rig().removeLayer(layer);
      const dir = stack.layers[0]?.dir ?? '';
      const next = await rig().onto(
        { layers: [], root: stack.root },
        await rig().layer(second, rig().driver.name, dir),
      );
      const reused = await rig().snapshot(next, { dir: 'again' });
      expectEqualTrees(await reused.tree(), listModel(mergeModel([second])));
      expect(await reused.changes()).toEqual([]);
    });
  });
}
