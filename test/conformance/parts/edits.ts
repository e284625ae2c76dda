/** What containers change is told alike by all drivers, and comes back as a layer. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeEach, describe, expect, it } from 'vitest';
import type { DriverProperties } from '../../../drivers/driver.js';
import { compareTrees, describeTree, showDifferences, type TreeListing } from '../../reference/tree.js';
import { EDITS, IMAGE, type Edit } from '../edits.js';
import { file } from '../entries.js';
import { collect, oneChunk, tarOf, type Rig, type RigStack } from '../rig.js';
import type { UseRig } from '../suite.js';
import { expectEqualTrees, withoutSockets } from './stacks.js';

const APPLY = fileURLToPath(new URL('../../../../test/model/apply.py', import.meta.url));

/** The same image in a plain directory, with nothing of layerd, and the same done there. */
async function plainDirectory(rig: Rig, script: string): Promise<TreeListing> {
  const directory = rig.file('plain');
  execFileSync('cp', ['-a', plainImage(rig), directory]);
  execFileSync('sh', ['-euc', script], { cwd: directory });
  return describeTree(directory);
}

function plainImage(rig: Rig): string {
  const directory = rig.shared('plain-image');
  if (existsSync(directory)) return directory;
  mkdirSync(directory);
  for (const [index, layer] of IMAGE.entries()) {
    writeFileSync(rig.file(`${index}.tar`), tarOf(layer));
    execFileSync('python3', ['-I', APPLY, rig.file(`${index}.tar`), directory]);
  }
  return directory;
}

function applies(edit: Edit, properties: DriverProperties): boolean {
  if (edit.fullFidelity && !properties.fullFidelity) return false;
  return !edit.renames || properties.renamesLowerDirectories;
}

async function expectEdit(rig: Rig, stack: RigStack, edit: Edit): Promise<void> {
  const { properties } = rig.driver;
  const started = BigInt(Date.now() - 1000) * 1_000_000n;
  const container = await rig.snapshot(stack);
  container.edit(edit.script);
  const live = await container.tree();
  const expectLive = async (): Promise<void> => {
    expect(await container.changes()).toEqual(edit.changes);
    expectEqualTrees(await container.exported(), withoutSockets(live));
  };
  await expectLive();
  const diff = await container.diff();
  if (edit.changes.length === 0) expect(diff.equals(Buffer.alloc(1024))).toBe(true);
  container.unmount();
  await expectLive();
  expect((await container.diff()).equals(diff)).toBe(true);

  const committed = await rig.view(await container.commit());
  if (edit.changes.length > 0) expectEqualTrees(await committed.tree(), withoutSockets(live));
  if (!properties.fullFidelity || (edit.links && !properties.hardLinksSurviveCopyUp)) return;
  const isNow = (time: string | undefined): boolean => BigInt(time ?? 0) > started;
  const differences = compareTrees(live, await plainDirectory(rig, edit.script), {
    ignore: ({ attribute, left, right }) => attribute === 'mtime' && isNow(left) && isNow(right),
  });
  expect(showDifferences(differences)).toBe('');
}

export function editsPart(rig: UseRig): void {
  describe('tells', () => {
    let stack: RigStack;
    beforeEach(async () => {
      stack = await rig().stack(IMAGE);
    });

    it.each(Object.entries(EDITS))('%s', async (_, edit) => {
      if (applies(edit, rig().driver.properties)) await expectEdit(rig(), stack, edit);
    });

    it('an edit of a linked file for all of its names, or for the one alone', async () => {
      const container = await rig().snapshot(stack);
      container.edit('echo more >> usr/bin/prog');
      const together = rig().driver.properties.hardLinksSurviveCopyUp;
      const alias = together ? ['C /usr/bin/alias'] : [];
      expect(await container.changes()).toEqual(['C /usr', 'C /usr/bin', ...alias, 'C /usr/bin/prog']);
      const live = await container.tree();
      const [one, other] = [live.get('usr/bin/prog'), live.get('usr/bin/alias')];
      expect(one?.sha256 === other?.sha256).toBe(together);
      expectEqualTrees(await (await rig().view(await container.commit())).tree(), live);
    });

    it('a directory of the image that cannot be renamed, where the driver says so', async () => {
      const container = await rig().snapshot(stack);
      const rename = "import os; os.rename('usr/lib', 'usr/share')";
      const run = (): Buffer =>
        execFileSync('python3', ['-c', rename], { cwd: container.mount(), stdio: ['ignore', 'ignore', 'pipe'] });
      if (rig().driver.properties.renamesLowerDirectories) run();
      else expect(run).toThrow(/Invalid cross-device link/);
    });

    it('an ACL on a file that nothing else has touched, where the driver says so', async () => {
      if (!rig().driver.properties.fullFidelity) return;
      const container = await rig().snapshot(stack);
      const set = (): void => container.edit('setfacl -m u:1000:r etc/one');
      if (rig().driver.properties.setsAclsOnLayerFiles) set();
      else expect(set).toThrow(/Operation not supported/);
    });

    it('nothing of what others mount inside', async () => {
      if (!rig().driver.properties.fullFidelity) return;
      const container = await rig().snapshot(stack);
      container.edit('echo below > etc/conf.d/new');
      const before = await container.tree();
      const changes = await container.changes();
      const inside = join(container.mount(), 'etc/conf.d');
      execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', inside]);
      try {
        writeFileSync(join(inside, 'covering'), 'x');
        expect(await container.changes()).toEqual(changes);
        expectEqualTrees(await container.exported(), before);
      } finally {
        execFileSync('umount', [inside]);
      }
    });

    it('something whole while it is being written to', async () => {
      const container = await rig().snapshot(stack);
      const storm = `i=0; while :; do i=$((i+1)); mkdir -p s/$i; echo $i > s/$i/f; ln -f s/$i/f s/l; mv s/$i s/m$i
        rm -r s/m$i; echo $i >> large; : > large; rm -f etc/one; ln -s x etc/one; rm etc/one; mkdir etc/one; rmdir etc/one; done`;
      const writer = spawn('sh', ['-c', storm], { cwd: container.mount(), stdio: 'ignore' });
      const ended = once(writer, 'exit');
      try {
        for (let round = 0; round < 5; round++) {
          await container.changes();
          const committed = await rig().view(await container.commit());
          expect((await committed.tree()).get('usr/lib/x')?.size).toBe(6);
          expect((await container.exported()).get('usr/lib/x')?.size).toBe(6);
          committed.remove();
        }
      } finally {
        writer.kill('SIGKILL');
        await ended;
      }
    });

    it('nothing of what a container may not keep: names that stand for whiteouts', async () => {
      const container = await rig().snapshot(stack);
      container.edit('echo x > etc/.wh.one');
      await expect(container.diff()).rejects.toMatchObject({
        code: 'NAME_UNSUPPORTED',
        details: { path: '/etc/.wh.one' },
      });
      expect((await container.exported()).has('etc/.wh.one')).toBe(true);
    });

    it('the same again after many layers of edits', async () => {
      let top = stack;
      for (const script of [
        'echo 1 > a; rm etc/one',
        'mkdir b; mv a b/a',
        'rm -r b usr; mkdir usr; echo 2 > usr/x',
        'chmod 700 usr',
      ]) {
        const container = await rig().snapshot(top);
        container.edit(script);
        const live = await container.tree();
        top = await container.commit();
        container.remove();
        const view = await rig().view(top);
        expectEqualTrees(await view.tree(), live);
        view.remove();
      }
      expect(top.layers).toHaveLength(6);
    });

    it('the bytes of lower layers as they were', async () => {
      const container = await rig().snapshot(stack);
      container.edit(
        'find . -type f -exec sh -c \'echo x >> "$1"\' sh {} \\; ; chmod -R 777 .; rm -r usr; touch etc/*',
      );
      for (const [index, layer] of stack.layers.entries()) {
        const { layers } = rig().drivers(layer.driver);
        expect((await collect(layers.tar(layer))).equals(tarOf(IMAGE[index] ?? []))).toBe(true);
        expect(await layers.verify(layer, { quick: false })).toEqual([]);
      }
    });

    it('a diff that another store takes', async () => {
      const container = await rig().snapshot(stack);
      container.edit('rm etc/one; mkdir etc/dir; echo x > etc/dir/f');
      const live = await container.tree();
      const diff = await container.diff();
      const elsewhere = await rig().stack([...IMAGE.map(tarOf), diff]);
      expectEqualTrees(await (await rig().view(elsewhere)).tree(), live);
      expect((await rig().layer(oneChunk(diff))).diffId).toBe(elsewhere.layers.at(-1)?.diffId);
    });

    it('a container on nothing', async () => {
      const container = await rig().snapshot({
        layers: [],
        root: { mode: 0o755, uid: 0, gid: 0, mtime: { sec: 0, nsec: 0 } },
      });
      container.edit('echo first > file; mkdir dir');
      expect(await container.changes()).toEqual(['A /dir', 'A /file']);
      const live = await container.tree();
      expectEqualTrees(await (await rig().view(await container.commit())).tree(), live);
      expect((await rig().stack([[file('x')]])).layers).toHaveLength(1);
    });
  });
}
