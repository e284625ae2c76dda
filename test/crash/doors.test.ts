/**
 * The daemon is killed (SIGKILL) again and again while several clients use its door at once; moments and deeds follow a
 * seed (LAYERD_SEED). A plain model says what was answered: after each start all of that must be there, nothing that was
 * removed may be, and `check` must find nothing.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { LayerdError } from '../../src/core/errors.js';
import type { LayerdClient } from '../../src/client/index.js';
import { makeHome, removeHome, TestDaemon } from '../cli/daemon.js';
import { allocatedBytes } from '../e2e/store.js';
import { describeWith, needsRoot } from '../support.js';
import { REF, writeCrashImage } from './image.js';
import { FULL, Random, SEED } from './random.js';

const KILLS = FULL ? 200 : 5;
const CLIENTS = 4;
const LONGEST_MS = 1500;

/** What is known of a name: it must be there, it must not be there, or its last call was not answered. */
type Known = 'there' | 'gone' | 'open';

class Model {
  readonly containers = new Map<string, Known>();
  readonly refs = new Map<string, Known>();

  /** Does something whose answer decides what is known of `name`. */
  async during(
    names: Map<string, Known>,
    name: string,
    after: 'there' | 'gone',
    work: () => Promise<unknown>,
  ): Promise<void> {
    names.set(name, 'open');
    await work();
    names.set(name, after);
  }

  expect(containers: readonly string[], refs: readonly string[]): void {
    for (const [known, found] of [
      [this.containers, containers],
      [this.refs, refs],
    ] as const) {
      for (const [name, state] of known) {
        if (state !== 'open') expect({ name, state }).toEqual({ name, state: found.includes(name) ? 'there' : 'gone' });
        else known.set(name, found.includes(name) ? 'there' : 'gone');
      }
    }
  }
}

/** One client: does one thing after the other until the daemon is gone. */
async function use(client: LayerdClient, model: Model, random: Random, archive: string, me: string): Promise<void> {
  try {
    for (;;) await deed(client, model, random, archive, me);
  } catch (thrown) {
    // What the killed daemon did not answer any more.
    const gone = ['DAEMON_UNREACHABLE', 'STREAM_BROKEN', 'SHUTTING_DOWN'];
    if (!(thrown instanceof LayerdError) || !gone.includes(thrown.code)) throw thrown;
  }
}

async function deed(client: LayerdClient, model: Model, random: Random, archive: string, me: string): Promise<void> {
  const name = `${me}-${random.below(6)}`;
  const ref = `localhost/${name}:1`;
  const there = model.containers.get(name) === 'there';
  switch (random.below(6)) {
    case 0:
      await client.load(archive);
      break;
    case 1:
      if (model.refs.get(ref) === 'there') await model.during(model.refs, ref, 'gone', () => client.removeImage(ref));
      else await model.during(model.refs, ref, 'there', () => client.tag(REF, ref));
      break;
    case 2:
      if (there) {
        await client.mount(name);
        await client.unmount(name);
      }
      break;
    case 3:
      if (there) await model.during(model.refs, ref, 'there', () => client.commit(name, { ref }));
      break;
    case 4:
      await client.gc({ grace: 600_000 });
      break;
    default:
      if (there)
        await model.during(model.containers, name, 'gone', () => client.removeContainer(name, { force: true }));
      else await model.during(model.containers, name, 'there', () => client.createContainer(REF, { name }));
  }
}

describeWith(`kill -9 under load (LAYERD_SEED=${SEED})`, [needsRoot()], () => {
  it('loses nothing that was answered, and leaves nothing', killAgainAndAgain, 4 * 3_600_000);
});

async function killAgainAndAgain(): Promise<void> {
  const home = makeHome();
  const random = new Random(SEED);
  const archive = join(home, 'image.tar');
  writeCrashImage(archive);
  const model = new Model();
  model.refs.set(REF, 'there');
  let daemon = await TestDaemon.start(home);
  try {
    await daemon.client.load(archive);
    for (let kill = 0; kill < KILLS; kill += 1) {
      const users = Array.from({ length: CLIENTS }, (_, index) =>
        use(daemon.client, model, new Random(`${SEED} ${kill} ${index}`), archive, `c${index}`),
      );
      await sleep(random.below(LONGEST_MS));
      daemon.signal('SIGKILL');
      await Promise.all(users);
      daemon.client.close();
      daemon = await TestDaemon.start(home);
      const containers = (await daemon.client.containers()).map(({ name }) => name);
      const refs = (await daemon.client.images()).flatMap((image) => image.refs);
      model.expect(containers, refs);
      expect((await daemon.client.check()).problems).toEqual([]);
    }
    for (const { id } of await daemon.client.containers()) await daemon.client.removeContainer(id, { force: true });
    for (const { id } of await daemon.client.images()) await daemon.client.removeImage(id, { force: true });
    await daemon.client.gc({ grace: 0, wait: true });
    expect(await daemon.client.layers()).toEqual([]);
    const { total } = await daemon.client.diskUsage();
    expect(total).toBe(await allocatedBytes(join(home, 'root')));
  } finally {
    await daemon.stop();
    removeHome(home);
    rmSync(home, { recursive: true, force: true });
  }
}
