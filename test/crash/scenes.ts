/** The operations of the store, each as a scene: what comes before it, the operation, and what must hold after a start. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DriverName } from '../../src/core/words.js';
import { DOOR_SCENES } from './door-scenes.js';
import { crashImage, LOWER, NUMBERS, REF } from './image.js';
import { ignore, never } from '../e2e/store.js';
import type { Scene, Stage } from './stage.js';

const COMMITTED = 'localhost/committed:1';
const TAGGED = 'localhost/tagged:1';
const WRITTEN = 'written\n'.repeat(1000);
const IMAGE = crashImage();

const load = ({ store, archive }: Stage): Promise<unknown> => store.load(archive);

function refs({ store }: Stage): string[] {
  return [...store.engine.images()].flatMap((image) => image.refs);
}

function names({ store }: Stage): string[] {
  return [...store.engine.containers()].map(({ name }) => name);
}

async function worker(stage: Stage): Promise<string> {
  await load(stage);
  const path = await stage.store.container(REF, 'worker');
  writeFileSync(join(path, 'etc/lower'), WRITTEN);
  return path;
}

/** The mount of a container outlives the engine, and what was written is there. */
function workerHolds(stage: Stage): void {
  const { path, mounts } = stage.store.engine.container('worker');
  assert.equal(mounts, 1);
  assert.equal(readFileSync(join(String(path), 'etc/lower'), 'utf8'), WRITTEN);
  assert.equal(readFileSync(join(String(path), 'usr/lib/app/numbers'), 'utf8'), NUMBERS);
}

function expectImage(stage: Stage): void {
  assert.equal(stage.store.engine.image(REF).id, IMAGE.id);
}

/** A migration, and what the layers and containers of the other driver are afterwards. */
function otherThan(driver: DriverName): DriverName {
  return driver === 'overlay2' ? 'copy' : 'overlay2';
}

function firstLayer({ store }: Stage): string {
  return String(store.engine.image(REF).layers[0]?.path);
}

const STORE_SCENES = {
  load: {
    prepare: () => Promise.resolve(),
    run: load,
    holds: (stage, answered) => void (answered.size > 0 && expectImage(stage)),
    already: [],
  },
  commit: {
    prepare: worker,
    run: ({ store }) => store.commit('worker', { ref: COMMITTED }),
    holds: (stage, answered) => {
      workerHolds(stage);
      if (answered.size > 0) assert.ok(refs(stage).includes(COMMITTED));
    },
    already: [],
  },
  create: {
    prepare: load,
    run: ({ store }) => store.engine.createContainer(REF, { name: 'made' }),
    holds: (stage, answered) => {
      expectImage(stage);
      if (answered.size > 0) assert.deepEqual(names(stage), ['made']);
    },
    already: ['CONTAINER_EXISTS'],
  },
  mount: {
    prepare: async (stage) => {
      await load(stage);
      await stage.store.engine.createContainer(REF, { name: 'made' });
    },
    run: async ({ store }) => {
      const { path } = await store.engine.mount('made');
      assert.equal(readFileSync(join(path, 'etc/lower'), 'utf8'), LOWER);
    },
    holds: (stage, answered) => {
      assert.deepEqual(names(stage), ['made']);
      if (answered.size > 0) assert.equal(stage.store.engine.container('made').mounts, 1);
    },
    already: [],
  },
  unmount: {
    prepare: worker,
    run: ({ store }) => store.engine.unmount('worker', {}),
    holds: (stage, answered) => {
      assert.deepEqual(names(stage), ['worker']);
      if (answered.size > 0) assert.equal(stage.store.engine.container('worker').mounts, 0);
    },
    already: ['CONTAINER_NOT_MOUNTED'],
  },
  rm: {
    prepare: worker,
    run: ({ store }) => store.engine.removeContainer('worker', { force: true }),
    holds: (stage, answered) => {
      if (answered.size > 0) assert.deepEqual(names(stage), []);
    },
    already: ['CONTAINER_NOT_FOUND'],
  },
  rmi: {
    prepare: load,
    run: ({ store }) => store.engine.removeImage(REF, {}),
    holds: (stage, answered) => {
      if (answered.size > 0) assert.deepEqual(refs(stage), []);
    },
    already: ['IMAGE_NOT_FOUND'],
  },
  tag: {
    prepare: load,
    run: ({ store }) => store.engine.tag(REF, TAGGED),
    holds: (stage, answered) => {
      expectImage(stage);
      if (answered.size > 0) assert.ok(refs(stage).includes(TAGGED));
    },
    already: [],
  },
  gc: {
    prepare: async (stage) => {
      await worker(stage);
      await stage.store.engine.removeContainer('worker', { force: true });
      await stage.store.engine.removeImage(REF, {});
    },
    run: ({ store }) => store.collect(),
    holds: ({ store }, answered) => {
      if (answered.size > 0) assert.deepEqual([...store.engine.layers()], []);
    },
    already: [],
  },
  migrate: {
    prepare: worker,
    run: async ({ store, driver }) => {
      const report = await store.engine.migrate({ to: otherThan(driver) }, ignore, never);
      assert.deepEqual(report.failures, []);
    },
    holds: (stage, answered) => {
      workerHolds(stage);
      if (answered.size === 0) return;
      for (const layer of stage.store.engine.image(REF).layers) assert.equal(layer.driver, otherThan(stage.driver));
    },
    already: [],
  },
  lease: {
    prepare: load,
    run: async ({ store, ack }) => {
      const { engine } = store;
      await engine.createLease({ id: 'mine', holds: [IMAGE.id] });
      ack('made');
      await engine.updateLease('mine', { ttlMs: 3_600_000 });
      await engine.removeLease('mine');
      ack('removed');
    },
    holds: ({ store }, answered) => {
      const ids = store.engine.leases().map(({ id }) => id);
      if (answered.has('removed')) assert.deepEqual(ids, []);
    },
    already: ['LEASE_EXISTS', 'LEASE_NOT_FOUND'],
  },
  heal: {
    prepare: async (stage) => {
      await worker(stage);
      rmSync(join(firstLayer(stage), 'catalog'));
      assert.notDeepEqual(await stage.store.problems(), []);
    },
    run: load,
    holds: workerHolds,
    already: [],
  },
  repair: {
    prepare: async (stage) => {
      await worker(stage);
      mkdirSync(join(stage.store.config.root, 'l/strayone'));
      writeFileSync(join(stage.store.config.root, 'l/strayone/tar'), 'nothing');
    },
    run: ({ store }) => store.check({ repair: true }),
    holds: (stage, answered) => {
      workerHolds(stage);
      if (answered.size > 0) assert.ok(!existsSync(join(stage.store.config.root, 'l/strayone')));
    },
    already: [],
  },
  start: {
    prepare: async (stage) => {
      await worker(stage);
      await stage.store.stop();
      for (const stray of ['l/strayone', 's/strayone', 't/stray.part', 'b/stray.part']) {
        mkdirSync(join(stage.store.config.root, stray), { recursive: true });
      }
    },
    run: ({ store }) => store.reopen(),
    holds: workerHolds,
    already: [],
  },
  stop: {
    prepare: worker,
    run: ({ store }) => store.stop(),
    holds: workerHolds,
    already: ['SHUTTING_DOWN'],
  },
} as const satisfies Record<string, Scene>;

export const SCENES = { ...STORE_SCENES, ...DOOR_SCENES };

export type SceneName = keyof typeof SCENES;
