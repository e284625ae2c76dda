/**
 * Bit rot: files of the store are flipped, truncated, deleted, or lose their mode, at places that a seed decides
 * (LAYERD_SEED). `check` must find each, say whose image it concerns, and loading the image again must heal it.
 */
import { chmodSync, closeSync, lstatSync, openSync, readSync, rmSync, truncateSync, writeSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { DriverName } from '../../src/core/words.js';
import { TESTED_DRIVERS, withStore, type TestStore } from '../e2e/store.js';
import { describeWith, needsRoot } from '../support.js';
import { REF, writeCrashImage } from './image.js';
import { FULL, Random, SEED } from './random.js';

const DAMAGES = FULL ? 400 : 12;

describeWith(`bit rot (LAYERD_SEED=${SEED})`, [needsRoot()], () => {
  describe.each(TESTED_DRIVERS)('%s', (driver) => {
    it('is found, explained and healed', () => rot(driver), 3_600_000);
  });
});

async function rot(driver: DriverName): Promise<void> {
  const random = new Random(`${SEED} ${driver}`);
  await withStore({ driver, keepBlobs: true }, async (store) => {
    const archive = join(store.home, '..', `rot-${process.pid}-${driver}.tar`);
    writeCrashImage(archive);
    try {
      await store.load(archive);
      for (let count = 0; count < DAMAGES; count += 1) {
        const what = damage(store, random.pick(await files(store)), random);
        const { ok, problems } = await store.check();
        expect({ what, ok }).toEqual({ what, ok: false });
        expect({ what, affects: problems.map(({ affects, subject }) => affects[0] ?? subject) }).toEqual({
          what,
          affects: expect.arrayContaining([what.includes(' i/') ? expect.stringMatching(/^sha256:/) : REF]) as unknown,
        });
        await store.load(archive);
        await store.check({ repair: true });
        await store.collect();
        expect({ what, problems: await store.problems() }).toEqual({ what, problems: [] });
      }
    } finally {
      rmSync(archive, { force: true });
    }
  });
}

/** Regular files of layers, blobs and images, relative to the root. */
async function files({ config: { root } }: TestStore): Promise<string[]> {
  const names = await Promise.all(
    ['l', 'b', 'i'].map(async (directory) => {
      const below = await readdir(join(root, directory), { recursive: true });
      return below.map((name) => join(directory, name));
    }),
  );
  return names.flat().filter((name) => lstatSync(join(root, name)).isFile());
}

/** Does something to a file that its content (or, of a tree, its mode) shows; says what. */
function damage({ config: { root } }: TestStore, name: string, random: Random): string {
  const path = join(root, name);
  const { size, mode } = lstatSync(path);
  const inTree = name.startsWith('l/') && name.split('/').length > 3;
  const kind = random.pick(
    size === 0 ? ['delete'] : inTree ? ['flip', 'truncate', 'delete', 'chmod'] : ['flip', 'truncate', 'delete'],
  );
  if (kind === 'delete') rmSync(path);
  else if (kind === 'truncate') truncateSync(path, random.below(size));
  else if (kind === 'chmod') chmodSync(path, mode ^ 0o100);
  else flip(path, random.below(size), 1 << random.below(8));
  return `${kind} ${name}`;
}

function flip(path: string, position: number, bit: number): void {
  const fd = openSync(path, 'r+');
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, position);
  byte[0] = (byte[0] ?? 0) ^ bit;
  writeSync(fd, byte, 0, 1, position);
  closeSync(fd);
}
