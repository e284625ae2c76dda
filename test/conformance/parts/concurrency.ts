/** Many threads at once, as the engine's workers are. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { mergeModel } from '../../model/merge-model.js';
import { describeTree } from '../../reference/tree.js';
import { IMAGE } from '../edits.js';
import { listModel } from '../listing.js';
import { RigSnapshot } from '../rig.js';
import type { UseRig } from '../suite.js';
import type { ThreadTask } from '../thread.js';
import { expectEqualTrees } from './stacks.js';

const THREADS = 4;
const SNAPSHOTS_EACH = 6;

async function runThread(task: ThreadTask): Promise<void> {
  const worker = new Worker(new URL('../thread.js', import.meta.url), { workerData: task, trackUnmanagedFds: false });
  // An error in the thread rejects this.
  await once(worker, 'exit');
}

export function concurrencyPart(rig: UseRig): void {
  describe('serves', () => {
    it('a storm of writes from many containers on one stack, which changes not a byte of what they share', async () => {
      const { driver, places, options } = rig();
      const stack = await rig().stack(IMAGE);
      const view = await rig().view(stack);
      view.mount();
      const shared = async () => [await describeTree(places.layers), await describeTree(places.trees)];
      const before = await shared();
      const tasks = Array.from({ length: THREADS }, (_, thread): ThreadTask => {
        const dirs = Array.from({ length: SNAPSHOTS_EACH }, (_none, index) => `t${thread}-${index}`);
        const layers = stack.layers.map(({ ingested: _ingested, ...layer }) => layer);
        return {
          driver: driver.name,
          root: places.root,
          run: places.run,
          options,
          stack: layers,
          rootAttributes: stack.root,
          dirs,
        };
      });
      await Promise.all(tasks.map(runThread));
      expect(await shared()).toEqual(before);
      let changed: string[] | null = null;
      for (const dir of tasks.flatMap(({ dirs }) => dirs.slice(1))) {
        const spec = { dir, stack: stack.layers, root: stack.root, readOnly: false, sizeLimit: null, volatile: false };
        const snapshot = new RigSnapshot(rig(), stack, spec);
        rig().adopt(snapshot);
        expect(readFileSync(join(snapshot.mount(), 'etc/one'), 'utf8')).toBe(`${dir}\n`);
        const changes = (await snapshot.changes()).map((line) => line.replace(dir, 'OWN'));
        expect(changes).toContain('A /only-OWN');
        changed ??= changes;
        expect(changes).toEqual(changed);
        snapshot.remove();
      }
      expect(await shared()).toEqual(before);
      expectEqualTrees(await view.tree(), listModel(mergeModel(IMAGE)));
      for (const layer of stack.layers) expect(await driver.layers.verify(layer, { quick: false })).toEqual([]);
    });

    it('layers stored at the same time', async () => {
      const layers = await Promise.all(Array.from({ length: 8 }, () => rig().layer(IMAGE[0] ?? [])));
      expect(new Set(layers.map(({ diffId }) => diffId)).size).toBe(1);
      for (const layer of layers) expect(await rig().driver.layers.verify(layer, { quick: false })).toEqual([]);
    });
  });
}
