/** What the snapshots service has its clients mount, and what becomes of what they write: unpacking, containers, views. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { DriverName } from '../../src/core/words.js';
import { describeWith, needsRoot } from '../support.js';
import { codeOf, optionOf } from './snapshots-client.js';
import { SnapshotsRig } from './snapshots-rig.js';

const DRIVERS = ['overlay2', 'erofs'] as const satisfies DriverName[];

describeWith('mounts of the snapshots service', [needsRoot()], () => {
  describe.each(DRIVERS)('%s', (driver) => {
    let rig: SnapshotsRig;

    beforeEach(async () => {
      rig = await SnapshotsRig.open(driver);
    });
    afterEach(() => rig.remove());

    it('gives one overlay mount, with the options that BuildKit reads', async () => {
      await rig.layer('base', '', () => undefined);
      for (const mounts of [await rig.client.prepare('bare'), await rig.client.prepare('upon', 'base')]) {
        expect(mounts).toHaveLength(1);
        expect(mounts[0]?.type).toBe('overlay');
        const names = mounts[0]?.options.map((option) => option.split('=', 1)[0] ?? '') ?? [];
        const known = new Set(['workdir', 'upperdir', 'lowerdir', 'index', 'redirect_dir']);
        expect(names.filter((name) => !known.has(name))).toEqual([]);
        expect(optionOf(mounts, 'upperdir')).toMatch(/\/s\/[a-z2-7]{8}\/u$/);
      }
    });

    it('gives views that cannot be written', async () => {
      await rig.layer('base', '', (root) => writeFileSync(join(root, 'f'), ''));
      for (const mounts of [await rig.client.view('view', 'base'), await rig.client.view('nothing')]) {
        rig.mounted(mounts, (root) => expect(() => writeFileSync(join(root, 'new'), '')).toThrow('EROFS'));
      }
    });

    it('makes a root of mode 0755, and takes owner and mode of the root below', async () => {
      rig.mounted(await rig.client.prepare('first'), (root) => expect(statSync(root).mode & 0o7777).toBe(0o755));
      await rig.layer('base', '', (root) => {
        chmodSync(root, 0o711);
        chownSync(root, 7, 8);
      });
      rig.mounted(await rig.client.prepare('second', 'base'), (root) => {
        const { mode, uid, gid } = statSync(root);
        expect([mode & 0o7777, uid, gid]).toEqual([0o711, 7, 8]);
      });
    });

    it('keeps what overlay makes of deletions, renames and owners', async () => {
      await rig.layer('base', '', (root) => {
        mkdirSync(join(root, 'dir/sub'), { recursive: true });
        writeFileSync(join(root, 'dir/f'), 'f');
        writeFileSync(join(root, 'dir/sub/g'), 'g');
        writeFileSync(join(root, 'gone'), '');
      });
      await rig.layer('second', 'base', (root) => {
        rmSync(join(root, 'gone'));
        rmSync(join(root, 'dir/sub'), { recursive: true });
        mkdirSync(join(root, 'dir/sub'));
        writeFileSync(join(root, 'dir/sub/h'), 'h');
        chownSync(join(root, 'dir/f'), 3, 4);
      });
      await rig.layer('third', 'second', (root) => renameSync(join(root, 'dir'), join(root, 'moved')));
      const look = (root: string): void => {
        expect(readdirSync(root)).toEqual(['moved']);
        expect(readdirSync(join(root, 'moved/sub'))).toEqual(['h']);
        expect(statSync(join(root, 'moved/f')).uid).toBe(3);
      };
      await rig.shown('third', look);
      await rig.store.engine.conversions.settled();
      await rig.shown('third', look);
    });

    it('unpacks upon a parent that is known at the commit only', async () => {
      await rig.layer('base', '', (root) => {
        chmodSync(root, 0o750);
        writeFileSync(join(root, 'deleted'), '');
      });
      const upper = optionOf(await rig.client.prepare('loose'), 'upperdir') ?? '';
      // what containerd's applier does: whiteouts go straight into the upper
      execFileSync('mknod', [join(upper, 'deleted'), 'c', '0', '0']);
      writeFileSync(join(upper, 'new'), '');
      await rig.client.commit('top', 'loose', {}, 'base');
      expect(await rig.client.stat('top')).toMatchObject({ parent: 'base' });
      const look = (root: string): void => {
        expect(readdirSync(root)).toEqual(['new']);
        expect(statSync(root).mode & 0o777).toBe(0o750);
      };
      await rig.shown('top', look);
      await rig.store.engine.conversions.settled();
      await rig.shown('top', look);
      await rig.client.prepare('again');
      expect(await codeOf(rig.client.commit('x', 'again', {}, 'nobody'))).toBe('NOT_FOUND');
      await rig.client.prepare('active');
      expect(await codeOf(rig.client.commit('x', 'again', {}, 'active'))).toBe('FAILED_PRECONDITION');
    });

    it('gives the root of a user namespace to it, and says how to map the rest', async () => {
      await rig.layer('base', '', () => undefined);
      const labels = {
        'containerd.io/snapshot/uidmapping': '0:100000:65536',
        'containerd.io/snapshot/gidmapping': '0:200000:65536',
      };
      const mounts = await rig.client.prepare('mapped', 'base', labels);
      expect(mounts[0]?.options).toEqual(expect.arrayContaining(['uidmap=0:100000:65536', 'gidmap=0:200000:65536']));
      const { uid, gid } = statSync(optionOf(mounts, 'upperdir') ?? '');
      expect([uid, gid]).toEqual([100_000, 200_000]);
      const bad = { 'containerd.io/snapshot/uidmapping': 'x' };
      expect(await codeOf(rig.client.prepare('bad', 'base', bad))).toBe('INVALID_ARGUMENT');
    });

    it('commits what is mounted, and keeps the mounts of those that lie on it when it becomes a layer', async () => {
      const target = join(rig.store.home, 'held');
      mkdirSync(target);
      const [mount] = await rig.client.prepare('held');
      execFileSync('mount', ['-t', 'overlay', '-o', mount?.options.join(',') ?? '', 'overlay', target]);
      writeFileSync(join(target, 'f'), 'written');
      await rig.client.commit('base', 'held');
      const mounts = await rig.client.prepare('child', 'base');
      rig.mounted(mounts, (root) => expect(readFileSync(join(root, 'f'), 'utf8')).toBe('written'));
      execFileSync('umount', [target]);
      rmSync(target, { recursive: true });
      await rig.store.engine.conversions.settled();
      expect(await rig.client.mounts('child')).toEqual(mounts);
      rig.mounted(mounts, (root) => expect(readFileSync(join(root, 'f'), 'utf8')).toBe('written'));
      await rig.shown('base', (root) => expect(readFileSync(join(root, 'f'), 'utf8')).toBe('written'));
    });

    it('tells what a snapshot uses', async () => {
      await rig.layer('base', '', (root) => writeFileSync(join(root, 'f'), Buffer.alloc(1 << 20, 1)));
      expect((await rig.client.usage('base')).size).toBeGreaterThanOrEqual(1 << 20);
      await rig.store.engine.conversions.settled();
      expect((await rig.client.usage('base')).size).toBeGreaterThanOrEqual(1 << 20);
      await rig.client.prepare('child', 'base');
      const before = await rig.client.usage('child');
      rig.mounted(await rig.client.mounts('child'), (root) => writeFileSync(join(root, 'g'), Buffer.alloc(1 << 20, 1)));
      expect((await rig.client.usage('child')).size - before.size).toBeGreaterThanOrEqual(1 << 20);
      expect((await rig.client.usage('child')).inodes - before.inodes).toBeGreaterThanOrEqual(1);
    });

    it('mounts a chain of 60 layers by one option string', async () => {
      let parent = '';
      for (let depth = 0; depth < 60; depth += 1) {
        const upper = optionOf(await rig.client.prepare('active', parent), 'upperdir') ?? '';
        writeFileSync(join(upper, `f${depth}`), String(depth));
        await rig.client.commit(`layer ${depth}`, 'active');
        parent = `layer ${depth}`;
      }
      await rig.shown(parent, (root) => expect(readdirSync(root)).toHaveLength(60));
      await rig.store.engine.conversions.settled();
      await rig.shown(parent, (root) => expect(readFileSync(join(root, 'f0'), 'utf8')).toBe('0'));
    }, 120_000);

    it('leaves nothing when all is removed, in any order of mounts', async () => {
      await rig.layer('base', '', (root) => writeFileSync(join(root, 'f'), ''));
      const target = join(rig.store.home, 'held');
      mkdirSync(target);
      const [mount] = await rig.client.prepare('busy', 'base');
      execFileSync('mount', ['-t', 'overlay', '-o', mount?.options.join(',') ?? '', 'overlay', target]);
      await rig.client.remove('busy');
      expect(existsSync(join(target, 'f'))).toBe(true);
      execFileSync('umount', [target]);
      rmSync(target, { recursive: true });
      await rig.client.remove('base');
      await rig.client.cleanup();
      await rig.store.engine.conversions.settled();
      await rig.closeDoor();
      await rig.store.collect();
      expect(await rig.store.leftovers()).toEqual([]);
      expect(rig.store.mounted()).toEqual([]);
      await rig.openDoor();
    });
  });
});
