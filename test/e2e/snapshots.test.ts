/** The snapshots that doors name, in a real store: rows, mounts, uppers that become layers, and what is left of them. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bytesOf } from '../../src/core/bytes.js';
import { chainId, sha256, type Digest } from '../../src/core/digest.js';
import type { SnapshotName } from '../../src/core/snapshots.js';
import type { DriverName } from '../../src/core/words.js';
import { openWriter } from '../../src/metadata/database.js';
import { MIGRATIONS } from '../../src/metadata/schema.js';
import { entrySpec, layerTar } from '../model/spec.js';
import { describeWith, needsRoot } from '../support.js';
import { never, TestStore } from './store.js';

const SPACE = 'containerd/layerd';
const DRIVERS = ['overlay2', 'erofs', 'copy'] as const satisfies DriverName[];

function named(key: string): SnapshotName {
  return { space: SPACE, key };
}

const BASE = layerTar([
  entrySpec(bytesOf('etc'), { type: 'directory' }),
  entrySpec(bytesOf('etc/motd'), { content: Buffer.from('base\n') }),
]);
const BASE_ID = sha256(BASE);

async function* bytesOfTar(tar: Buffer): AsyncGenerator<Buffer> {
  yield tar;
}

/** Nobody has the bytes that an upper was unpacked from. */
async function nowhere(): Promise<null> {
  return null;
}

describeWith('snapshots that doors name', [needsRoot()], () => {
  describe.each(DRIVERS)('%s', (driver) => {
    let store: TestStore;

    beforeEach(async () => {
      store = await TestStore.open({ driver });
    });

    afterEach(async () => {
      await store.remove();
    });

    /** Makes a snapshot, lets `work` write into it, and commits it. */
    async function layer(name: string, parent: string | null, work: (root: string) => void): Promise<void> {
      const { snapshots } = store.engine;
      await snapshots.prepare(named(`making ${name}`), { parent });
      work(await snapshots.mount(named(`making ${name}`)));
      await snapshots.unmount(named(`making ${name}`), { force: false });
      await snapshots.commit(named(`making ${name}`), { name, labels: { name } });
    }

    /** What a view of a committed snapshot shows. */
    async function shown<T>(parent: string, look: (root: string) => T): Promise<T> {
      const { snapshots } = store.engine;
      await snapshots.prepare(named('look'), { parent, view: true });
      try {
        return look(await snapshots.mount(named('look')));
      } finally {
        await snapshots.unmount(named('look'), { force: true });
        await snapshots.remove(named('look'));
      }
    }

    async function threeLayers(): Promise<void> {
      await layer('one', null, (root) => {
        mkdirSync(join(root, 'dir'));
        writeFileSync(join(root, 'dir/a'), 'a1');
        writeFileSync(join(root, 'gone'), 'soon');
      });
      await layer('two', 'one', (root) => {
        rmSync(join(root, 'gone'));
        writeFileSync(join(root, 'dir/b'), 'b2');
      });
      await layer('three', 'two', (root) => {
        writeFileSync(join(root, 'dir/a'), 'a3');
      });
    }

    function expectThree(root: string): void {
      expect(readdirSync(root)).toEqual(['dir']);
      expect(readFileSync(join(root, 'dir/a'), 'utf8')).toBe('a3');
      expect(readFileSync(join(root, 'dir/b'), 'utf8')).toBe('b2');
    }

    async function removeAndCollect(): Promise<void> {
      const { snapshots } = store.engine;
      for (const { key } of [...snapshots.list(SPACE)].toReversed()) await snapshots.remove(named(key));
      await store.collect();
      expect(await store.leftovers()).toEqual([]);
      expect(store.mounted()).toEqual([]);
    }

    it('serves a commit at once, and again when its uppers have become layers', async () => {
      await threeLayers();
      await shown('three', expectThree);
      const { conversions, snapshots } = store.engine;
      await snapshots.prepare(named('early'), { parent: 'three' });
      const early = await snapshots.instructions(named('early'));
      conversions.enable('containerd/', nowhere);
      await conversions.settled();
      expect(['one', 'two', 'three'].map((key) => snapshots.layer(named(key)))).not.toContain(null);
      await shown('three', expectThree);
      expect(await snapshots.instructions(named('early'))).toEqual(early);
      expectThree(await snapshots.mount(named('early')));
      await snapshots.unmount(named('early'), { force: false });
      expect((await store.check()).problems).toEqual([]);
      expect((await store.engine.diskUsage()).total).toBe(await store.allocated());
      await removeAndCollect();
    });

    it('goes on after a restart', async () => {
      await threeLayers();
      await store.engine.snapshots.prepare(named('box'), { parent: 'three' });
      const before = [...store.engine.snapshots.list(SPACE)];
      const instructions = await store.engine.snapshots.instructions(named('box'));
      writeFileSync(join(await store.engine.snapshots.mount(named('box')), 'mine'), 'x');
      await store.reopen();
      const { snapshots, conversions, recovery } = store.engine;
      expect(recovery).toMatchObject({ strays: [], mounts: [] });
      expect([...snapshots.list(SPACE)]).toEqual(before);
      expect(await snapshots.instructions(named('box'))).toEqual(instructions);
      expect(readFileSync(join(await snapshots.mount(named('box')), 'mine'), 'utf8')).toBe('x');
      conversions.enable('containerd/', nowhere);
      await conversions.settled();
      await shown('three', expectThree);
      await snapshots.unmount(named('box'), { force: false });
      await removeAndCollect();
    });

    it('takes a layer without touching the upper, shares it, and gives it back bit for bit', async () => {
      const { snapshots } = store.engine;
      await snapshots.prepare(named('extract'), { parent: null });
      const applied = await snapshots.apply(named('extract'), { stream: bytesOfTar(BASE), diffId: BASE_ID }, never);
      expect(applied).toEqual({ diffId: BASE_ID, size: BASE.length, present: false });
      await snapshots.commit(named('extract'), { name: 'base', labels: { ref: BASE_ID } });
      await shown('base', (root) => expect(readFileSync(join(root, 'etc/motd'), 'utf8')).toBe('base\n'));
      const chunks: Buffer[] = [];
      for await (const chunk of snapshots.diff(named('base'), never)) chunks.push(chunk);
      expect(Buffer.concat(chunks).equals(BASE)).toBe(true);
      const { key } = (await snapshots.adopt('containerd/other', {
        chainId: BASE_ID,
        parent: null,
        labels: { ref: BASE_ID },
        same: 'ref',
      })) ?? { key: '' };
      expect(snapshots.layer({ space: 'containerd/other', key })).toBe(BASE_ID);
      await snapshots.remove({ space: 'containerd/other', key });
      expect([...store.engine.layers()]).toHaveLength(1);
      expect(await snapshots.usage(named('base'))).toMatchObject({ inodes: expect.any(Number) as number });
      await removeAndCollect();
    });

    it('adopts what another door brought, and nothing that is not there', async () => {
      const { snapshots } = store.engine;
      const adopt = (id: Digest, parent: string | null) =>
        snapshots.adopt(SPACE, { chainId: id, parent, labels: { ref: id }, same: 'ref' });
      await snapshots.prepare({ space: 'docker', key: 'x' }, { parent: null });
      await snapshots.apply({ space: 'docker', key: 'x' }, { stream: bytesOfTar(BASE) }, never);
      await snapshots.commit({ space: 'docker', key: 'x' }, { name: 'x' });
      const base = await adopt(BASE_ID, null);
      expect(base).toMatchObject({ kind: 'committed', parent: null, labels: { ref: BASE_ID } });
      expect(await adopt(BASE_ID, null)).toEqual(base);
      expect(await adopt(chainId(BASE_ID, sha256('nobody')), base?.key ?? '')).toBeNull();
      await layer('mine', base?.key ?? '', (root) => writeFileSync(join(root, 'own'), ''));
      expect(await adopt(chainId(BASE_ID, BASE_ID), 'mine')).toBeNull();
      await snapshots.remove({ space: 'docker', key: 'x' });
      await store.collect();
      await shown(base?.key ?? '', (root) => expect(existsSync(join(root, 'etc/motd'))).toBe(true));
      await removeAndCollect();
    });

    it('keeps what doors have apart, and refuses what is not so', async () => {
      const { snapshots } = store.engine;
      await layer('base', null, (root) => writeFileSync(join(root, 'f'), ''));
      await snapshots.prepare(named('child'), { parent: 'base', labels: { a: '1' } });
      const other = { space: 'containerd/other', key: 'child' };
      await expect(snapshots.prepare(other, { parent: 'base' })).rejects.toMatchObject({ code: 'SNAPSHOT_NOT_FOUND' });
      await expect(snapshots.prepare(named('child'), { parent: null })).rejects.toMatchObject({
        code: 'SNAPSHOT_EXISTS',
      });
      await expect(snapshots.prepare(named('x'), { parent: 'child' })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
      });
      await expect(snapshots.remove(named('base'))).rejects.toMatchObject({ code: 'SNAPSHOT_PRECONDITION' });
      await expect(snapshots.commit(named('base'), { name: 'y' })).rejects.toMatchObject({
        code: 'SNAPSHOT_PRECONDITION',
      });
      await expect(snapshots.commit(named('child'), { name: 'base' })).rejects.toMatchObject({
        code: 'SNAPSHOT_EXISTS',
      });
      await expect(snapshots.instructions(named('base'))).rejects.toMatchObject({ code: 'SNAPSHOT_PRECONDITION' });
      expect(() => snapshots.stat(named('nobody'))).toThrow('does not exist');
      expect(await snapshots.relabel(named('child'), (labels) => ({ ...labels, b: '2' }))).toMatchObject({
        labels: { a: '1', b: '2' },
      });
      expect([...snapshots.list('containerd/other')]).toEqual([]);
      await removeAndCollect();
    });

    it('moves onto a parent that is known at the commit only', async () => {
      const { snapshots } = store.engine;
      await layer('base', null, (root) => writeFileSync(join(root, 'below'), ''));
      await snapshots.prepare(named('loose'), { parent: null });
      writeFileSync(join(await snapshots.mount(named('loose')), 'above'), '');
      await snapshots.unmount(named('loose'), { force: false });
      expect(await snapshots.commit(named('loose'), { name: 'top', parent: 'base' })).toMatchObject({ parent: 'base' });
      await shown('top', (root) => expect(readdirSync(root).sort()).toEqual(['above', 'below']));
      await snapshots.prepare(named('bound'), { parent: 'base' });
      await expect(snapshots.commit(named('bound'), { name: 'z', parent: 'top' })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
      });
      await removeAndCollect();
    });
  });

  it('tells of an upper that was changed after its commit, and makes no layer of it', async () => {
    const store = await TestStore.open({ driver: 'overlay2' });
    try {
      const { snapshots, conversions } = store.engine;
      await snapshots.prepare(named('open'), { parent: null });
      const root = await snapshots.mount(named('open'));
      writeFileSync(join(root, 'f'), 'before');
      await snapshots.commit(named('open'), { name: 'sealed' });
      writeFileSync(join(root, 'f'), 'after!');
      conversions.enable('containerd/', nowhere);
      await conversions.settled();
      expect(snapshots.layer(named('sealed'))).toBeNull();
      expect([...store.engine.layers()]).toEqual([]);
      const { problems } = await store.check();
      expect(problems.find(({ code }) => code === 'UPPER_CHANGED')).toMatchObject({ affects: ['sealed'] });
      execFileSync('umount', [root]);
      await snapshots.remove(named('sealed'));
      await store.collect();
      expect((await store.check()).problems).toEqual([]);
    } finally {
      await store.remove();
    }
  });

  it('says that a committed upper is gone', async () => {
    const store = await TestStore.open({ driver: 'overlay2' });
    try {
      const { snapshots } = store.engine;
      await snapshots.prepare(named('made'), { parent: null });
      await snapshots.commit(named('made'), { name: 'lost' });
      const { rows } = await store.engine.diskUsage();
      const dir = rows.find(({ kind }) => kind === 'snapshot')?.id ?? '';
      renameSync(join(store.config.root, 's', dir), join(store.home, 'aside'));
      expect(await store.problems({ quick: true })).toContainEqual(expect.stringContaining('UPPER_MISSING'));
    } finally {
      await store.remove();
    }
  });

  it('makes one layer of an original that is found, and of what is written where none is', async () => {
    const store = await TestStore.open({ driver: 'erofs' });
    try {
      const { snapshots, conversions } = store.engine;
      await snapshots.prepare(named('made'), { parent: null });
      const root = await snapshots.mount(named('made'));
      mkdirSync(join(root, 'etc'));
      writeFileSync(join(root, 'etc/motd'), 'base\n');
      await snapshots.unmount(named('made'), { force: false });
      await snapshots.commit(named('made'), { name: 'base' });
      conversions.enable('containerd/', async ({ key, parentChain }) => {
        expect([key, parentChain]).toEqual(['base', null]);
        return { diffId: BASE_ID, blobDigest: BASE_ID, open: () => bytesOfTar(BASE) };
      });
      await conversions.settled();
      expect(snapshots.layer(named('base'))).toBe(BASE_ID);
    } finally {
      await store.remove();
    }
  });
});

describe('the schema', () => {
  it('is taken to the present one without losing a container', async () => {
    const store = await TestStore.open({ driver: 'copy' });
    try {
      await store.stop();
      const path = join(store.home, 'old.db');
      const old = new Database(path);
      old.function('candidate_since', () => 0);
      old.exec(MIGRATIONS[0] ?? '');
      old.pragma('user_version = 1');
      old.exec(`
        INSERT INTO layer VALUES (1, 'sha256:aa', 1, 1, 0, 0, NULL, 1);
        INSERT INTO stored_layer VALUES (1, 1, 'copy', 'aaaaaaaa', '', 1, 1, 0);
        INSERT INTO stack VALUES (1, NULL, 1, 1);
        INSERT INTO chain VALUES (1, 'sha256:aa', NULL, 1, 1, 1);
        INSERT INTO image VALUES (1, 'sha256:bb', x'7b7d', 'linux/amd64', 1, NULL, NULL, NULL, 1, 1);
        INSERT INTO snapshot VALUES (1, 'native', 'c', 'bbbbbbbb', 'copy', 1, 1, 0, 0, NULL, 7);
        INSERT INTO container VALUES ('c', 'c', 1, 1, 'image', '{}', 0, '', NULL, 7);
      `);
      old.close();
      const db = openWriter(path);
      expect(db.prepare('SELECT kind, dir, created FROM snapshot').all()).toEqual([
        { kind: 'active', dir: 'bbbbbbbb', created: 7000 },
      ]);
      expect(db.prepare('SELECT layer_id, dir FROM stored_layer').all()).toEqual([{ layer_id: 1, dir: 'aaaaaaaa' }]);
      expect(db.pragma('foreign_key_check')).toEqual([]);
      expect(() => db.exec('DELETE FROM snapshot')).toThrow('FOREIGN KEY');
      db.close();
    } finally {
      await store.remove();
    }
  });
});
