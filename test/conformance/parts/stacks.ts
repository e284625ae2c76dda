/** Stacks show what the model says, and layers come out as they went in. */
import { describe, expect, it } from 'vitest';
import type { EntrySpec } from '../../model/spec.js';
import { mergeModel } from '../../model/merge-model.js';
import { compareTrees, showDifferences, type TreeListing } from '../../reference/tree.js';
import { listModel } from '../listing.js';
import { collect, tarOf, type Rig, type RigStack } from '../rig.js';
import { AT_THE_LIMITS, HOSTILE, STACKS } from '../stacks.js';
import type { UseRig } from '../suite.js';

export function expectEqualTrees(found: TreeListing, expected: TreeListing): void {
  expect(showDifferences(compareTrees(found, expected))).toBe('');
}

/** A tar holds no sockets. */
export function withoutSockets(listing: TreeListing): TreeListing {
  return new Map([...listing].filter(([, { type }]) => type !== 'socket'));
}

/** The stack as a view and as a container, mounted and exported, and its layers as tars. */
export async function expectShows(
  rig: Rig,
  stack: RigStack,
  contents: readonly (readonly EntrySpec[])[],
): Promise<void> {
  const expected = listModel(mergeModel(contents));
  for (const readOnly of [true, false]) {
    const snapshot = await rig.snapshot(stack, { readOnly });
    expectEqualTrees(await snapshot.exported(), expected);
    expectEqualTrees(await snapshot.tree(), expected);
    expectEqualTrees(await snapshot.exported(), expected);
    expect(await snapshot.changes()).toEqual([]);
    snapshot.remove();
  }
  for (const [index, layer] of stack.layers.entries()) {
    const { layers } = rig.drivers(layer.driver);
    expect((await collect(layers.tar(layer))).equals(tarOf(contents[index] ?? []))).toBe(true);
    expect(await layers.verify(layer, { quick: true })).toEqual([]);
    expect(await layers.verify(layer, { quick: false })).toEqual([]);
  }
}

/** What a file system cannot hold is refused when the layer is stored, or when it is unpacked. */
async function expectShowsOrRefuses(
  rig: Rig,
  contents: readonly (readonly EntrySpec[])[],
  refused: string,
): Promise<void> {
  let stack;
  try {
    stack = await rig.stack(contents);
    (await rig.view(stack)).remove();
  } catch (thrown) {
    expect(thrown).toMatchObject({ code: 'NAME_UNSUPPORTED', details: { path: expect.stringContaining(refused) } });
    return;
  }
  await expectShows(rig, stack, contents);
}

export function stacksPart(rig: UseRig): void {
  describe('shows', () => {
    it.each(Object.entries(STACKS))('%s', async (_, contents) => {
      await expectShows(rig(), await rig().stack(contents), contents);
    });

    it.each(Object.entries(AT_THE_LIMITS))('%s, or refuses it by name', async (_, { contents, refused }) => {
      await expectShowsOrRefuses(rig(), contents, refused);
    });

    it('nothing that an archive says to overlay', async () => {
      await expectShows(rig(), await rig().stack(HOSTILE), HOSTILE);
    });
  });
}
