/** What runtimes do through their doors, as scenes: whole lives of layers and containers, each step acknowledged. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { bytesOf } from '../../src/core/bytes.js';
import { sha256 } from '../../src/core/digest.js';
import type { Mount } from '../../src/doors/containerd/messages.js';
import { optionOf } from '../clients/snapshots-client.js';
import { ignore, never } from '../e2e/store.js';
import { entrySpec, layerTar } from '../model/spec.js';
import { Doors, SPACES } from './doors.js';
import { REF } from './image.js';
import type { Scene, Stage } from './stage.js';

const [CONTAINERD, DOCKER] = SPACES;
const BASE = layerTar([
  entrySpec(bytesOf('etc'), { type: 'directory' }),
  entrySpec(bytesOf('etc/motd'), { content: Buffer.from('base\n'.repeat(1000)) }),
]);
const BLOB = gzipSync(BASE);
const UPPER = 'what was unpacked\n'.repeat(1000);
const GZIP = 'application/vnd.oci.image.layer.v1.tar+gzip';
/** An id as Docker makes them. */
const idOf = (name: string): string => sha256(name).slice('sha256:'.length);
const [layer, box] = [idOf('layer'), idOf('box')] as const;
const PULLED = 'pulled.example/app:1';

const opened = new WeakMap<object, Promise<Doors>>();

/** The doors in front of the engine that runs now. */
function doorsOf({ store }: Stage): Promise<Doors> {
  const doors = opened.get(store.engine) ?? Doors.open(store, [BLOB]);
  opened.set(store.engine, doors);
  return doors;
}

/** Closes what scenes opened, and removes what they made through the doors. */
export async function clearDoors({ store }: Stage): Promise<void> {
  await (await opened.get(store.engine))?.close();
  opened.delete(store.engine);
  const { snapshots } = store.engine;
  for (const space of SPACES) {
    for (const { key, kind } of [...snapshots.list(space)].toReversed()) {
      if (kind !== 'committed') await snapshots.unmount({ space, key }, { force: true });
      await snapshots.remove({ space, key });
    }
  }
}

function kindOf({ store }: Stage, space: string, key: string): string | null {
  return [...store.engine.snapshots.list(space)].find((snapshot) => snapshot.key === key)?.kind ?? null;
}

async function bytesOfLayer({ store }: Stage, space: string, key: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of store.engine.snapshots.diff({ space, key }, never)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** A layer as containerd unpacks it: Prepare, the bytes, Commit. Done again, it goes on where it ended. */
async function unpack(
  stage: Stage,
  { name, parent }: { name: string; parent: string },
  bring: (doors: Doors, mounts: Mount[]) => Promise<unknown>,
): Promise<void> {
  const doors = await doorsOf(stage);
  if (kindOf(stage, CONTAINERD, name) === null) {
    const key = `extract ${name}`;
    const made = await doors.containerd(doors.snapshots.prepare(key, parent), 'ALREADY_EXISTS');
    await bring(doors, made ?? (await doors.snapshots.mounts(key)));
    await doors.containerd(doors.snapshots.commit(name, key));
  }
  stage.ack(name);
}

const applied = (doors: Doors, mounts: Mount[]): Promise<unknown> =>
  doors.containerd(
    doors.differ.apply({ mediaType: GZIP, digest: sha256(BLOB), size: BLOB.length, annotations: {} }, mounts),
  );

const written = async (_doors: Doors, mounts: Mount[]): Promise<void> =>
  writeFileSync(join(String(optionOf(mounts, 'upperdir')), 'written'), UPPER);

export const DOOR_SCENES = {
  /** containerd unpacks an image: one layer through the differ, one into an upper, which becomes a layer. */
  unpack: {
    prepare: doorsOf,
    run: async (stage) => {
      await unpack(stage, { name: 'default/1/applied', parent: '' }, applied);
      await unpack(stage, { name: 'default/2/written', parent: 'default/1/applied' }, written);
      await stage.store.engine.conversions.settled();
    },
    holds: async (stage, answered) => {
      if (answered.has('default/1/applied')) {
        assert.ok((await bytesOfLayer(stage, CONTAINERD, 'default/1/applied')).equals(BASE));
      }
      if (answered.has('default/2/written')) {
        assert.ok((await bytesOfLayer(stage, CONTAINERD, 'default/2/written')).includes(UPPER));
      }
    },
    already: [],
  },
  /** containerd's containers: Prepare, View, Update, Mounts, Remove. */
  snapshots: {
    prepare: (stage) => unpack(stage, { name: 'base', parent: '' }, applied),
    run: async (stage) => {
      await unpack(stage, { name: 'base', parent: '' }, applied);
      const doors = await doorsOf(stage);
      const { snapshots } = doors;
      await doors.containerd(snapshots.prepare('box', 'base', { of: 'scene' }), 'ALREADY_EXISTS');
      stage.ack('box');
      await doors.containerd(snapshots.view('look', 'base'), 'ALREADY_EXISTS');
      stage.ack('look');
      await doors.containerd(snapshots.update({ name: 'box', labels: { now: 'other' } }, ['labels']));
      stage.ack('labels');
      await doors.containerd(snapshots.mounts('look'));
      await doors.containerd(snapshots.remove('look'), 'NOT_FOUND');
      stage.ack('look removed');
      await doors.containerd(snapshots.remove('box'), 'NOT_FOUND');
      stage.ack('box removed');
    },
    holds: async (stage, answered) => {
      assert.ok((await bytesOfLayer(stage, CONTAINERD, 'base')).equals(BASE));
      const going = answered.has('look removed');
      if (answered.has('box') && !going) assert.equal(kindOf(stage, CONTAINERD, 'box'), 'active');
      if (answered.has('look') && !answered.has('labels')) assert.equal(kindOf(stage, CONTAINERD, 'look'), 'view');
      if (answered.has('labels') && !going) {
        const { labels } = stage.store.engine.snapshots.stat({ space: CONTAINERD, key: 'box' });
        assert.deepEqual(labels, { now: 'other' });
      }
      if (going) assert.equal(kindOf(stage, CONTAINERD, 'look'), null);
      if (answered.has('box removed')) assert.equal(kindOf(stage, CONTAINERD, 'box'), null);
    },
    already: [],
  },
  /** dockerd: a layer by Create and ApplyDiff, a container by CreateReadWrite, Get, Diff, Put, Remove. */
  docker: {
    prepare: doorsOf,
    run: async (stage) => {
      const doors = await doorsOf(stage);
      const { docker } = doors;
      const verb = (name: string, body: object): Promise<Record<string, unknown>> =>
        doors.dockerd(docker.verb(name, body));
      await verb('Init', { Home: '/nowhere', Opts: null });
      await verb('Create', { ID: layer, Parent: '' });
      if (kindOf(stage, DOCKER, layer) === 'active') await doors.dockerd(docker.apply(layer, '', BASE));
      stage.ack('layer');
      await verb('CreateReadWrite', { ID: box, Parent: layer });
      stage.ack('box');
      const { Dir: root } = await verb('Get', { ID: box });
      writeFileSync(join(String(root), 'written'), UPPER);
      stage.ack('written');
      const { Dir: shown } = await verb('Get', { ID: layer });
      assert.equal(readFileSync(join(String(shown), 'etc/motd'), 'utf8').length, 5000);
      await verb('Put', { ID: layer });
      const { status, body } = await docker.diff(box, layer);
      if (status !== 200) await doors.dockerd(Promise.resolve(JSON.parse(body.toString()) as Record<string, unknown>));
      assert.ok(body.includes(UPPER));
      await verb('Put', { ID: box });
      stage.ack('put');
      await verb('Remove', { ID: box });
      stage.ack('removed');
    },
    holds: async (stage, answered) => {
      if (answered.has('layer')) assert.ok((await bytesOfLayer(stage, DOCKER, layer)).equals(BASE));
      if (answered.has('box') && !answered.has('put')) assert.equal(kindOf(stage, DOCKER, box), 'active');
      if (answered.has('written') && !answered.has('put')) {
        assert.ok((await bytesOfLayer(stage, DOCKER, box)).includes(UPPER));
      }
      if (answered.has('removed')) assert.equal(kindOf(stage, DOCKER, box), null);
    },
    already: [],
  },
  pull: {
    prepare: () => Promise.resolve(),
    run: ({ store }) => store.engine.pull(PULLED, {}, ignore, never),
    holds: ({ store }, answered) => {
      if (answered.size > 0) assert.equal(store.engine.image(PULLED).refs[0], PULLED);
    },
    already: [],
    leaves: 'pull-',
  },
  push: {
    prepare: ({ store, archive }) => store.load(archive),
    run: async ({ store, archive, registry }) => {
      await store.load(archive);
      await store.engine.push(REF, { target: `${registry.host}/pushed:1` }, ignore, never);
    },
    holds: ({ store }) => assert.deepEqual(store.engine.image(REF).refs, [REF]),
    already: [],
  },
} as const satisfies Record<string, Scene>;
