/**
 * The snapshots service as containerd's own test suite and its callers expect it of a proxy snapshotter: what is called, and
 * answered. (What it mounts: containerd-mounts.test.ts.)
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bytesOf } from '../../src/core/bytes.js';
import { chainId, sha256 } from '../../src/core/digest.js';
import type { DriverName } from '../../src/core/words.js';
import type { Info } from '../../src/doors/containerd/messages.js';
import { never } from '../e2e/store.js';
import { entrySpec, layerTar } from '../model/spec.js';
import { describeWith, needsRoot } from '../support.js';
import { codeOf, SnapshotsClient } from './snapshots-client.js';
import { SnapshotsRig } from './snapshots-rig.js';

const REF = 'containerd.io/snapshot.ref';
const DRIVERS = ['overlay2', 'erofs'] as const satisfies DriverName[];

/** Microseconds of a time that the protocol told. */
function micros({ createdAt, updatedAt }: Info): { created: number; updated: number } {
  const value = (time: Info['createdAt']) => (time?.seconds ?? 0) * 1e6 + (time?.nanos ?? 0) / 1e3;
  return { created: value(createdAt), updated: value(updatedAt) };
}

describeWith('the snapshots service', [needsRoot()], () => {
  describe.each(DRIVERS)('%s', (driver) => {
    let rig: SnapshotsRig;

    beforeEach(async () => {
      rig = await SnapshotsRig.open(driver);
    });
    afterEach(() => rig.remove());

    it('prepares, commits, and makes children that see what lies below', async () => {
      await rig.layer('/a', '', (root) => {
        mkdirSync(join(root, 'a/b'), { recursive: true });
        writeFileSync(join(root, 'foo'), 'foo\n', { mode: 0o777 });
      });
      expect(await rig.client.list()).toEqual(['/a']);
      await rig.layer('/b', '/a', (root) => {
        expect(readFileSync(join(root, 'foo'), 'utf8')).toBe('foo\n');
        writeFileSync(join(root, 'bar'), 'bar\n');
        rmSync(join(root, 'a/b'), { recursive: true });
      });
      expect(await rig.client.stat('/b')).toMatchObject({ parent: '/a', kind: 3, name: '/b' });
      expect(await codeOf(rig.client.stat('/b active'))).toBe('NOT_FOUND');
      await rig.shown('/b', (root) => {
        expect(readdirSync(root).sort()).toEqual(['a', 'bar', 'foo']);
        expect(readdirSync(join(root, 'a'))).toEqual([]);
      });
      expect(await codeOf(rig.client.remove('/a'))).toBe('FAILED_PRECONDITION');
      await expect(rig.client.remove('/a')).rejects.toThrow('remove');
      await rig.client.remove('/b');
      await rig.client.remove('/a');
      expect(await rig.client.list()).toEqual([]);
    });

    it('answers with the codes that containerd tells errors by', async () => {
      await rig.layer('base', '', () => undefined);
      await rig.client.prepare('active', 'base');
      await rig.client.view('view', 'base');
      const codes = {
        takenByActive: await codeOf(rig.client.prepare('active')),
        takenByView: await codeOf(rig.client.view('active')),
        takenByCommitted: await codeOf(rig.client.prepare('base')),
        noParent: await codeOf(rig.client.prepare('x', 'nobody')),
        parentActive: await codeOf(rig.client.prepare('x', 'active')),
        parentView: await codeOf(rig.client.view('x', 'view')),
        mountsOfNone: await codeOf(rig.client.mounts('x')),
        mountsOfCommitted: await codeOf(rig.client.mounts('base')),
        commitNone: await codeOf(rig.client.commit('y', 'x')),
        commitView: await codeOf(rig.client.commit('y', 'view')),
        commitCommitted: await codeOf(rig.client.commit('y', 'base')),
        commitTaken: await codeOf(rig.client.commit('base', 'active')),
        otherParent: await codeOf(rig.client.commit('y', 'active', {}, 'other')),
        removeNone: await codeOf(rig.client.remove('x')),
        statNone: await codeOf(rig.client.stat('x')),
        usageNone: await codeOf(rig.client.usage('x')),
        updateNone: await codeOf(rig.client.update({ name: 'x' }, [])),
        updateParent: await codeOf(rig.client.update({ name: 'base', parent: 'x' }, ['parent'])),
        badFilter: await codeOf(rig.client.list('name=')),
        updateName: await codeOf(rig.client.update({ name: 'base' }, ['name'])),
        updateKind: await codeOf(rig.client.update({ name: 'base', kind: 1 }, ['labels', 'kind'])),
        updateCreated: await codeOf(rig.client.update({ name: 'base' }, ['created_at'])),
        emptyKey: await codeOf(rig.client.prepare('')),
        emptyKeyOfMounts: await codeOf(rig.client.mounts('')),
        emptyKeyOfStat: await codeOf(rig.client.stat('')),
        emptyName: await codeOf(rig.client.commit('', 'active')),
        unknown: await codeOf(rig.client.unknown()),
      };
      expect(codes).toEqual({
        takenByActive: 'ALREADY_EXISTS',
        takenByView: 'ALREADY_EXISTS',
        takenByCommitted: 'ALREADY_EXISTS',
        noParent: 'NOT_FOUND',
        parentActive: 'INVALID_ARGUMENT',
        parentView: 'INVALID_ARGUMENT',
        mountsOfNone: 'NOT_FOUND',
        mountsOfCommitted: 'FAILED_PRECONDITION',
        commitNone: 'NOT_FOUND',
        commitView: 'FAILED_PRECONDITION',
        commitCommitted: 'FAILED_PRECONDITION',
        commitTaken: 'ALREADY_EXISTS',
        otherParent: 'INVALID_ARGUMENT',
        removeNone: 'NOT_FOUND',
        statNone: 'NOT_FOUND',
        usageNone: 'NOT_FOUND',
        updateNone: 'NOT_FOUND',
        updateParent: 'INVALID_ARGUMENT',
        badFilter: 'INVALID_ARGUMENT',
        updateName: 'INVALID_ARGUMENT',
        updateKind: 'INVALID_ARGUMENT',
        updateCreated: 'INVALID_ARGUMENT',
        emptyKey: 'INVALID_ARGUMENT',
        emptyKeyOfMounts: 'INVALID_ARGUMENT',
        emptyKeyOfStat: 'INVALID_ARGUMENT',
        emptyName: 'INVALID_ARGUMENT',
        unknown: 'UNIMPLEMENTED',
      });
    });

    it('counts what it answered, by method and code', async () => {
      await rig.client.prepare('key');
      await rig.client.stat('key');
      await codeOf(rig.client.stat('nobody'));
      await rig.client.list();
      const text = await rig.metrics.text();
      const count = (method: string, code: string): string =>
        `layerd_containerd_request_duration_seconds_count{service="Snapshots",method="${method}",code="${code}"} 1`;
      expect(text).toContain(count('Prepare', 'OK'));
      expect(text).toContain(count('Stat', 'OK'));
      expect(text).toContain(count('Stat', 'NOT_FOUND'));
      expect(text).toContain(count('List', 'OK'));
      expect(text).toContain('layerd_containerd_requests_running 0');
      expect(text).toContain('layerd_containerd_connections 1');
    });

    it('takes keys and names that were removed again, long ones and odd ones', async () => {
      const odd = `ns/1/${'/long'.repeat(200)} sha256:é "quoted", and=more\n`;
      await rig.layer('name', '', () => undefined);
      await rig.client.prepare(odd, 'name');
      expect(await rig.client.list(`name==${JSON.stringify(odd)}`)).toEqual([odd]);
      await rig.client.remove(odd);
      await rig.client.remove('name');
      await rig.client.view(odd);
      expect((await rig.client.stat(odd)).kind).toBe(1);
      await rig.client.remove(odd);
      await rig.layer('name', '', () => undefined);
      // the parent that it has anyway may be named
      await rig.client.prepare('child', 'name');
      await rig.client.commit('named', 'child', {}, 'name');
      expect(await rig.client.stat('named')).toMatchObject({ parent: 'name', kind: 3 });
    });

    it('gives the name to one of two commits at a time', async () => {
      await rig.client.prepare('one');
      await rig.client.prepare('two');
      const codes = await Promise.all([
        codeOf(rig.client.commit('name', 'one')),
        codeOf(rig.client.commit('name', 'two')),
      ]);
      expect(new Set(codes)).toEqual(new Set(['ALREADY_EXISTS', null]));
      expect(await rig.client.list('kind==committed')).toEqual(['name']);
    });

    it('keeps times, labels and mounts, also over a restart', async () => {
      const before = Date.now() * 1000;
      const mounts = await rig.client.prepare('key', '', { a: '1', 'with.dots/and.slash': 'x' });
      const after = (Date.now() + 1) * 1000;
      const info = await rig.client.stat('key');
      const { created, updated } = micros(info);
      expect(created).toBe(updated);
      expect(created).toBeGreaterThanOrEqual(before);
      expect(created).toBeLessThanOrEqual(after);
      expect(info.labels).toEqual({ a: '1', 'with.dots/and.slash': 'x' });
      expect(await rig.client.mounts('key')).toEqual(mounts);
      await rig.closeDoor();
      await rig.store.reopen();
      await rig.openDoor();
      expect(await rig.client.stat('key')).toEqual(info);
      expect(await rig.client.mounts('key')).toEqual(mounts);
      rig.mounted(mounts, (root) => writeFileSync(join(root, 'f'), ''));
      await rig.client.commit('name', 'key', { new: 'label' });
      const committed = await rig.client.stat('name');
      expect(committed.labels).toEqual({ new: 'label' });
      expect(micros(committed).created).toBe(micros(committed).updated);
      expect(micros(committed).created).toBeGreaterThan(created);
    });

    it('changes labels by mask', async () => {
      await rig.client.prepare('key', '', { a: '1', b: '2' });
      const first = await rig.client.update({ name: 'key', labels: { b: '3', c: '4' } }, ['labels.c']);
      expect(first.labels).toEqual({ a: '1', b: '2', c: '4' });
      expect(micros(first).updated).toBeGreaterThan(micros(first).created);
      expect((await rig.client.update({ name: 'key', labels: { b: '' } }, ['labels.a', 'labels.b'])).labels).toEqual({
        c: '4',
      });
      expect((await rig.client.update({ name: 'key', labels: { 'd.e/f': 'g' } }, ['labels.d.e/f'])).labels).toEqual({
        c: '4',
        'd.e/f': 'g',
      });
      expect((await rig.client.update({ name: 'key', labels: { only: 'this' } }, [])).labels).toEqual({ only: 'this' });
      expect((await rig.client.update({ name: 'key' }, ['labels'])).labels).toEqual({});
      await rig.client.commit('base', 'key');
      await rig.client.view('view', 'base');
      for (const name of ['base', 'view']) {
        expect((await rig.client.update({ name, labels: { x: 'y' } }, ['labels'])).labels).toEqual({ x: 'y' });
      }
    });

    it('lists by filters, in blocks', async () => {
      await rig.layer('base', '', () => undefined);
      await rig.client.prepare('a', 'base', { color: 'red', 'k8s.io/pod': 'p' });
      await rig.client.view('v', 'base', { color: 'blue' });
      expect(await rig.client.list('name==a')).toEqual(['a']);
      expect(await rig.client.list('parent==base')).toEqual(['a', 'v']);
      expect(await rig.client.list('kind==active')).toEqual(['a']);
      expect(await rig.client.list('kind!=active')).toEqual(['base', 'v']);
      expect(await rig.client.list('kind==view', 'kind==committed')).toEqual(['base', 'v']);
      expect(await rig.client.list('labels.color')).toEqual(['a', 'v']);
      expect(await rig.client.list('labels.color==red,parent==base')).toEqual(['a']);
      expect(await rig.client.list('labels."k8s.io/pod"==p')).toEqual(['a']);
      expect(await rig.client.list('labels.color~=^b')).toEqual(['v']);
      expect(await rig.client.list('labels.color~=/r.d/')).toEqual(['a']);
      expect(await rig.client.list('labels.missing==x')).toEqual([]);
      expect(await rig.client.list('')).toEqual(['a', 'base', 'v']);
      const more = Array.from({ length: 205 }, (_, index) => `many ${String(index).padStart(3, '0')}`);
      for (const key of more) await rig.client.view(key);
      const blocks = await rig.client.blocks(['name~=^many']);
      expect(blocks.map((block) => block.length)).toEqual([100, 100, 5]);
      for (const { name } of blocks.flat()) expect((await rig.client.stat(name)).kind).toBe(1);
    });

    it('shows a snapshotter its own snapshots only', async () => {
      const other = new SnapshotsClient(join(rig.store.config.run, 'containerd.sock'), 'another');
      try {
        await rig.client.prepare('key');
        await other.prepare('key');
        await rig.store.engine.snapshots.prepare({ space: 'docker', key: 'theirs' }, { parent: null });
        await rig.client.remove('key');
        expect(await other.list()).toEqual(['key']);
        expect(await rig.client.list()).toEqual([]);
      } finally {
        other.close();
      }
    });

    it('does not let a layer be unpacked that is here', async () => {
      const tar = layerTar([entrySpec(bytesOf('hello'), { content: Buffer.from('world') })]);
      const diffId = sha256(tar);
      const { snapshots } = rig.store.engine;
      const theirs = { space: 'docker', key: 'x' };
      await snapshots.prepare(theirs, { parent: null });
      await snapshots.apply(theirs, { stream: stream(tar) }, never);
      await snapshots.commit(theirs, { name: 'x' });
      expect(await codeOf(rig.client.prepare('ns/1/extract', '', { [REF]: diffId, more: 'x' }))).toBe('ALREADY_EXISTS');
      const [name = ''] = await rig.client.list(`labels."${REF}"==${diffId},parent==""`);
      expect(await rig.client.stat(name)).toMatchObject({ kind: 3, parent: '', labels: { [REF]: diffId, more: 'x' } });
      await rig.shown(name, (root) => expect(readFileSync(join(root, 'hello'), 'utf8')).toBe('world'));
      // upon another parent, or none, a chain ID means something else
      expect(await codeOf(rig.client.prepare('ns/2/extract', name, { [REF]: diffId }))).toBeNull();
      expect(await codeOf(rig.client.prepare('ns/3/extract', name, { [REF]: chainId(diffId, diffId) }))).toBe(
        'ALREADY_EXISTS',
      );
      // unpacked beside its parents, and put upon one at the commit only, it is not that chain yet
      expect(await codeOf(rig.client.prepare('ns/4/extract', '', { [REF]: chainId(diffId, diffId) }))).toBeNull();
      // the second namespace gets the same
      expect(await codeOf(rig.client.prepare('other/1/extract', '', { [REF]: diffId }))).toBe('ALREADY_EXISTS');
      expect(await rig.client.list(`labels."${REF}"==${diffId},parent==""`)).toEqual([name]);
    });

    it('does not take a claim for a fact: what was unpacked by a client is nobody else’s layer', async () => {
      const claimed = sha256('what it says it is');
      rig.mounted(await rig.client.prepare('ns/1/extract', '', { [REF]: claimed }), (root) => {
        writeFileSync(join(root, 'evil'), '');
      });
      await rig.client.commit('ns/2/name', 'ns/1/extract', { [REF]: claimed });
      await rig.store.engine.conversions.settled();
      expect(
        await rig.store.engine.snapshots.adopt('docker', { chainId: claimed, parent: null, labels: {}, same: 'x' }),
      ).toBeNull();
      expect([...rig.store.engine.layers()].map((row) => row.diffId)).not.toContain(claimed);
    });
  });
});

async function* stream(tar: Buffer): AsyncGenerator<Buffer> {
  yield tar;
}
