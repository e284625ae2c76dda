/** Many layers, much content, little space. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { EntrySpec } from '../../model/spec.js';
import { mergeModel } from '../../model/merge-model.js';
import { dir, file, whiteout } from '../entries.js';
import { listModel } from '../listing.js';
import type { UseRig } from '../suite.js';
import { expectEqualTrees } from './stacks.js';

/**
 * Every layer writes a file of its own and the common one, and removes that of the eighth layer below it; some only
 * imply the directory, which costs a look at all layers below.
 */
export function deepStack(depth: number, { implied }: { implied: boolean }): EntrySpec[][] {
  return Array.from({ length: depth }, (_, index) => [
    ...(implied && index % 8 === 1 ? [] : [dir('own')]),
    file(`own/${index}`, `${index}`),
    file('common', `layer ${index}`),
    ...(index >= 8 ? [whiteout(`own/${index - 8}`)] : []),
  ]);
}

/** Deeper stacks than this are not tried. */
const DEEPEST = 520;
const MIB = 1024 * 1024;

export function limitsPart(rig: UseRig): void {
  describe('holds', () => {
    it('a stack of 128 layers, written to and committed', async () => {
      const contents = deepStack(128, { implied: true });
      const stack = await rig().stack(contents);
      const container = await rig().snapshot(stack);
      expectEqualTrees(await container.tree(), listModel(mergeModel(contents)));
      container.edit('echo top > common; rm own/127');
      const live = await container.tree();
      expectEqualTrees(await (await rig().view(await container.commit())).tree(), live);
    });

    it('a stack as deep as it says, and refuses a deeper one', async () => {
      const { maxDepth } = rig().driver.properties;
      const depth = Math.min(maxDepth, DEEPEST);
      const contents = deepStack(depth, { implied: false });
      const stack = await rig().stack(contents);
      const expected = listModel(mergeModel(contents));
      for (const readOnly of [true, false]) {
        const snapshot = await rig().snapshot(stack, { readOnly });
        expectEqualTrees(await snapshot.tree(), expected);
        expect(await snapshot.changes()).toEqual([]);
        snapshot.unmount();
        expectEqualTrees(await snapshot.exported(), expected);
        snapshot.remove();
      }
      if (maxDepth > DEEPEST) return;
      const deeper = await rig().onto(stack, await rig().layer([file('one more')]));
      await expect(rig().snapshot(deeper)).rejects.toMatchObject({
        code: 'LAYER_LIMIT',
        details: { limit: maxDepth, found: maxDepth + 1 },
      });
    });

    it('a stack of more layers than it takes, where few are different', async () => {
      const [common, own] = [await rig().layer([file('common', 'c')]), await rig().layer([file('own', 'o')])];
      const layers = Array.from({ length: 1200 }, (_, index) => (index % 2 === 0 ? common : own));
      const root = { mode: 0o755, uid: 0, gid: 0, mtime: { sec: 0, nsec: 0 } };
      const expected = listModel(mergeModel([[file('common', 'c'), file('own', 'o')]]));
      expectEqualTrees(await (await rig().view({ layers, root })).tree(), expected);
    });

    it('what it counts', async () => {
      const container = await rig().snapshot(await rig().stack([[file('lower', Buffer.alloc(MIB, 1))]]));
      const { snapshots } = rig().driver;
      const usage = () => {
        rig().writeBack();
        return snapshots.usage(container.spec);
      };
      container.edit('touch .'); // the root counts once it is touched, and mounting makes a directory for the kernel
      const before = usage();
      const random = Buffer.from(Array.from({ length: MIB }, () => Math.floor(Math.random() * 256)));
      writeFileSync(join(container.mount(), 'new'), random);
      container.edit('truncate -s 100M hole; mkdir d; touch d/1 d/2 d/3');
      const after = usage();
      expect(after.bytes - before.bytes).toBeGreaterThanOrEqual(MIB);
      expect(after.bytes - before.bytes).toBeLessThan(2 * MIB);
      expect(after.inodes - before.inodes).toBe(6);
      container.edit('rm -r new hole d');
      expect(usage().inodes).toBe(before.inodes);
      expect(usage().bytes - before.bytes).toBeLessThan(MIB / 2);
    });

    it('a container to its size, or says that it cannot', async () => {
      const stack = await rig().stack([[file('lower', 'x')]]);
      if (!rig().driver.properties.sizeLimit) {
        await expect(rig().snapshot(stack, { sizeLimit: 8 * MIB })).rejects.toMatchObject({
          code: 'DRIVER_UNSUPPORTED',
        });
        return;
      }
      const [small, other] = [await rig().snapshot(stack, { sizeLimit: 16 * MIB }), await rig().snapshot(stack)];
      expect(() => small.edit('head -c 64M /dev/urandom > fill; sync fill')).toThrow(/No space left|quota exceeded/);
      other.edit('head -c 64M /dev/urandom > fill; sync fill');
      expect(readFileSync(join(small.mount(), 'lower'), 'utf8')).toBe('x');
    });
  });
}
