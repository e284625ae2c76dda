/** The database is lost, damaged, backed up and restored: layers and images come back from the files. */
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { DriverName } from '../../src/core/words.js';
import { Engine } from '../../src/engine.js';
import { never, silent, TESTED_DRIVERS, withStore, type TestStore } from '../e2e/store.js';
import { describeWith, needsRoot } from '../support.js';
import { LOWER, NUMBERS, REF, writeCrashImage } from './image.js';

const TAGGED = 'localhost/tagged:1';

describeWith('a lost database', [needsRoot()], () => {
  describe.each(TESTED_DRIVERS)('%s', (driver) => {
    it('is made anew: layers, images, names', () => comesBack(driver), 240_000);
  });

  it('is no empty store: a start refuses it and harms nothing', () =>
    withImage('overlay2', async (store) => {
      await store.stop();
      rmSync(dirname(database(store)), { recursive: true });
      await expect(store.start()).rejects.toMatchObject({ code: 'STORE_DAMAGED' });
      await Engine.rebuild(store.config, silent);
      await store.start();
      expect(await store.problems()).toEqual([]);
    }));

  it('that is damaged is told, with what to do', () =>
    withImage('overlay2', async (store) => {
      await store.stop();
      const bytes = readFileSync(database(store));
      // What is only in the log would make up for the first page.
      for (const beside of ['-wal', '-shm']) rmSync(database(store) + beside, { force: true });
      writeFileSync(database(store), bytes.fill(7, 0, 4096));
      await expect(store.start()).rejects.toMatchObject({
        code: 'STORE_DAMAGED',
        hint: expect.stringContaining('layerd rebuild') as unknown,
      });
      const { images } = await Engine.rebuild(store.config, silent);
      expect(images.map(({ refs }) => refs)).toEqual([[REF]]);
    }));

  it('leaves what cannot be told: uppers and damaged layers are set aside, not removed', () =>
    withImage('overlay2', async (store, archive) => {
      const root = await store.container(REF, 'worker');
      writeFileSync(join(root, 'etc/written'), 'by a container');
      await store.engine.unmount('worker', {});
      const { snapshot } = store.engine.container('worker').directories;
      const upper = statSync(join(String(snapshot), 'd', 'etc/written'), { throwIfNoEntry: false })?.size;
      rmSync(join(String(store.engine.image(REF).layers[0]?.path), 'catalog'));
      await store.stop();
      const { images, layers, lost } = await Engine.rebuild(store.config, silent);
      expect({ images, layers, lost: lost.length, upper }).toEqual({ images: [], layers: 2, lost: 3, upper });
      await store.start();
      await store.collect();
      const { rows, total } = await store.engine.diskUsage();
      expect(rows.find(({ id }) => id === 'lost')?.bytes).toBeGreaterThan(0);
      expect(total).toBe(await store.allocated());
      await store.load(archive);
      expect(await store.problems()).toEqual([]);
    }));
});

describeWith('a backup', [needsRoot()], () => {
  it('is made while the store serves, and restored', () =>
    withImage('overlay2', async (store, archive) => {
      const tagging = (async () => {
        for (let count = 0; count < 20; count += 1) await store.engine.tag(REF, `localhost/busy:${count}`);
      })();
      const file = join(store.home, 'backup');
      await writeFile(file, await store.engine.backup(never));
      await tagging;
      await store.engine.removeImage(REF, {});
      await store.engine.tag('localhost/busy:1', TAGGED);
      await store.stop();
      const aside = Engine.restore(store.config, file);
      expect(existsSync(join(aside ?? '', 'layerd.db'))).toBe(true);
      await store.start();
      const refs = [...store.engine.images()].flatMap((image) => image.refs);
      expect(refs).toContain(REF);
      expect(refs).not.toContain(TAGGED);
      expect(await store.problems()).toEqual([]);
      expect((await store.load(archive)).layersLoaded).toBe(0);
      expect(existsSync(`${database(store)}.backup`)).toBe(false);
    }));

  it('of something else is refused, and the database stays', () =>
    withImage('overlay2', async (store) => {
      await store.stop();
      const file = join(store.home, 'no-backup');
      writeFileSync(file, 'not a database, but long enough to be looked at'.repeat(100));
      const refused = (path: string, code: string): void =>
        expect(() => Engine.restore(store.config, path)).toThrow(
          expect.objectContaining({ code, message: expect.stringContaining(path) as string }),
        );
      refused(file, 'STORE_DAMAGED');
      refused(join(store.home, 'nothing'), 'INVALID_ARGUMENT');
      refused(store.home, 'INVALID_ARGUMENT');
      expect(readdirSync(join(store.config.root, 'trash'))).toEqual([]);
      await store.start();
      expect(store.engine.image(REF).refs).toEqual([REF]);
    }));
});

function database({ config }: TestStore): string {
  return join(config.root, 'db', 'layerd.db');
}

async function withImage(
  driver: DriverName,
  work: (store: TestStore, archive: string) => Promise<void>,
): Promise<void> {
  await withStore({ driver }, async (store) => {
    const archive = join(store.home, 'image.tar');
    writeCrashImage(archive);
    await store.load(archive);
    await work(store, archive);
  });
}

function comesBack(driver: DriverName): Promise<void> {
  return withImage(driver, async (store, archive) => {
    await store.engine.tag(REF, TAGGED);
    const before = store.engine.image(REF);
    await store.stop();
    rmSync(dirname(database(store)), { recursive: true });
    const report = await Engine.rebuild(store.config, silent);
    expect(report).toEqual({ layers: 3, images: [{ imageId: before.id, refs: [REF, TAGGED] }], lost: [] });
    await store.start();
    const after = store.engine.image(TAGGED);
    expect({ ...after, created: 0 }).toEqual({ ...before, created: 0 });
    expect(await store.problems()).toEqual([]);
    expect((await store.load(archive)).layersLoaded).toBe(0);
    const root = await store.container(REF, 'after');
    expect(readFileSync(join(root, 'etc/lower'), 'utf8')).toBe(LOWER);
    expect(readFileSync(join(root, 'usr/lib/app/numbers'), 'utf8')).toBe(NUMBERS);
    await store.removeAll();
    const { total } = await store.engine.diskUsage();
    expect(total).toBe(await store.allocated());
  });
}
