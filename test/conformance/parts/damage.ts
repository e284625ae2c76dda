/**
 * Damage is found. What the files of a stored layer are is the driver's affair: everything that lies in its directory is
 * damaged in every way, one after the other, and whenever what the layer shows or gives is not right, verify() has to say
 * so; what repair() says it has mended is right again.
 */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  lstatSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  statSync,
  truncateSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { LayerFault } from '../../../drivers/driver.js';
import type { EntrySpec } from '../../model/spec.js';
import { mergeModel } from '../../model/merge-model.js';
import { compareTrees, type TreeListing } from '../../reference/tree.js';
import { device, dir, file, link, opaque, symlink, whiteout, xattrs } from '../entries.js';
import { listModel } from '../listing.js';
import { collect, tarOf, type Rig, type RigLayer, type RigStack } from '../rig.js';
import type { UseRig } from '../suite.js';
import { removeAll } from '../file-system.js';

const BELOW: EntrySpec[] = [dir('d', { mode: 0o700 }), dir('i', { mode: 0o711 }), file('gone'), dir('o'), file('o/x')];
const LAYER: EntrySpec[] = [
  dir('d', xattrs({ 'user.note': 'x' })),
  file('d/file', 'content', { mode: 0o640 }),
  link('link', 'd/file'),
  file('empty'),
  symlink('symlink', 'empty'),
  device('device', 'char', 1, 3),
  whiteout('gone'),
  dir('o'),
  opaque('o'),
  file('i/implied', 'below an implied directory'),
  file('twice', 'first'),
  file('twice', 'the second, which is longer'),
];
const CONTENTS = [BELOW, LAYER];

/** Ways to damage a file; false where the way does not apply to it. */
const DAMAGES: Record<string, (path: string) => boolean> = {
  deleted: (path) => {
    rmSync(path, { recursive: true });
    return true;
  },
  flipped: (path) => {
    const stat = lstatSync(path);
    if (!stat.isFile() || stat.size === 0) return false;
    const fd = openSync(path, 'r+');
    const byte = Buffer.alloc(1);
    const at = Math.floor(stat.size / 2);
    readSync(fd, byte, 0, 1, at);
    writeSync(fd, Buffer.from([byte.readUInt8(0) ^ 0x20]), 0, 1, at);
    closeSync(fd);
    return true;
  },
  truncated: (path) => {
    const stat = lstatSync(path);
    if (!stat.isFile() || stat.size === 0) return false;
    truncateSync(path, Math.floor(stat.size / 2));
    return true;
  },
  longer: (path) => lstatSync(path).isFile() && shell(path, 'printf x >> "$1"'),
  'chmod 611': (path) => !lstatSync(path).isSymbolicLink() && shell(path, 'chmod 611 "$1"'),
  chown: (path) => shell(path, 'chown -h 5:6 "$1"'),
  touched: (path) => shell(path, 'touch -h -d @5 "$1"'),
  'with a strange attribute': (path) => {
    const stat = lstatSync(path);
    return (stat.isFile() || stat.isDirectory()) && shell(path, 'setfattr -n user.strange -v x "$1"');
  },
  'with an extra file': (path) => lstatSync(path).isDirectory() && shell(path, 'echo x > "$1/extra"'),
  'a directory': (path) => lstatSync(path).isFile() && shell(path, 'rm "$1"; mkdir "$1"'),
};

function shell(path: string, script: string): true {
  execFileSync('sh', ['-euc', script, 'sh', path]);
  return true;
}

function namesBelow(path: string): string[] {
  return readdirSync(path, { recursive: true, encoding: 'utf8' }).sort();
}

/** What the stack shows, or null where that cannot even be told. */
async function shown(rig: Rig, stack: RigStack): Promise<TreeListing | null> {
  try {
    const view = await rig.view(stack);
    try {
      return await view.tree();
    } finally {
      view.remove();
    }
  } catch {
    return null;
  }
}

async function isRight(rig: Rig, stack: RigStack, layer: RigLayer): Promise<boolean> {
  const tree = await shown(rig, stack);
  if (tree === null || compareTrees(tree, listModel(mergeModel(CONTENTS))).length > 0) return false;
  return (await tarIfTold(rig, layer))?.equals(tarOf(LAYER)) ?? false;
}

/** Null where the layer says that it is damaged; any other failure is one. */
async function tarIfTold(rig: Rig, layer: RigLayer): Promise<Buffer | null> {
  try {
    return await collect(rig.driver.layers.tar(layer));
  } catch (thrown) {
    expect(thrown).toMatchObject({ code: 'LAYER_DAMAGED' });
    return null;
  }
}

/** One damage done to one file of a fresh layer, and what came of it. */
async function tryDamage(rig: Rig, name: string, damage: (path: string) => boolean): Promise<LayerFault[] | null> {
  const stack = await rig.stack(CONTENTS);
  const layer = stack.layers.at(-1);
  if (layer === undefined) throw new Error('the stack has a layer');
  try {
    if (!damage(join(rig.places.layer(layer.dir), name))) return null;
    const { layers } = rig.driver;
    const quick = await layers.verify(layer, { quick: true });
    const faults = await layers.verify(layer, { quick: false });
    expect(quick.length > 0 && faults.length === 0, 'what is found quickly is found at length').toBe(false);
    if (faults.length === 0) expect(await isRight(rig, stack, layer), 'no fault is found').toBe(true);
    const left = await layers.repair(layer);
    if (faults.length > 0) expect(left.length === 0).toBe(faults.every(({ repairable }) => repairable));
    if (left.length === 0) {
      layers.release(layer);
      expect(await isRight(rig, stack, layer), 'it says that it is mended').toBe(true);
      expect(await layers.verify(layer, { quick: false })).toEqual([]);
    }
    return quick;
  } finally {
    for (const stored of stack.layers) rig.removeLayer(stored);
  }
}

export function damagePart(rig: UseRig): void {
  describe('finds', () => {
    it.each(Object.entries(DAMAGES))('every file that is %s', { timeout: 120_000 }, async (way, damage) => {
      if (!rig().driver.properties.fullFidelity && way === 'chown') return;
      const [probe] = (await rig().stack([LAYER])).layers;
      for (const name of namesBelow(rig().places.layer(probe?.dir ?? ''))) {
        const quick = await tryDamage(rig(), name, damage).catch((thrown: unknown) => {
          throw new Error(`${name}: ${thrown instanceof Error ? thrown.message : String(thrown)}`, { cause: thrown });
        });
        if (quick !== null && (way === 'deleted' || way === 'truncated')) expect(quick, name).not.toEqual([]);
      }
    });

    it('a layer that is gone altogether', async () => {
      const layer = await rig().layer(LAYER);
      removeAll(rig().places.layer(layer.dir));
      for (const quick of [true, false]) {
        const [fault] = await rig().driver.layers.verify(layer, { quick });
        expect(fault).toMatchObject({ code: 'LAYER_MISSING', repairable: false });
      }
      expect(rig().driver.layers.looksWhole(layer)).toBe(false);
      expect(await tarIfTold(rig(), layer)).toBe(null);
      expect(await rig().driver.layers.repair(layer)).not.toEqual([]);
      shell(rig().places.layer(layer.dir), 'mkdir "$1"');
    });

    it('nothing in a layer that is right, whatever was done with it', async () => {
      const stack = await rig().stack(CONTENTS);
      const container = await rig().snapshot(stack);
      container.edit('chmod -R 700 d; echo x > d/file; rm -r o');
      for (const layer of stack.layers) {
        expect(rig().driver.layers.looksWhole(layer)).toBe(true);
        expect(await rig().driver.layers.verify(layer, { quick: false })).toEqual([]);
        expect(await rig().driver.layers.repair(layer)).toEqual([]);
      }
      expect(statSync(rig().places.layer(stack.layers[0]?.dir ?? '')).isDirectory()).toBe(true);
    });
  });
}
