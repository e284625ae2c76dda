/** Layers of several drivers in one stack. */
import { describe, expect, it } from 'vitest';
import { mergeModel } from '../../model/merge-model.js';
import type { DriverName } from '../../../src/core/words.js';
import { IMAGE } from '../edits.js';
import { file, whiteout } from '../entries.js';
import { listModel } from '../listing.js';
import type { Rig } from '../rig.js';
import type { UseRig } from '../suite.js';
import { expectEqualTrees } from './stacks.js';

const OTHERS: readonly DriverName[] = ['overlay2', 'erofs', 'copy'];
const CONTENTS = [...IMAGE, [file('etc/four', '4'), whiteout('etc/one')], [file('usr/lib/late/implied', 'x')]];

/** Whether layers of a driver have a directory that overlay can take. */
async function hasLower(rig: Rig, driver: DriverName): Promise<boolean> {
  const layer = await rig.layer([file('x')], driver);
  return rig.drivers(driver).layers.lower(layer) !== null;
}

export function mixedPart(rig: UseRig): void {
  describe('takes into one stack layers of its own and of', () => {
    it.each(OTHERS)('%s', async (other) => {
      const own = rig().driver.name;
      if (!rig().driver.properties.fullFidelity && other !== 'copy') return;
      const mixed = await rig().stack(CONTENTS, (index) => (index % 2 === 0 ? own : other));
      if ((await hasLower(rig(), own)) && !(await hasLower(rig(), other))) {
        const mount = async () => (await rig().snapshot(mixed)).mount();
        await expect(mount()).rejects.toMatchObject({ code: 'DRIVER_UNSUPPORTED' });
        return;
      }
      const container = await rig().snapshot(mixed);
      expectEqualTrees(await container.tree(), listModel(mergeModel(CONTENTS)));
      container.edit('echo x > new; rm -r usr/lib/sub');
      const live = await container.tree();
      expectEqualTrees(await (await rig().view(await container.commit())).tree(), live);
    });
  });
}
