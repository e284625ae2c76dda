/** What goes, what stays and for how long; and what only seems to go. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { fixture, type Fixture } from '../../bench/fixtures/fixtures.js';
import { imageRef } from '../../bench/fixtures/image.js';
import { run } from '../../bench/fixtures/shell.js';
import { describeWith, PATIENCE } from '../support.js';
import { needsFixtures, never, withStore, type TestStore } from './store.js';

const REF = imageRef('tiny');

let tiny: Fixture;

beforeAll(async () => {
  tiny = await fixture('tiny');
}, 600_000);

function load(store: TestStore): Promise<unknown> {
  return store.load(tiny.forms.ociArchive.path);
}

function layerCount(store: TestStore): number {
  return [...store.engine.layers()].length;
}

describeWith('garbage', needsFixtures(), () => {
  it('waits for the end of its grace period, unless it is told not to', async () => {
    await withStore({ driver: 'overlay2' }, async (store) => {
      await load(store);
      await store.engine.removeImage(REF, {});
      const foretold = await store.engine.gc({ dryRun: true, grace: 0 });
      expect(foretold.waiting).toEqual({ things: 0, bytes: 0 });
      const waiting = { things: 3, bytes: foretold.bytes };
      expect(await store.engine.gc({ dryRun: true })).toMatchObject({ removed: [], waiting });
      expect(await store.engine.gc({ wait: true })).toMatchObject({ removed: [], waiting });
      expect(layerCount(store)).toBe(3);
      await load(store);
      expect((await store.collect()).removed).toEqual([]);
      await store.engine.removeImage(REF, {});
      expect((await store.collect()).removed).toHaveLength(3);
      expect(layerCount(store)).toBe(0);
    });
  });

  it('is nothing that a lease holds, until that ends or expires', async () => {
    await withStore({ driver: 'overlay2' }, async (store) => {
      await load(store);
      const kept = await store.engine.createLease({ holds: [tiny.configDigest] });
      const brief = await store.engine.createLease({ holds: [tiny.configDigest], ttlMs: 3_600_000 });
      await store.engine.removeImage(REF, {});
      expect((await store.collect()).removed).toEqual([]);
      await store.engine.removeLease(kept.id);
      expect((await store.collect()).removed).toEqual([]);
      await store.engine.updateLease(brief.id, { ttlMs: 1 });
      await expect
        .poll(async () => (await store.collect()).removed.map(({ kind }) => kind), PATIENCE)
        .toContain('lease');
      expect(layerCount(store)).toBe(0);
      expect(store.engine.leases()).toEqual([]);
    });
  });

  describe.each(['overlay2', 'erofs'] as const)('%s', (driver) => {
    it('is told of as pinned while somebody else has it mounted', async () => {
      await withStore({ driver }, async (store) => {
        await load(store);
        await store.engine.createContainer(REF, { name: 'c' });
        const [instruction] = await store.engine.mountInstructions('c');
        const elsewhere = join(store.home, 'elsewhere');
        mkdirSync(elsewhere);
        const options = instruction?.options.join(',') ?? '';
        await run('mount', ['-t', instruction?.type ?? '', '-o', options, 'overlay', elsewhere]);
        await store.engine.removeContainer('c', {});
        await store.engine.removeImage(REF, {});
        const collected = await store.collect();
        expect(collected.pinned).toBeGreaterThan(0);
        expect(collected.freed).toBe(collected.bytes - collected.pinned);
        await run('umount', [elsewhere]);
        expect((await store.check()).problems).toEqual([]);
      });
    });
  });
});

describeWith('a commit without changes', needsFixtures(), () => {
  it('makes an image, and no layer', async () => {
    await withStore({ driver: 'overlay2' }, async (store) => {
      await load(store);
      await store.engine.createContainer(REF, { name: 'c' });
      const committed = await store.commit('c', { ref: 'test/same:1', changes: ['ENV A=b'] });
      expect(committed).toMatchObject({ diffId: null, whileMounted: false });
      expect(store.engine.image('test/same:1').layers).toHaveLength(3);
      expect(layerCount(store)).toBe(3);
    });
  });
});

describeWith('events', needsFixtures(), () => {
  it('are kept up to their number, the newest of them', async () => {
    await withStore({ driver: 'overlay2', events: { maxRows: 100 } }, async (store) => {
      await load(store);
      for (let index = 0; index < 130; index += 1) await store.engine.tag(REF, `test/tag:${index}`);
      await store.collect();
      const seqs: number[] = [];
      let last = '';
      for await (const { seq, data } of store.engine.events(0, false, never)) {
        seqs.push(seq);
        last = String(data['ref']);
      }
      expect(seqs.length).toBeLessThanOrEqual(100);
      expect(seqs.length).toBeGreaterThan(90);
      expect(last).toBe('docker.io/test/tag:129');
      expect(seqs).toEqual(seqs.map((_, index) => (seqs[0] ?? 0) + index));
    });
  });
});
