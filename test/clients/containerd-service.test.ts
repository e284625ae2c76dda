/**
 * The snapshots service as containerd's own test suite and its callers expect it of a proxy snapshotter: every rule of the
 * protocol, by a gRPC client over the socket.
 */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bytesOf } from '../../src/core/bytes.js';
import { chainId, sha256 } from '../../src/core/digest.js';
import type { DriverName } from '../../src/core/words.js';
import type { Info, Mount } from '../../src/doors/containerd/messages.js';
import { ContainerdDoor } from '../../src/doors/containerd/server.js';
import { DoorMetrics } from '../../src/doors/metrics.js';
import { peerOf } from '../../src/doors/peer.js';
import { never, silent, TestStore } from '../e2e/store.js';
import { entrySpec, layerTar } from '../model/spec.js';
import { describeWith, needsRoot } from '../support.js';
import { codeOf, optionOf, SnapshotsClient } from './snapshots-client.js';

const REF = 'containerd.io/snapshot.ref';
const DRIVERS = ['overlay2', 'erofs'] as const satisfies DriverName[];

/** Microseconds of a time that the protocol told. */
function micros({ createdAt, updatedAt }: Info): { created: number; updated: number } {
  const value = (time: Info['createdAt']) => (time?.seconds ?? 0) * 1e6 + (time?.nanos ?? 0) / 1e3;
  return { created: value(createdAt), updated: value(updatedAt) };
}

describeWith('the snapshots service', [needsRoot()], () => {
  describe.each(DRIVERS)('%s', (driver) => {
    let store: TestStore;
    let door: ContainerdDoor;
    let client: SnapshotsClient;

    async function openDoor(): Promise<void> {
      const path = join(store.config.run, 'containerd.sock');
      const { snapshots, conversions } = store.engine;
      const at = { path };
      door = await ContainerdDoor.open({
        at,
        gid: null,
        peerOf,
        log: silent,
        metrics: new DoorMetrics(),
        snapshots,
        conversions,
        containerd: null,
      });
      client = new SnapshotsClient(path);
    }

    async function closeDoor(): Promise<void> {
      client.close();
      await door.close(5_000);
    }

    beforeEach(async () => {
      store = await TestStore.open({ driver });
      await openDoor();
    });

    afterEach(async () => {
      await closeDoor();
      await store.remove();
    });

    /** Mounts as containerd does, by mount(8), and unmounts after `work`. */
    function mounted<T>(mounts: readonly Mount[], work: (root: string) => T): T {
      const target = mkdtempSync(join(store.home, 'mnt-'));
      for (const { type, source, options } of mounts) {
        execFileSync('mount', ['-t', type, '-o', options.join(','), source, target]);
      }
      try {
        return work(target);
      } finally {
        execFileSync('umount', [target]);
        rmSync(target, { recursive: true });
      }
    }

    /** Prepares, lets `work` write, commits. */
    async function layer(name: string, parent: string, work: (root: string) => void): Promise<void> {
      mounted(await client.prepare(`${name} active`, parent), work);
      await client.commit(name, `${name} active`);
    }

    async function shown<T>(parent: string, look: (root: string) => T): Promise<T> {
      const mounts = await client.view('look', parent);
      try {
        return mounted(mounts, look);
      } finally {
        await client.remove('look');
      }
    }

    it('prepares, commits, and makes children that see what lies below', async () => {
      await layer('/a', '', (root) => {
        mkdirSync(join(root, 'a/b'), { recursive: true });
        writeFileSync(join(root, 'foo'), 'foo\n', { mode: 0o777 });
      });
      expect(await client.list()).toEqual(['/a']);
      await layer('/b', '/a', (root) => {
        expect(readFileSync(join(root, 'foo'), 'utf8')).toBe('foo\n');
        writeFileSync(join(root, 'bar'), 'bar\n');
        rmSync(join(root, 'a/b'), { recursive: true });
      });
      expect(await client.stat('/b')).toMatchObject({ parent: '/a', kind: 3, name: '/b' });
      expect(await codeOf(client.stat('/b active'))).toBe('NOT_FOUND');
      await shown('/b', (root) => {
        expect(readdirSync(root).sort()).toEqual(['a', 'bar', 'foo']);
        expect(readdirSync(join(root, 'a'))).toEqual([]);
      });
      expect(await codeOf(client.remove('/a'))).toBe('FAILED_PRECONDITION');
      await expect(client.remove('/a')).rejects.toThrow('remove');
      await client.remove('/b');
      await client.remove('/a');
      expect(await client.list()).toEqual([]);
    });

    it('answers with the codes that containerd tells errors by', async () => {
      await layer('base', '', () => undefined);
      await client.prepare('active', 'base');
      await client.view('view', 'base');
      const codes = {
        takenByActive: await codeOf(client.prepare('active')),
        takenByView: await codeOf(client.view('active')),
        takenByCommitted: await codeOf(client.prepare('base')),
        noParent: await codeOf(client.prepare('x', 'nobody')),
        parentActive: await codeOf(client.prepare('x', 'active')),
        parentView: await codeOf(client.view('x', 'view')),
        mountsOfNone: await codeOf(client.mounts('x')),
        mountsOfCommitted: await codeOf(client.mounts('base')),
        commitNone: await codeOf(client.commit('y', 'x')),
        commitView: await codeOf(client.commit('y', 'view')),
        commitCommitted: await codeOf(client.commit('y', 'base')),
        commitTaken: await codeOf(client.commit('base', 'active')),
        otherParent: await codeOf(client.commit('y', 'active', {}, 'other')),
        removeNone: await codeOf(client.remove('x')),
        statNone: await codeOf(client.stat('x')),
        usageNone: await codeOf(client.usage('x')),
        updateNone: await codeOf(client.update({ name: 'x' }, [])),
        updateParent: await codeOf(client.update({ name: 'base', parent: 'x' }, ['parent'])),
        badFilter: await codeOf(client.list('name=')),
        emptyKey: await codeOf(client.prepare('')),
        unknown: await codeOf(client.unknown()),
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
        emptyKey: 'INVALID_ARGUMENT',
        unknown: 'UNIMPLEMENTED',
      });
    });

    it('gives the name to one of two commits at a time', async () => {
      await client.prepare('one');
      await client.prepare('two');
      const codes = await Promise.all([codeOf(client.commit('name', 'one')), codeOf(client.commit('name', 'two'))]);
      expect(new Set(codes)).toEqual(new Set(['ALREADY_EXISTS', null]));
      expect(await client.list('kind==committed')).toEqual(['name']);
    });

    it('keeps times, labels and mounts, also over a restart', async () => {
      const before = Date.now() * 1000;
      const mounts = await client.prepare('key', '', { a: '1', 'with.dots/and.slash': 'x' });
      const after = (Date.now() + 1) * 1000;
      const info = await client.stat('key');
      const { created, updated } = micros(info);
      expect(created).toBe(updated);
      expect(created).toBeGreaterThanOrEqual(before);
      expect(created).toBeLessThanOrEqual(after);
      expect(info.labels).toEqual({ a: '1', 'with.dots/and.slash': 'x' });
      expect(await client.mounts('key')).toEqual(mounts);
      await closeDoor();
      await store.reopen();
      await openDoor();
      expect(await client.stat('key')).toEqual(info);
      expect(await client.mounts('key')).toEqual(mounts);
      mounted(mounts, (root) => writeFileSync(join(root, 'f'), ''));
      await client.commit('name', 'key', { new: 'label' });
      const committed = await client.stat('name');
      expect(committed.labels).toEqual({ new: 'label' });
      expect(micros(committed).created).toBe(micros(committed).updated);
      expect(micros(committed).created).toBeGreaterThan(created);
    });

    it('changes labels by mask', async () => {
      await client.prepare('key', '', { a: '1', b: '2' });
      const first = await client.update({ name: 'key', labels: { b: '3', c: '4' } }, ['labels.c']);
      expect(first.labels).toEqual({ a: '1', b: '2', c: '4' });
      expect(micros(first).updated).toBeGreaterThan(micros(first).created);
      expect((await client.update({ name: 'key', labels: { b: '' } }, ['labels.a', 'labels.b'])).labels).toEqual({
        c: '4',
      });
      expect((await client.update({ name: 'key', labels: { 'd.e/f': 'g' } }, ['labels.d.e/f'])).labels).toEqual({
        c: '4',
        'd.e/f': 'g',
      });
      expect((await client.update({ name: 'key', labels: { only: 'this' } }, [])).labels).toEqual({ only: 'this' });
      expect((await client.update({ name: 'key' }, ['labels'])).labels).toEqual({});
      await client.commit('base', 'key');
      await client.view('view', 'base');
      for (const name of ['base', 'view']) {
        expect((await client.update({ name, labels: { x: 'y' } }, ['labels'])).labels).toEqual({ x: 'y' });
      }
    });

    it('lists by filters, in blocks', async () => {
      await layer('base', '', () => undefined);
      await client.prepare('a', 'base', { color: 'red', 'k8s.io/pod': 'p' });
      await client.view('v', 'base', { color: 'blue' });
      expect(await client.list('name==a')).toEqual(['a']);
      expect(await client.list('parent==base')).toEqual(['a', 'v']);
      expect(await client.list('kind==active')).toEqual(['a']);
      expect(await client.list('kind!=active')).toEqual(['base', 'v']);
      expect(await client.list('kind==view', 'kind==committed')).toEqual(['base', 'v']);
      expect(await client.list('labels.color')).toEqual(['a', 'v']);
      expect(await client.list('labels.color==red,parent==base')).toEqual(['a']);
      expect(await client.list('labels."k8s.io/pod"==p')).toEqual(['a']);
      expect(await client.list('labels.color~=^b')).toEqual(['v']);
      expect(await client.list('labels.color~=/r.d/')).toEqual(['a']);
      expect(await client.list('labels.missing==x')).toEqual([]);
      expect(await client.list('')).toEqual(['a', 'base', 'v']);
      const more = Array.from({ length: 205 }, (_, index) => `many ${String(index).padStart(3, '0')}`);
      for (const key of more) await client.view(key);
      const blocks = await client.blocks(['name~=^many']);
      expect(blocks.map((block) => block.length)).toEqual([100, 100, 5]);
      for (const { name } of blocks.flat()) expect((await client.stat(name)).kind).toBe(1);
    });

    it('shows a snapshotter its own snapshots only', async () => {
      const other = new SnapshotsClient(join(store.config.run, 'containerd.sock'), 'another');
      try {
        await client.prepare('key');
        await other.prepare('key');
        await store.engine.snapshots.prepare({ space: 'docker', key: 'theirs' }, { parent: null });
        await client.remove('key');
        expect(await other.list()).toEqual(['key']);
        expect(await client.list()).toEqual([]);
      } finally {
        other.close();
      }
    });

    it('gives one overlay mount, with the options that BuildKit reads', async () => {
      await layer('base', '', () => undefined);
      for (const mounts of [await client.prepare('bare'), await client.prepare('upon', 'base')]) {
        expect(mounts).toHaveLength(1);
        expect(mounts[0]?.type).toBe('overlay');
        const names = mounts[0]?.options.map((option) => option.split('=', 1)[0] ?? '') ?? [];
        const known = new Set(['workdir', 'upperdir', 'lowerdir', 'index', 'redirect_dir']);
        expect(names.filter((name) => !known.has(name))).toEqual([]);
        expect(optionOf(mounts, 'upperdir')).toMatch(/\/s\/[a-z2-7]{8}\/u$/);
      }
    });

    it('gives views that cannot be written', async () => {
      await layer('base', '', (root) => writeFileSync(join(root, 'f'), ''));
      for (const mounts of [await client.view('view', 'base'), await client.view('nothing')]) {
        mounted(mounts, (root) => expect(() => writeFileSync(join(root, 'new'), '')).toThrow('EROFS'));
      }
    });

    it('makes a root of mode 0755, and takes owner and mode of the root below', async () => {
      mounted(await client.prepare('first'), (root) => expect(statSync(root).mode & 0o7777).toBe(0o755));
      await layer('base', '', (root) => {
        chmodSync(root, 0o711);
        chownSync(root, 7, 8);
      });
      mounted(await client.prepare('second', 'base'), (root) => {
        const { mode, uid, gid } = statSync(root);
        expect([mode & 0o7777, uid, gid]).toEqual([0o711, 7, 8]);
      });
    });

    it('keeps what overlay makes of deletions, renames and owners', async () => {
      await layer('base', '', (root) => {
        mkdirSync(join(root, 'dir/sub'), { recursive: true });
        writeFileSync(join(root, 'dir/f'), 'f');
        writeFileSync(join(root, 'dir/sub/g'), 'g');
        writeFileSync(join(root, 'gone'), '');
      });
      await layer('second', 'base', (root) => {
        rmSync(join(root, 'gone'));
        rmSync(join(root, 'dir/sub'), { recursive: true });
        mkdirSync(join(root, 'dir/sub'));
        writeFileSync(join(root, 'dir/sub/h'), 'h');
        chownSync(join(root, 'dir/f'), 3, 4);
      });
      await layer('third', 'second', (root) => renameSync(join(root, 'dir'), join(root, 'moved')));
      const look = (root: string): void => {
        expect(readdirSync(root)).toEqual(['moved']);
        expect(readdirSync(join(root, 'moved/sub'))).toEqual(['h']);
        expect(statSync(join(root, 'moved/f')).uid).toBe(3);
      };
      await shown('third', look);
      await store.engine.conversions.settled();
      await shown('third', look);
    });

    it('unpacks upon a parent that is known at the commit only', async () => {
      await layer('base', '', (root) => {
        chmodSync(root, 0o750);
        writeFileSync(join(root, 'deleted'), '');
      });
      const upper = optionOf(await client.prepare('loose'), 'upperdir') ?? '';
      // what containerd's applier does: whiteouts go straight into the upper
      execFileSync('mknod', [join(upper, 'deleted'), 'c', '0', '0']);
      writeFileSync(join(upper, 'new'), '');
      await client.commit('top', 'loose', {}, 'base');
      expect(await client.stat('top')).toMatchObject({ parent: 'base' });
      const look = (root: string): void => {
        expect(readdirSync(root)).toEqual(['new']);
        expect(statSync(root).mode & 0o777).toBe(0o750);
      };
      await shown('top', look);
      await store.engine.conversions.settled();
      await shown('top', look);
      await client.prepare('again');
      expect(await codeOf(client.commit('x', 'again', {}, 'nobody'))).toBe('NOT_FOUND');
      await client.prepare('active');
      expect(await codeOf(client.commit('x', 'again', {}, 'active'))).toBe('FAILED_PRECONDITION');
    });

    it('does not let a layer be unpacked that is here', async () => {
      const tar = layerTar([entrySpec(bytesOf('hello'), { content: Buffer.from('world') })]);
      const diffId = sha256(tar);
      const { snapshots } = store.engine;
      const theirs = { space: 'docker', key: 'x' };
      await snapshots.prepare(theirs, { parent: null });
      await snapshots.apply(theirs, { stream: stream(tar) }, never);
      await snapshots.commit(theirs, { name: 'x' });
      expect(await codeOf(client.prepare('ns/1/extract', '', { [REF]: diffId, more: 'x' }))).toBe('ALREADY_EXISTS');
      const [name = ''] = await client.list(`labels."${REF}"==${diffId},parent==""`);
      expect(await client.stat(name)).toMatchObject({ kind: 3, parent: '', labels: { [REF]: diffId, more: 'x' } });
      await shown(name, (root) => expect(readFileSync(join(root, 'hello'), 'utf8')).toBe('world'));
      // upon another parent, or none, a chain ID means something else
      expect(await codeOf(client.prepare('ns/2/extract', name, { [REF]: diffId }))).toBeNull();
      expect(await codeOf(client.prepare('ns/3/extract', name, { [REF]: chainId(diffId, diffId) }))).toBe(
        'ALREADY_EXISTS',
      );
      // the second namespace gets the same
      expect(await codeOf(client.prepare('other/1/extract', '', { [REF]: diffId }))).toBe('ALREADY_EXISTS');
      expect(await client.list(`labels."${REF}"==${diffId},parent==""`)).toEqual([name]);
    });

    it('does not take a claim for a fact: what was unpacked by a client is nobody else’s layer', async () => {
      const claimed = sha256('what it says it is');
      mounted(await client.prepare('ns/1/extract', '', { [REF]: claimed }), (root) => {
        writeFileSync(join(root, 'evil'), '');
      });
      await client.commit('ns/2/name', 'ns/1/extract', { [REF]: claimed });
      await store.engine.conversions.settled();
      expect(
        await store.engine.snapshots.adopt('docker', { chainId: claimed, parent: null, labels: {}, same: 'x' }),
      ).toBeNull();
      expect(store.engine.layers().map((row) => row.diffId)).not.toContain(claimed);
    });

    it('gives the root of a user namespace to it, and says how to map the rest', async () => {
      await layer('base', '', () => undefined);
      const labels = {
        'containerd.io/snapshot/uidmapping': '0:100000:65536',
        'containerd.io/snapshot/gidmapping': '0:200000:65536',
      };
      const mounts = await client.prepare('mapped', 'base', labels);
      expect(mounts[0]?.options).toEqual(expect.arrayContaining(['uidmap=0:100000:65536', 'gidmap=0:200000:65536']));
      const { uid, gid } = statSync(optionOf(mounts, 'upperdir') ?? '');
      expect([uid, gid]).toEqual([100_000, 200_000]);
      const bad = { 'containerd.io/snapshot/uidmapping': 'x' };
      expect(await codeOf(client.prepare('bad', 'base', bad))).toBe('INVALID_ARGUMENT');
    });

    it('tells what a snapshot uses', async () => {
      await layer('base', '', (root) => writeFileSync(join(root, 'f'), Buffer.alloc(1 << 20, 1)));
      expect((await client.usage('base')).size).toBeGreaterThanOrEqual(1 << 20);
      await store.engine.conversions.settled();
      expect((await client.usage('base')).size).toBeGreaterThanOrEqual(1 << 20);
      await client.prepare('child', 'base');
      const before = await client.usage('child');
      mounted(await client.mounts('child'), (root) => writeFileSync(join(root, 'g'), Buffer.alloc(1 << 20, 1)));
      expect((await client.usage('child')).size - before.size).toBeGreaterThanOrEqual(1 << 20);
      expect((await client.usage('child')).inodes - before.inodes).toBeGreaterThanOrEqual(1);
    });

    it('mounts a chain of 60 layers by one option string', async () => {
      let parent = '';
      for (let depth = 0; depth < 60; depth += 1) {
        const upper = optionOf(await client.prepare('active', parent), 'upperdir') ?? '';
        writeFileSync(join(upper, `f${depth}`), String(depth));
        await client.commit(`layer ${depth}`, 'active');
        parent = `layer ${depth}`;
      }
      await shown(parent, (root) => expect(readdirSync(root)).toHaveLength(60));
      await store.engine.conversions.settled();
      await shown(parent, (root) => expect(readFileSync(join(root, 'f0'), 'utf8')).toBe('0'));
    }, 120_000);

    it('leaves nothing when all is removed, in any order of mounts', async () => {
      await layer('base', '', (root) => writeFileSync(join(root, 'f'), ''));
      const target = join(store.home, 'held');
      mkdirSync(target);
      const [mount] = await client.prepare('busy', 'base');
      execFileSync('mount', ['-t', 'overlay', '-o', mount?.options.join(',') ?? '', 'overlay', target]);
      await client.remove('busy');
      expect(existsSync(join(target, 'f'))).toBe(true);
      execFileSync('umount', [target]);
      rmSync(target, { recursive: true });
      await client.remove('base');
      await client.cleanup();
      await store.engine.conversions.settled();
      await closeDoor();
      await store.collect();
      expect(await store.leftovers()).toEqual([]);
      expect(store.mounted()).toEqual([]);
      await openDoor();
    });
  });
});

async function* stream(tar: Buffer): AsyncGenerator<Buffer> {
  yield tar;
}
