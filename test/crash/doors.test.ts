/**
 * The daemon is killed (SIGKILL) again and again while clients use all of its doors at once; moments and deeds follow a
 * seed (LAYERD_SEED). A plain model says what was answered: after each start all of that must be there, nothing that was
 * removed may be, and `check` must find nothing.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { status, type ServiceError } from '@grpc/grpc-js';
import { expect, it } from 'vitest';
import { bytesOf } from '../../src/core/bytes.js';
import { sha256 } from '../../src/core/digest.js';
import { isErrno, LayerdError } from '../../src/core/errors.js';
import type { LayerdClient } from '../../src/client/index.js';
import { makeHome, removeHome, TestDaemon } from '../cli/daemon.js';
import { GraphDriverClient } from '../clients/graph-driver-client.js';
import { SnapshotsClient } from '../clients/snapshots-client.js';
import { allocatedBytes } from '../e2e/store.js';
import { entrySpec, layerTar } from '../model/spec.js';
import { describeWith, needsRoot } from '../support.js';
import { REF, writeCrashImage } from './image.js';
import { FULL, Random, SEED } from './random.js';

const KILLS = FULL ? 200 : 5;
/** Of the native API; one of containerd's and one of Docker's door come beside them. */
const CLIENTS = 3;
const LONGEST_MS = 1500;

/** What is known of a name: it must be there, it must not be there, or its last call was not answered. */
type Known = 'there' | 'gone' | 'open';

class Model {
  readonly containers = new Map<string, Known>();
  readonly refs = new Map<string, Known>();
  readonly snapshots = new Map<string, Known>();
  readonly docker = new Map<string, Known>();

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

  async expect(daemon: TestDaemon): Promise<void> {
    const { client } = daemon;
    const snapshots = new SnapshotsClient(containerdSocket(daemon));
    const docker = new GraphDriverClient(dockerSocket(daemon));
    const ids: string[] = [];
    for (const id of this.docker.keys()) if ((await docker.verb('Exists', { ID: id }))['Exists'] === true) ids.push(id);
    for (const [known, found] of [
      [this.containers, (await client.containers()).map(({ name }) => name)],
      [this.refs, (await client.images()).flatMap((image) => image.refs)],
      [this.snapshots, await snapshots.list()],
      [this.docker, ids],
    ] as const) {
      for (const [name, state] of known) {
        if (state !== 'open') expect({ name, state }).toEqual({ name, state: found.includes(name) ? 'there' : 'gone' });
        else known.set(name, found.includes(name) ? 'there' : 'gone');
      }
    }
    snapshots.close();
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

const containerdSocket = ({ home }: TestDaemon): string => join(home, 'run', 'containerd.sock');
const dockerSocket = ({ home }: TestDaemon): string => join(home, 'run', 'docker.sock');

/** One snapshot of containerd's, made or removed; some are committed on the way. */
async function useContainerd(client: SnapshotsClient, model: Model, random: Random): Promise<void> {
  const { snapshots } = model;
  const gone = [status.UNAVAILABLE, status.CANCELLED];
  try {
    for (;;) {
      const key = `s${random.below(6)}`;
      if (snapshots.get(key) === 'there') await model.during(snapshots, key, 'gone', () => client.remove(key));
      else if (random.below(3) > 0) await model.during(snapshots, key, 'there', () => client.prepare(key));
      else {
        const active = `${key}-active`;
        if (snapshots.get(active) !== 'there')
          await model.during(snapshots, active, 'there', () => client.prepare(active));
        snapshots.set(active, 'open');
        await model.during(snapshots, key, 'there', () => client.commit(key, active));
        snapshots.set(active, 'gone');
      }
    }
  } catch (thrown) {
    if (!gone.includes((thrown as ServiceError).code)) throw thrown;
  } finally {
    client.close();
  }
}

/** One of Docker's: a layer with its bytes, or a container, made or removed. */
async function useDocker(client: GraphDriverClient, model: Model, random: Random): Promise<void> {
  const { docker } = model;
  const verb = async (answer: Promise<Record<string, unknown>>): Promise<void> => {
    expect(await answer).not.toHaveProperty('Err');
  };
  try {
    for (;;) {
      const id = sha256(`d${random.below(6)}`).slice('sha256:'.length);
      const tar = layerTar([entrySpec(bytesOf('file'), { content: Buffer.from(id.repeat(1 + random.below(500))) })]);
      if (docker.get(id) === 'there') {
        await model.during(docker, id, 'gone', () => verb(client.verb('Remove', { ID: id })));
      } else if (random.below(2) > 0) {
        await model.during(docker, id, 'there', () => verb(client.verb('CreateReadWrite', { ID: id, Parent: '' })));
        await verb(client.verb('Get', { ID: id }));
        await verb(client.verb('Put', { ID: id }));
      } else {
        await model.during(docker, id, 'there', async () => {
          await verb(client.verb('Create', { ID: id, Parent: '' }));
          await verb(client.apply(id, '', tar));
        });
      }
    }
  } catch (thrown) {
    if (!isErrno(thrown, 'ECONNRESET', 'EPIPE', 'ENOENT', 'ECONNREFUSED')) throw thrown;
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
      const snapshots = new SnapshotsClient(containerdSocket(daemon));
      users.push(useContainerd(snapshots, model, new Random(`${SEED} ${kill} containerd`)));
      users.push(useDocker(new GraphDriverClient(dockerSocket(daemon)), model, new Random(`${SEED} ${kill} docker`)));
      await sleep(random.below(LONGEST_MS));
      daemon.signal('SIGKILL');
      await Promise.all(users);
      daemon.client.close();
      daemon = await TestDaemon.start(home);
      await model.expect(daemon);
      expect((await daemon.client.check()).problems).toEqual([]);
    }
    for (const { id } of await daemon.client.containers()) await daemon.client.removeContainer(id, { force: true });
    for (const { id } of await daemon.client.images()) await daemon.client.removeImage(id, { force: true });
    const snapshots = new SnapshotsClient(containerdSocket(daemon));
    for (const key of await snapshots.list()) await snapshots.remove(key);
    snapshots.close();
    const docker = new GraphDriverClient(dockerSocket(daemon));
    for (const id of model.docker.keys()) expect(await docker.verb('Remove', { ID: id })).toEqual({});
    // What containers were made ahead of is given up by a collection that finds it unused since the last.
    for (let pass = 0; pass < 2; pass += 1) await daemon.client.gc({ grace: 0, wait: true });
    expect(await daemon.client.layers()).toEqual([]);
    const { total } = await daemon.client.diskUsage();
    expect(total).toBe(await allocatedBytes(join(home, 'root')));
  } finally {
    await daemon.stop();
    removeHome(home);
    rmSync(home, { recursive: true, force: true });
  }
}
