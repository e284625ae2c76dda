/**
 * The diff service with the content store of the real containerd: layers come out of it without being unpacked, and what a
 * container changed goes back into it.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { fixture, type Fixture } from '../../bench/fixtures/fixtures.js';
import { chainIds, type Digest } from '../../src/core/digest.js';
import type { DriverName } from '../../src/core/words.js';
import type { Mount } from '../../src/doors/containerd/messages.js';
import { needsFixture } from '../reference/needs.js';
import { describeWith, needsProgram } from '../support.js';
import { ContainerdRig } from './containerd-rig.js';
import { DiffClient } from './diff-client.js';
import { codeOf, optionOf, SnapshotsClient } from './snapshots-client.js';

const DRIVERS = ['erofs', 'overlay2'] as const satisfies DriverName[];
const GZIP = 'application/vnd.oci.image.layer.v1.tar+gzip';
const MINUTES = 60_000;

interface Manifest {
  layers: { mediaType: string; digest: string; size: number }[];
}

describeWith(
  'the diff service',
  [...needsFixture('tiny'), needsProgram('containerd'), needsProgram('getfattr', 'attr')],
  () => {
    let tiny: Fixture;
    let chain: Digest[];

    beforeAll(async () => {
      tiny = await fixture('tiny');
      chain = chainIds(tiny.layers.map(({ diffId }) => diffId as Digest));
    }, 5 * MINUTES);

    /** Runs `work` with clients of a snapshotter that containerd does not know of, and so does not collect. */
    async function withClients(
      driver: DriverName,
      work: (rig: ContainerdRig, snapshots: SnapshotsClient, differ: DiffClient) => Promise<void>,
    ): Promise<void> {
      await ContainerdRig.with(driver, async (rig) => {
        const socket = join(rig.home, 'run', 'containerd.sock');
        const snapshots = new SnapshotsClient(socket, 'direct');
        const differ = new DiffClient(socket);
        try {
          await rig.ctr('image', 'import', '--no-unpack', rig.visible(tiny.forms.ociArchive.path));
          await work(rig, snapshots, differ);
        } finally {
          snapshots.close();
          differ.close();
        }
      });
    }

    /** As containerd's unpacker does: prepare, apply, commit, layer by layer. Returns the name of the topmost. */
    async function unpack(rig: ContainerdRig, snapshots: SnapshotsClient, differ: DiffClient): Promise<string> {
      const { stdout } = { stdout: await rig.ctr('content', 'get', tiny.manifestDigest) };
      const { layers } = JSON.parse(stdout) as Manifest;
      let parent = '';
      for (const [index, blob] of layers.entries()) {
        const mounts = await snapshots.prepare(`default/${index}/extract`, parent);
        const applied = await differ.apply({ ...blob, annotations: {} }, mounts);
        expect(applied?.digest).toBe(tiny.layers[index]?.diffId);
        expect(applied?.mediaType).toBe('application/vnd.oci.image.layer.v1.tar');
        const name = `default/${index}/${chain[index]}`;
        await snapshots.commit(name, `default/${index}/extract`);
        parent = name;
      }
      return parent;
    }

    function mounted<T>(rig: ContainerdRig, mounts: readonly Mount[], work: (root: string) => T): T {
      const target = join(rig.home, 'mnt');
      mkdirSync(target);
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

    it.each(DRIVERS)(
      'applies without unpacking, and writes back, by %s',
      (driver) =>
        withClients(driver, async (rig, snapshots, differ) => {
          const top = await unpack(rig, snapshots, differ);
          const { client } = rig.daemon;
          expect((await client.layers()).map(({ diffId }) => diffId).sort()).toEqual(
            tiny.layers.map(({ diffId }) => diffId).sort(),
          );
          // nothing was written into an upper, and none was committed
          expect((await client.diskUsage()).rows.filter(({ kind }) => kind === 'snapshot')).toEqual([]);
          mounted(rig, await snapshots.view('default/8/look', top), (root) => {
            expect(readFileSync(join(root, 'srv/app/lib/numbers'), 'utf8').split('\n')).toHaveLength(2001);
          });
          const right = await snapshots.prepare('default/9/box', top);
          mounted(rig, right, (root) => {
            writeFileSync(join(root, 'new'), 'made in a container');
            execFileSync('setfattr', ['-n', 'user.note', '-v', 'kept', join(root, 'new')]);
            rmSync(join(root, 'srv/app/lib/numbers'));
          });
          const left = await snapshots.mounts('default/8/look');
          const changed = await differ.diff(left, right);
          expect(changed?.mediaType).toBe(GZIP);
          const listed = await rig.ctr('content', 'ls');
          expect(listed).toContain(changed?.digest);
          expect(listed.split('\n').find((line) => line.includes(changed?.digest ?? 'x'))).toContain(
            'containerd.io/uncompressed=',
          );
          // the same again: it is there
          expect(await differ.diff(left, right)).toEqual(changed);
          const again = await snapshots.prepare('default/10/again', top);
          const applied = await differ.apply(changed ?? { mediaType: '', digest: '', size: 0, annotations: {} }, again);
          expect(listed).toContain(`containerd.io/uncompressed=${applied?.digest}`);
          await snapshots.commit('default/11/again', 'default/10/again');
          mounted(rig, await snapshots.view('default/12/look', 'default/11/again'), (root) => {
            expect(readFileSync(join(root, 'new'), 'utf8')).toBe('made in a container');
            const note = execFileSync('getfattr', [
              '--absolute-names',
              '-n',
              'user.note',
              '--only-values',
              join(root, 'new'),
            ]);
            expect(note.toString()).toBe('kept');
            expect(existsSync(join(root, 'srv/app/lib/numbers'))).toBe(false);
          });
        }),
      4 * MINUTES,
    );

    it(
      'leaves to others what is not its own, and says what is wrong',
      () =>
        withClients('overlay2', async (_rig, snapshots, differ) => {
          const [base] = tiny.layers;
          const blob = { mediaType: GZIP, digest: base?.blobDigest ?? '', size: base?.blobSize ?? 0, annotations: {} };
          const foreign = {
            type: 'overlay',
            source: 'overlay',
            target: '',
            options: ['upperdir=/srv/u', 'lowerdir=/srv/l'],
          };
          const mounts = await snapshots.prepare('default/1/x');
          const missing = `sha256:${'0'.repeat(64)}`;
          const codes = {
            foreignMounts: await codeOf(differ.apply(blob, [foreign])),
            foreignMedia: await codeOf(differ.apply({ ...blob, mediaType: 'text/plain' }, mounts)),
            foreignDiff: await codeOf(differ.diff([], [foreign])),
            otherLeft: await codeOf(differ.diff([foreign], mounts)),
            missingBlob: await codeOf(differ.apply({ ...blob, digest: missing }, mounts)),
          };
          expect(codes).toEqual({
            foreignMounts: 'UNIMPLEMENTED',
            foreignMedia: 'UNIMPLEMENTED',
            foreignDiff: 'UNIMPLEMENTED',
            otherLeft: 'UNIMPLEMENTED',
            missingBlob: 'NOT_FOUND',
          });
          expect(optionOf(mounts, 'upperdir')).toBeDefined();
        }),
      2 * MINUTES,
    );
  },
);
