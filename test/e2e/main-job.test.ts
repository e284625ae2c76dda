/** The main job, from the first load to an empty store, by every driver, on an image made of a real busybox. */
import { createReadStream } from 'node:fs';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { fixture, type Fixture } from '../../bench/fixtures/fixtures.js';
import { imageRef } from '../../bench/fixtures/image.js';
import { run } from '../../bench/fixtures/shell.js';
import type { ArchiveInput } from '../../src/core/api.js';
import { compareTrees, describeTree, showDifferences, type TreeListing } from '../reference/tree.js';
import { describeWith, needsProgram } from '../support.js';
import { podmanArgs } from '../unit/image-fixtures.js';
import { needsFixtures, TESTED_DRIVERS, withStore, type TestStore } from './store.js';

const REF = imageRef('tiny');
const CHANGED = 'localhost/changed:1';
/** What is done in a container: shell commands in its root, run by the machine's own shell. */
const WORK = String.raw`
  echo new >srv/new
  mkdir srv/made
  echo deep >srv/made/deep
  echo more >>srv/app/config
  chmod 0640 etc/group
  rm etc/passwd
  rm -r srv/app/becomes-directory
  mv srv/app/cache srv/app/moved
  ln srv/app/lib/numbers srv/hard
`;
const CHANGES = [
  'C /etc',
  'C /etc/group',
  'D /etc/passwd',
  'C /srv',
  'C /srv/app',
  'D /srv/app/becomes-directory',
  'D /srv/app/cache',
  'C /srv/app/config',
  'A /srv/app/moved',
  'A /srv/app/moved/three',
  'A /srv/hard',
  'A /srv/made',
  'A /srv/made/deep',
  'A /srv/new',
  // A file that gets another name belongs to what changed: the link between the names does.
  'C /srv/app/lib',
  'C /srv/app/lib/numbers',
];

let tiny: Fixture;

beforeAll(async () => {
  tiny = await fixture('tiny');
}, 600_000);

function shell(script: string, cwd: string): Promise<string> {
  return run('bash', ['-euc', script], { cwd });
}

function streamed(path: string): ArchiveInput {
  return { stream: createReadStream(path, { highWaterMark: 10_000 }), size: null };
}

/** A listing as it was, but for what a new link to a lower file or a mount may touch. */
function showChanged(before: TreeListing, after: TreeListing): string {
  return showDifferences(compareTrees(before, after));
}

describeWith('the main job', [...needsFixtures(), needsProgram('umoci'), needsProgram('podman')], () => {
  describe.each(TESTED_DRIVERS)('%s', (driver) => {
    it('loads from a file and from a stream, OCI and docker-archive, the same image', async () => {
      const inputs: (string | ArchiveInput)[] = [
        tiny.forms.ociArchive.path,
        streamed(tiny.forms.ociArchive.path),
        tiny.forms.dockerArchive.path,
        streamed(tiny.forms.dockerArchive.path),
        tiny.forms.ociLayout.path,
      ];
      for (const input of inputs) {
        await withStore({ driver }, async (store) => {
          const loaded = await store.load(input, input === tiny.forms.ociLayout.path ? { ref: REF } : {});
          expect(loaded).toMatchObject({ layersLoaded: 3, layersPresent: 0, bytesLoaded: tiny.tarSize });
          const [image] = store.engine.images();
          expect(image).toMatchObject({ id: tiny.configDigest, refs: [REF], size: tiny.tarSize, shared: 0 });
          expect(store.engine.image(REF).layers.map((layer) => layer.diffId)).toEqual(
            tiny.layers.map((layer) => layer.diffId),
          );
          expect((await store.check()).problems).toEqual([]);
        });
      }
    });

    it('does it from load to an empty store', async () => {
      await withStore({ driver }, (store) => mainJob(store));
    });

    it('leaves the bytes of lower layers as they are in a storm of writes from many containers', async () => {
      await withStore({ driver }, async (store) => {
        await store.load(tiny.forms.ociArchive.path);
        const roots: string[] = [];
        for (let index = 0; index < 6; index += 1) roots.push(await store.container(REF, `c${index}`));
        const before = await describeTree(join(store.config.root, 'l'));
        await Promise.all(roots.map((root) => shell(STORM, root)));
        for (const root of roots) expect(await shell('cat srv/app/lib/numbers | wc -l', root)).toBe('2001\n');
        expect(showChanged(before, await describeTree(join(store.config.root, 'l')))).toBe('');
        expect((await store.check()).problems).toEqual([]);
      });
    });
  });
});

const STORM = String.raw`
  for file in $(find . -xdev -type f); do echo storm >>"$file"; done
  find . -xdev -type d -exec touch {}/touched \;
  chown -R 4321 srv
  chmod -R g+s etc
  setfattr -n user.storm -v yes bin/busybox
  truncate -s 1000000 bin/busybox
  rm -r bin/[a-m]*
  mv srv/app srv/elsewhere
  mkdir srv/app
  mv srv/elsewhere/lib srv/app/lib
  rm -r srv/elsewhere
`;

async function mainJob(store: TestStore): Promise<void> {
  const { engine } = store;
  await store.load(tiny.forms.ociArchive.path);
  const history = engine.history(REF);
  expect(history.map(({ size, diffId }) => [size, diffId])).toEqual([
    [0, null],
    [tiny.layers[2]?.tarSize, tiny.layers[2]?.diffId],
    [tiny.layers[1]?.tarSize, tiny.layers[1]?.diffId],
    [0, null],
    [tiny.layers[0]?.tarSize, tiny.layers[0]?.diffId],
  ]);
  expect(history[0]).toMatchObject({ createdBy: 'CMD ["/bin/sh"]', comment: 'fixture' });

  const one = await store.container(REF, 'one');
  const other = await store.container(REF, 'other');
  const pristine = await describeTree(other);
  const layersBefore = await describeTree(join(store.config.root, 'l'));
  await shell(WORK, one);
  expect((await store.changes('one')).sort(byPath)).toEqual([...CHANGES].sort(byPath));
  expect(await store.changes('other')).toEqual([]);
  expect(showChanged(pristine, await describeTree(other))).toBe('');
  expect(showChanged(layersBefore, await describeTree(join(store.config.root, 'l')))).toBe('');

  const committed = await store.commit('one', {
    ref: CHANGED,
    author: 'somebody',
    message: 'why',
    changes: ['ENV A=b'],
  });
  expect(committed).toMatchObject({ ref: CHANGED, whileMounted: true });
  expect(engine.image(CHANGED).layers).toHaveLength(4);
  expect(engine.history(CHANGED)[0]).toMatchObject({ comment: 'why', diffId: committed.diffId, size: committed.size });
  const committedRoot = await store.container(CHANGED, 'of-committed');
  const committedTree = await describeTree(committedRoot);
  expect(showChanged(await describeTree(one), committedTree)).toBe('');

  await accepted(store, committedTree);

  expect((await store.check()).problems).toEqual([]);
  expect((await engine.diskUsage()).total).toBe(await store.allocated());
  for (const name of ['one', 'other', 'of-committed']) {
    await engine.unmount(name, {});
    await engine.removeContainer(name, {});
  }
  await engine.removeImage(REF, {});
  await engine.removeImage(CHANGED, {});
  await freedAsPredicted(store);
  expect(await store.leftovers()).toEqual([]);
  expect(store.mounted()).toEqual([]);
}

/** Both formats are taken by a fresh store and by other tools, with the same digests. */
async function accepted(store: TestStore, tree: TreeListing): Promise<void> {
  const out = mkdtempSync(join(tmpdir(), 'layerd-out-'));
  try {
    const { id, layers } = store.engine.image(CHANGED);
    const diffIds = layers.map((layer) => layer.diffId);
    await store.save([CHANGED], 'docker', join(out, 'docker.tar'));
    const notice = await store.save([CHANGED, REF], 'oci', join(out, 'oci.tar'));
    expect(notice).toContain('uncompressed under a new manifest');
    for (const name of ['docker.tar', 'oci.tar']) {
      await withStore({ driver: store.config.driver }, async (fresh) => {
        await fresh.load(join(out, name));
        expect(fresh.engine.image(CHANGED).id).toBe(id);
        expect(fresh.engine.image(CHANGED).layers.map((layer) => layer.diffId)).toEqual(diffIds);
        expect(showChanged(tree, await describeTree(await fresh.container(CHANGED, 'again')))).toBe('');
      });
    }
    for (const source of [`docker-archive:${out}/docker.tar`, `oci-archive:${out}/oci.tar:${CHANGED}`]) {
      const inspected = JSON.parse(await skopeo('inspect', '--config', source)) as { rootfs: { diff_ids: string[] } };
      expect(inspected.rootfs.diff_ids).toEqual(diffIds);
      expect(`sha256:${await sha256Of(await skopeo('inspect', '--raw', '--config', source))}`).toBe(id);
    }
    for (const source of [`docker-archive:${out}/docker.tar`, `oci-archive:${out}/oci.tar:${CHANGED}`]) {
      await run('podman', [...podmanArgs(out), 'pull', '-q', source]);
      const loaded = await run('podman', [...podmanArgs(out), 'image', 'inspect', '-f', '{{.Id}}', CHANGED]);
      expect(`sha256:${loaded.trim()}`).toBe(id);
      await run('podman', [...podmanArgs(out), 'rmi', '-a', '-f']);
    }
    await skopeo('copy', '-q', `oci-archive:${out}/oci.tar:${CHANGED}`, `oci:${out}/layout:1`);
    await run('umoci', ['unpack', '--image', `${out}/layout:1`, `${out}/bundle`]);
    const byUmoci = compareTrees(tree, await describeTree(`${out}/bundle/rootfs`));
    expect(byUmoci.map(({ path, attribute }) => `${path} ${attribute}`)).toEqual([]);
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

async function freedAsPredicted(store: TestStore): Promise<void> {
  // What the containers held went into the trash with them; it is emptied first, so that only the prediction counts.
  await store.engine.gc({ wait: true });
  const planned = await store.engine.gc({ grace: 0, dryRun: true });
  const before = await allocatedButDatabase(store);
  expect(planned.removed.filter(({ kind }) => kind === 'layer')).toHaveLength(4);
  const done = await store.collect();
  expect(done.removed).toEqual(planned.removed);
  expect(done).toMatchObject({ bytes: planned.bytes, freed: planned.bytes, pinned: 0 });
  expect(before - (await allocatedButDatabase(store))).toBe(planned.bytes);
}

async function allocatedButDatabase(store: TestStore): Promise<number> {
  const { rows } = await store.engine.diskUsage();
  const database = rows.find(({ kind, id }) => kind === 'metadata' && id === 'db');
  return (await store.allocated()) - (database?.bytes ?? 0);
}

function skopeo(...args: string[]): Promise<string> {
  return run('skopeo', ['--insecure-policy', ...args]);
}

async function sha256Of(text: string): Promise<string> {
  const { createHash } = await import('node:crypto');
  return createHash('sha256').update(text, 'latin1').digest('hex');
}

function byPath(left: string, right: string): number {
  return left.slice(2) < right.slice(2) ? -1 : 1;
}
