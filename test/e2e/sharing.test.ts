/** Many containers on one image have every lower byte in common, on disk and in the page cache. */
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { run } from '../../bench/fixtures/shell.js';
import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { dockerMembers, plainLayer, tarOf, testImage } from '../unit/image-synthetic.js';
import { allocatedBytes, withStore } from './store.js';

const CONTAINERS = 200;
const MIB = 1024 * 1024;
const FILE_BYTES = 16 * MIB;
const PLATFORM = { os: 'linux', architecture: 'amd64' };
const content = randomBytes(FILE_BYTES);

/** A docker-archive of one layer with one large file. */
function archiveIn(home: string): string {
  const tar = tarOf([{ path: 'large', bytes: content }]);
  const path = join(home, 'large.tar');
  writeFileSync(path, tarOf(dockerMembers([{ image: testImage([plainLayer(tar)]), tags: ['test/large:1'] }])));
  return path;
}

/** Bytes of a file that are in the page cache. */
async function cached(path: string): Promise<number> {
  return Number(await run('fincore', ['--bytes', '--noheadings', '--output', 'RES', path]));
}

/** Takes a file out of the page cache. */
async function drop(path: string): Promise<void> {
  await run('sync', ['-f', path]);
  await run('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
}

describeWith('containers on one image', [needsRoot(), needsProgram('fincore', 'util-linux-extra')], () => {
  describe.each(['overlay2', 'erofs'] as const)('%s', (driver) => {
    it('share its bytes', async () => {
      await withStore({ driver }, async (store) => {
        await store.load(archiveIn(store.home), { platform: PLATFORM });
        const before = await allocatedBytes(store.config.root);
        const names = Array.from({ length: CONTAINERS }, (_, index) => `c${index}`);
        const roots = await Promise.all(names.map((name) => store.container('test/large:1', name)));
        const after = await allocatedBytes(store.config.root);
        expect((after - before) / CONTAINERS).toBeLessThan(0.1 * MIB);

        const files = roots.map((root) => join(root, 'large'));
        const [first = '', second = '', third = ''] = files;
        await drop(first);
        for (const file of [first, second, third]) expect(await cached(file)).toBe(0);
        expect(readFileSync(second).equals(content)).toBe(true);
        // What one has read is there for all.
        for (const file of files.filter((_, index) => index % 20 === 0))
          expect(await cached(file)).toBeGreaterThan(FILE_BYTES / 2);
        await drop(third);
        expect(await cached(first)).toBe(0);
        // What one has changed is its own.
        writeFileSync(first, 'changed', { flag: 'r+' });
        expect(readFileSync(second).equals(content)).toBe(true);
        expect(readFileSync(first).subarray(0, 7).toString()).toBe('changed');
      });
    }, 120_000);
  });

  it.each(['on', 'off', 'auto'] as const)(
    'by erofs have them in memory once, whatever it reads through (directio: %s)',
    async (directio) => {
      const { driverOptions } = DEFAULT_ENGINE_CONFIG;
      const gc = { intervalMs: 500, graceMs: 0 };
      await withStore(
        { driver: 'erofs', driverOptions: { ...driverOptions, erofs: { directio } }, gc },
        async (store) => {
          await store.load(archiveIn(store.home), { platform: PLATFORM });
          const [dir = ''] = readdirSync(join(store.config.root, 'l'));
          const tar = join(store.config.root, 'l', dir, 'tar');
          const files: string[] = [];
          for (const name of ['one', 'two']) files.push(join(await store.container('test/large:1', name), 'large'));
          for (const file of files) expect(readFileSync(file).equals(content)).toBe(true);
          await expect.poll(() => cached(tar), { timeout: 60_000 }).toBeLessThan(MIB);
          for (const file of files) expect(await cached(file)).toBeGreaterThan(FILE_BYTES / 2);
        },
      );
    },
    120_000,
  );
});
