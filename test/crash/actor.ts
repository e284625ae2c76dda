/**
 * A process that plays one scene, and perhaps dies in it by boundary.ts. Before, it starts the store on what the actor
 * before it left, and looks whether that is sound; so a row of actors tests one point after the other, with one start
 * each. Called with one argument, the JSON of an ActorPlan; fails with what was not as it should be.
 */
import assert from 'node:assert/strict';
import { appendFileSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { LayerdError } from '../../src/core/errors.js';
import { TestStore } from '../e2e/store.js';
import { FakeRegistry } from '../registry/fake-registry.js';
import { IMPATIENT } from '../registry/rig.js';
import type { ActorPlan } from './actor-plan.js';
import { clearDoors } from './door-scenes.js';
import { crashImage } from './image.js';
import { SCENES } from './scenes.js';
import type { Scene, Stage } from './stage.js';

const plan = JSON.parse(process.argv[2] ?? '') as ActorPlan;
const control = join(plan.work, 'control');
const answers = join(control, 'answers');

const registry = await FakeRegistry.start();
registry.add('app', '1', crashImage());
const config = {
  driver: plan.driver,
  keepBlobs: true,
  registry: {
    ...IMPATIENT,
    insecure: [registry.host],
    mirrors: [{ registry: 'pulled.example', url: `http://${registry.host}` }],
  },
};
const store = await TestStore.open(config, join(plan.work, 'home'));
const stage: Stage = {
  store,
  archive: join(plan.work, 'image.tar'),
  driver: plan.driver,
  registry,
  ack: (what) => appendFileSync(answers, `${what}\n`),
};
if (plan.after !== null) await lookAfter(SCENES[plan.after]);
if (plan.scene === null) {
  await store.stop();
  await registry.close();
} else await play(SCENES[plan.scene]);

/** What must hold after a start, wherever the process before it died. */
async function lookAfter(scene: Scene): Promise<void> {
  const answered = new Set(existsSync(answers) ? readFileSync(answers, 'utf8').split('\n').slice(0, -1) : []);
  await scene.holds(stage, answered);
  assert.deepEqual(
    store.engine.leases().filter(({ id }) => id !== 'mine' && !id.startsWith(scene.leaves ?? 'mine')),
    [],
  );
  await expectAccounts(scene);
  // It can be done again, and then all is whole.
  await again(scene);
  if (!store.running) await store.start();
  await expectNothingWrong();
  await store.engine.removeLease('mine').catch(() => undefined);
  await clearDoors(stage);
  await store.removeAll();
  assert.deepEqual(await store.leftovers(), []);
  assert.deepEqual(store.mounted(), []);
}

/** Nothing on disk or mounted that no row accounts for, and no layer damaged but in a scene that begins so. */
async function expectAccounts(scene: Scene): Promise<void> {
  const { problems } = await store.check();
  const known = scene === SCENES.heal ? problems.filter(({ code }) => code === 'CATALOG_CORRUPT') : [];
  assert.deepEqual(
    problems.filter((problem) => !known.includes(problem)),
    [],
  );
  await store.collect();
  const { rows, total } = await store.engine.diskUsage();
  assert.deepEqual(
    rows.filter(({ kind }) => kind === 'staging' || kind === 'other' || kind === 'trash'),
    [],
  );
  if (known.length === 0) assert.equal(total, await store.allocated());
}

async function expectNothingWrong(): Promise<void> {
  assert.deepEqual((await store.check()).problems, []);
}

async function again(scene: Scene): Promise<void> {
  try {
    await scene.run(stage);
  } catch (thrown) {
    if (!(thrown instanceof LayerdError) || !scene.already.includes(thrown.code)) throw thrown;
  }
}

async function play(scene: Scene): Promise<void> {
  await scene.prepare(stage);
  rmSync(answers, { force: true });
  const armed = join(control, 'armed');
  writeFileSync(armed, '');
  try {
    await scene.run(stage);
    stage.ack('done');
  } catch (thrown) {
    expectClear(thrown);
  }
  if (plan.deed === 'record' && plan.scene !== 'stop') await store.stop();
  rmSync(armed);
  // As a power cut without loss: nothing is tidied.
  process.kill(process.pid, 'SIGKILL');
}

/** An injected error comes out as one of ours that says what happened. */
function expectClear(thrown: unknown): void {
  const injected = plan.deed === 'EIO' ? 'IO_ERROR' : 'NO_SPACE';
  if (thrown instanceof LayerdError && thrown.code === injected) return;
  throw thrown;
}
