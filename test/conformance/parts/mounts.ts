/** Snapshots are mounted where and how they should be, by us and by others, and let go again. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { bytesOf } from '../../../src/core/bytes.js';
import type { MountInstruction } from '../../../src/core/words.js';
import { mount } from '../../../src/linux/mount.js';
import { mergeModel } from '../../model/merge-model.js';
import { describeTree } from '../../reference/tree.js';
import { IMAGE } from '../edits.js';
import { dir, file } from '../entries.js';
import { unmountBelow } from '../file-system.js';
import { listModel } from '../listing.js';
import { RigSnapshot, type Rig } from '../rig.js';
import type { UseRig } from '../suite.js';
import { expectEqualTrees } from './stacks.js';

const EXPECTED = listModel(mergeModel(IMAGE));

/** As a runtime carries the instructions out: mount(2) with the options joined by commas. */
function carryOut(instructions: readonly MountInstruction[], target: string): void {
  mkdirSync(target);
  for (const { type, source, options } of instructions) {
    if (type === 'bind') execFileSync('mount', ['--bind', '-o', options.includes('ro') ? 'ro' : 'rw', source, target]);
    else mount({ source: bytesOf(source), target: bytesOf(target), type, flags: 0, data: bytesOf(options.join(',')) });
  }
}

/** What root cannot do in a tree that cannot be written. */
const WRITES = [
  'echo x > new',
  'echo x >> etc/one',
  'rm etc/one',
  'mv etc/one etc/uno',
  'mkdir dir',
  'rmdir var/empty',
  'chmod 700 etc',
  'chown 5 etc/two',
  'touch -d @5 etc/two',
  'ln etc/one link',
  'ln -s x link',
  'mknod node c 1 3',
  'truncate -s 0 large',
  'setfattr -n user.x -v y etc/one',
];

function expectCannotWrite(path: string): void {
  for (const script of WRITES) {
    expect(
      () => execFileSync('sh', ['-c', script], { cwd: path, stdio: ['ignore', 'ignore', 'pipe'] }),
      script,
    ).toThrow(/Read-only file system/);
  }
}

async function expectMountsAndLetsGo(rig: Rig): Promise<void> {
  const container = await rig.snapshot(await rig.stack(IMAGE));
  const path = container.mount();
  expect(container.mount()).toBe(path);
  writeFileSync(join(path, 'kept'), 'over unmounts');
  container.unmount();
  container.unmount();
  expect(readFileSync(join(container.mount(), 'kept'), 'utf8')).toBe('over unmounts');
}

export function mountsPart(rig: UseRig): void {
  describe('mounts', () => {
    it('a view that nobody can write, not even root', async () => {
      if (!rig().driver.properties.readOnlyViews) return;
      const view = await rig().view(await rig().stack(IMAGE));
      expectCannotWrite(view.mount());
      expectEqualTrees(await view.tree(), EXPECTED);
      expect(await view.changes()).toEqual([]);
      expect((await view.diff()).equals(Buffer.alloc(1024))).toBe(true);
    });

    it('a view that its owner cannot write unless root, and whose image stays, where nothing better can be had', async () => {
      if (rig().driver.properties.readOnlyViews) return;
      const view = await rig().view(await rig().stack(IMAGE));
      const path = view.mount();
      const write = (script: string) =>
        execFileSync('sh', ['-euc', script], { cwd: path, stdio: ['ignore', 'ignore', 'pipe'] });
      if (process.getuid?.() !== 0) {
        const writes = [
          'echo x > new',
          'echo x >> etc/one',
          'rm etc/one',
          'mkdir dir',
          'rmdir var/empty',
          'mv usr etc',
        ];
        for (const script of writes) expect(() => write(script), script).toThrow(/Permission denied/);
      }
      write('chmod -R u+w .; echo x > new; echo x >> etc/one; rm -r usr');
      expect(await view.changes()).toEqual([]);
      expect((await view.diff()).equals(Buffer.alloc(1024))).toBe(true);
      expectEqualTrees(await view.exported(), EXPECTED);
    });

    it('once, keeps what was written, and lets go', () => expectMountsAndLetsGo(rig()));

    it('by instructions that others carry out, the same every time', async () => {
      const { driver } = rig();
      if (!driver.properties.mountInstructions) return;
      const stack = await rig().stack(IMAGE);
      for (const readOnly of [true, false]) {
        const snapshot = await rig().snapshot(stack, { readOnly });
        const instructions = driver.snapshots.instructions(snapshot.spec);
        const target = rig().file(rig().newName('elsewhere'));
        carryOut(instructions, target);
        expectEqualTrees(await describeTree(target), EXPECTED);
        if (readOnly) expectCannotWrite(target);
        else writeFileSync(join(target, 'new'), 'by another');
        execFileSync('umount', [target]);
        expect(driver.snapshots.instructions(snapshot.spec)).toEqual(instructions);
        expect(await snapshot.changes()).toEqual(readOnly ? [] : ['A /new']);
      }
    });

    it('again after a reboot', async () => {
      const stack = await rig().stack(IMAGE);
      const container = await rig().snapshot(stack);
      container.edit('echo x > new');
      const live = await container.tree();
      const { driver, places } = rig();
      const reboot = () => {
        unmountBelow(places.run);
        rmSync(places.run, { recursive: true });
      };
      reboot();
      expectEqualTrees(await container.tree(), live);
      expectEqualTrees(await (await rig().view(stack)).tree(), EXPECTED);
      if (!driver.properties.mountInstructions) return;
      const instructions = driver.snapshots.instructions(container.spec);
      reboot();
      // What they name is mounted when they are told: who carries them out has nothing else to go by.
      expect(driver.snapshots.instructions(container.spec)).toEqual(instructions);
      const target = rig().file('elsewhere');
      carryOut(instructions, target);
      expectEqualTrees(await describeTree(target), live);
      execFileSync('umount', [target]);
    });

    it('what is in use stays, and names who uses it, unless forced', async () => {
      const container = await rig().snapshot(await rig().stack(IMAGE));
      const path = container.mount();
      if (path !== rig().places.mergedRoot(container.spec.dir)) return;
      const user = spawn('sleep', ['60'], { cwd: path, stdio: 'ignore' });
      const ended = once(user, 'exit');
      try {
        await once(user, 'spawn');
        expect(() => container.unmount()).toThrow(expect.objectContaining({ code: 'MOUNT_BUSY' }));
        expect(() => container.unmount()).toThrow(new RegExp(`sleep|${user.pid}`));
        container.remove({ force: true });
        expect(existsSync(path)).toBe(false);
      } finally {
        user.kill();
        await ended;
      }
    });

    it('a volatile container again and again', async () => {
      const container = await rig().snapshot(await rig().stack(IMAGE), { volatile: true });
      for (const text of ['one', 'two']) {
        container.edit(`echo ${text} > new`);
        container.unmount();
      }
      expect(readFileSync(join(container.mount(), 'new'), 'utf8')).toBe('two\n');
      expect(await container.changes()).toEqual(['A /new']);
    });

    it('containers whose directories were made ahead, where it can', async () => {
      const stack = await rig().stack(IMAGE);
      const { snapshots } = rig().driver;
      if (snapshots.createAhead === undefined) return;
      for (const readOnly of [true, false]) {
        const dirs = ['x', 'y', 'z'].map((name) => rig().newName(name));
        const spec = { ...(await rig().snapshot(stack, { readOnly })).spec, dir: '' };
        await snapshots.createAhead(spec, dirs);
        for (const name of dirs) {
          const snapshot = new RigSnapshot(rig(), stack, { ...spec, dir: name });
          rig().adopt(snapshot);
          expectEqualTrees(await snapshot.tree(), EXPECTED);
          expect(await snapshot.changes()).toEqual([]);
        }
      }
    });

    it('two containers that do not see each other', async () => {
      const stack = await rig().stack(IMAGE);
      const [one, other] = [await rig().snapshot(stack), await rig().snapshot(stack)];
      one.edit('echo mine > etc/one; rm -r usr; echo x > new');
      expectEqualTrees(await other.tree(), EXPECTED);
      other.edit('echo yours > etc/one');
      expect(readFileSync(join(one.mount(), 'etc/one'), 'utf8')).toBe('mine\n');
      expectEqualTrees(await (await rig().view(stack)).tree(), EXPECTED);
    });

    it('directories that pass nothing on to what is made in them', async () => {
      if (!rig().driver.properties.fullFidelity) return;
      const { places } = rig();
      for (const path of [places.layers, places.snapshots, places.trees]) {
        execFileSync('setfacl', ['-m', 'd:u:1000:rwx,d:g::rwx', path]);
        execFileSync('chmod', ['g+s', path]);
        execFileSync('chgrp', ['1234', path]);
      }
      const container = await rig().snapshot(await rig().stack(IMAGE));
      container.edit('mkdir dir; touch dir/file');
      const made = (await container.tree()).get('dir/file');
      expect(made).toMatchObject({ gid: 0, mode: '0644', xattrs: {} });
      container.edit('rm -r dir; touch -d @1200000000.987654321 .');
      expectEqualTrees(await container.tree(), EXPECTED);
    });
  });
}

/** A root whose name has what mount options are made of. */
export const ODD_ROOT = 'a:b,c d\\e ü';

export function oddRootPart(rig: UseRig): void {
  it('mounts, by itself and by instructions', async () => {
    const contents = [[dir('d'), file('d/a')], [file('d/b')]];
    const stack = await rig().stack(contents);
    const expected = listModel(mergeModel(contents));
    const { driver } = rig();
    for (const readOnly of [true, false]) {
      const snapshot = await rig().snapshot(stack, { readOnly });
      expectEqualTrees(await snapshot.tree(), expected);
      snapshot.unmount();
      if (!driver.properties.mountInstructions) continue;
      const target = rig().file(rig().newName('elsewhere'));
      carryOut(driver.snapshots.instructions(snapshot.spec), target);
      expectEqualTrees(await describeTree(target), expected);
      execFileSync('umount', [target]);
    }
  });
}
