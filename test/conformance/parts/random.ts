/** Random layers against the model, and random edits against themselves. */
import * as fc from 'fast-check';
import { describe, it } from 'vitest';
import { arbitraryStack } from '../../model/arbitrary.js';
import { mergeModel } from '../../model/merge-model.js';
import { arbitraryEdits } from '../random-edits.js';
import { listModel } from '../listing.js';
import type { Rig, RigStack } from '../rig.js';
import type { UseRig } from '../suite.js';
import { expectEqualTrees, expectShows, withoutSockets } from './stacks.js';

/** More of them find more: LAYERD_PROPERTY_RUNS. A failure prints the seed and the smallest case that it found. */
const RUNS = { numRuns: Number(process.env['LAYERD_PROPERTY_RUNS'] ?? 20), endOnFailure: false };

function forget(rig: Rig, stack: RigStack): void {
  for (const layer of stack.layers) rig.removeLayer(layer);
}

export function randomPart(rig: UseRig): void {
  describe('random', () => {
    it('stacks show what the model says', { timeout: 600_000 }, async () => {
      const holdsAll = rig().driver.properties.fullFidelity;
      const stacks = arbitraryStack();
      await fc.assert(
        fc.asyncProperty(stacks, async (contents) => {
          const stack = await rig().stack(contents);
          try {
            await expectShows(rig(), stack, contents);
          } finally {
            forget(rig(), stack);
          }
        }),
        holdsAll ? RUNS : { ...RUNS, numRuns: Math.ceil(RUNS.numRuns / 2) },
      );
    });

    it('edits come back as a layer', { timeout: 600_000 }, async () => {
      await fc.assert(
        fc.asyncProperty(arbitraryStack(2), arbitraryEdits(), async (contents, edits) => {
          const stack = await rig().stack(contents);
          const container = await rig().snapshot(stack);
          let committed = stack;
          try {
            container.edit(edits.join('\n'));
            const live = await container.tree();
            committed = await container.commit();
            const view = await rig().view(committed);
            expectEqualTrees(
              await view.tree(),
              (await container.changes()).length === 0 ? listModel(mergeModel(contents)) : withoutSockets(live),
            );
            expectEqualTrees(await view.exported(), await view.tree());
            view.remove();
          } finally {
            container.remove({ force: true });
            forget(rig(), committed);
          }
        }),
        RUNS,
      );
    });
  });
}
