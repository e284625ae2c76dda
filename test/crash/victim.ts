/**
 * A process to be killed: it prepares a store, says how things stand, runs one operation, and kills itself in the middle
 * of it. Called with one argument, the JSON of a Plan.
 */
import { writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { Engine } from '../../src/engine.js';
import { ignore, never, silent } from '../e2e/store.js';
import { COMMITTED, CONTAINER, type Operation, type Plan } from './victim-plan.js';

interface Scene {
  prepare: (engine: Engine) => Promise<void>;
  run: (engine: Engine) => Promise<void>;
}

const plan = JSON.parse(process.argv[2] ?? '') as Plan;

const load = async (engine: Engine): Promise<void> => {
  await engine.load({ path: plan.archive }, {}, ignore, never);
};

const SCENES: Record<Operation, Scene> = {
  load: { prepare: () => Promise.resolve(), run: load },
  commit: {
    prepare: async (engine) => {
      await load(engine);
      await engine.createContainer(plan.ref, { name: CONTAINER });
      const { path } = await engine.mount(CONTAINER);
      for (let index = 0; index < 100; index += 1)
        writeFileSync(join(path, `tmp/file-${index}`), `${index}\n`.repeat(999));
    },
    run: async (engine) => {
      await engine.commit(CONTAINER, { ref: COMMITTED }, ignore, never);
    },
  },
  gc: {
    prepare: async (engine) => {
      await load(engine);
      await engine.removeImage(plan.ref, {});
    },
    run: async (engine) => {
      await engine.gc({ grace: 0, wait: true });
    },
  },
  containers: {
    prepare: load,
    run: async (engine) => {
      const names = ['a', 'b', 'c', 'd'];
      await Promise.all(
        names.map(async (name) => {
          await engine.createContainer(plan.ref, { name });
          writeFileSync(join((await engine.mount(name)).path, 'tmp/file'), name);
          await engine.unmount(name, {});
          await engine.removeContainer(name, {});
        }),
      );
    },
  },
};

const engine = await Engine.open(plan.config, silent);
const { prepare, run } = SCENES[plan.operation];
await prepare(engine);
const started = performance.now();
if (plan.delayMs !== null) setTimeout(() => process.kill(process.pid, 'SIGKILL'), plan.delayMs);
await run(engine);
// What has been answered must be there afterwards: so it is said that it was.
writeSync(1, JSON.stringify({ tookMs: performance.now() - started }));
if (plan.delayMs === null) await engine.close();
else process.kill(process.pid, 'SIGKILL');
