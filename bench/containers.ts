/** A container's layer from its making to its end, by layerd, by containerd, and by bare system calls, in turns. */
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { startDaemon, type PrivateDaemon } from '../examples/private-daemon.js';
import type { LayerdClient } from '../src/client/index.js';
import { chainIds, parseDigest } from '../src/core/digest.js';
import type { Mount } from '../src/doors/containerd/messages.js';
import { lastErrno, libc } from '../src/linux/libc.js';
import type { BareWork } from './bare-cycle.js';
import { fixture, type Fixture } from './fixtures/fixtures.js';
import type { FixtureName } from './fixtures/recipes.js';
import { run } from './fixtures/shell.js';
import { concurrently, Figures, missingPrograms, peakMb, percentile, timed, type Figure } from './harness.js';
import { unmountBelow } from './imports.js';
import { archive, withContainerd } from './peers.js';
import type { Scale } from './scenarios.js';
import { SnapshotsClient } from './snapshots-client.js';

/** Cycles are those for each number of clients, in each run. */
type ContainerScale = Pick<Scale, 'runs' | 'cycles' | 'clients'>;

/** Who makes and removes containers. */
interface Runtime {
  name: string;
  prepare(key: string): Promise<void>;
  /** A call that changes nothing and waits for no disk. */
  stat(key: string): Promise<void>;
  mount(key: string): Promise<string>;
  unmount(key: string): Promise<void>;
  remove(key: string): Promise<void>;
}

/** Prepare and remove alone, and whole cycles; on the image and, by layerd alone, on one of many layers. Needs root. */
export async function compareContainers(
  driver: string,
  names: { image: FixtureName; deep: FixtureName },
  scale: ContainerScale,
): Promise<Figure[]> {
  const [image, deep] = [await fixture(names.image), await fixture(names.deep)];
  const figures = new Figures();
  const home = mkdtempSync(join(tmpdir(), 'vs-'));
  try {
    const daemon = await startDaemon(join(home, mkdirIn(home, 'l')), ['--driver', driver, '--log-level', 'warn']);
    try {
      const few = await layerdRuntime(`layerd ${driver}`, daemon.client, image);
      const many = await layerdRuntime(`layerd ${driver}`, daemon.client, deep);
      const rounds = async (runtimes: Runtime[]): Promise<void> => {
        for (const clients of scale.clients) {
          for (let round = 0; round < scale.runs; round += 1) {
            process.stderr.write(`containers, ${clients} client(s) …\n`);
            for (const runtime of runtimes) await measureRuntime(runtime, image.name, clients, scale, figures);
            if (deep.name !== image.name) await measureRuntime(many, deep.name, clients, scale, figures);
            for (const { name, layers } of deep.name === image.name ? [image] : [image, deep]) {
              const subject = { name, depth: layers.length };
              await bareCycles(join(home, mkdirIn(home, 'b')), subject, clients, scale, figures);
            }
          }
        }
      };
      await withDoor(`layerd ${driver} (gRPC)`, daemon, home, image, (door) =>
        withPeer(home, image, (peer) => rounds(peer === null ? [few, door] : [few, door, peer])),
      );
      figures.add('peak memory of containers', `layerd ${driver}`, image.name, 'MB', peakMb(daemon.pid));
      for (const { id } of await daemon.client.containers()) await daemon.client.removeContainer(id, { force: true });
      for (const { id } of await daemon.client.images()) await daemon.client.removeImage(id, { force: true });
      await daemon.client.gc({ grace: 0, wait: true });
    } finally {
      await daemon.stop();
    }
  } finally {
    await unmountBelow(home);
    rmSync(home, { recursive: true, force: true });
  }
  return figures.all();
}

async function measureRuntime(
  runtime: Runtime,
  image: string,
  clients: number,
  { cycles }: ContainerScale,
  figures: Figures,
): Promise<void> {
  const steps: Record<'prepare' | 'stat' | 'mount' | 'unmount' | 'remove', number[]> = {
    prepare: [],
    stat: [],
    mount: [],
    unmount: [],
    remove: [],
  };
  const pairs = await concurrently(clients, cycles, async (index) => {
    const key = `p${clients}-${index}-${performance.now()}`;
    steps.prepare.push(await timed(() => runtime.prepare(key)));
    await runtime.remove(key);
  });
  const looked = `s${clients}-${performance.now()}`;
  await runtime.prepare(looked);
  await concurrently(clients, cycles, async () => void steps.stat.push(await timed(() => runtime.stat(looked))));
  await runtime.remove(looked);
  const rate = (all: number): number => cycles / (all / 1000);
  figures.add(`prepare and remove, ${clients} client(s)`, runtime.name, image, 'per second', rate(pairs.all));
  const before = process.cpuUsage();
  const whole = await concurrently(clients, cycles, async (index) => {
    const key = `c${clients}-${index}-${performance.now()}`;
    await runtime.prepare(key);
    let root = '';
    steps.mount.push(await timed(async () => (root = await runtime.mount(key))));
    writeFileSync(join(root, 'written'), 'x');
    steps.unmount.push(await timed(() => runtime.unmount(key)));
    steps.remove.push(await timed(() => runtime.remove(key)));
  });
  figures.add(`whole cycle, ${clients} client(s)`, runtime.name, image, 'per second', rate(whole.all));
  const { user, system } = process.cpuUsage(before);
  const spent = (user + system) / 1000 / cycles;
  figures.add(`processor time of the client in a cycle, ${clients} client(s)`, runtime.name, image, 'ms', spent);
  for (const [step, values] of Object.entries(steps)) {
    for (const [p, share] of [
      ['p50', 0.5],
      ['p99', 0.99],
    ] as const) {
      figures.add(`${step} ${p}, ${clients} client(s)`, runtime.name, image, 'ms', percentile(values, share));
    }
  }
}

async function layerdRuntime(name: string, client: LayerdClient, image: Fixture): Promise<Runtime> {
  const { images } = await client.load(archive(image, 'gzip'));
  const imageId = images[0]?.imageId ?? '';
  return {
    name,
    prepare: async (key) => void (await client.createContainer(imageId, { name: key })),
    stat: async (key) => void (await client.container(key)),
    mount: async (key) => (await client.mount(key)).path,
    unmount: async (key) => void (await client.unmount(key)),
    remove: async (key) => void (await client.removeContainer(key)),
  };
}

/** layerd as containerd has it: by gRPC, and mounted by its client. */
async function withDoor(
  name: string,
  { socket }: PrivateDaemon,
  home: string,
  image: Fixture,
  work: (door: Runtime) => Promise<void>,
): Promise<void> {
  const client = new SnapshotsClient(join(dirname(socket), 'containerd.sock'), 'layerd');
  try {
    const where = { parent: await presentChain(client, image), mountPoints: join(home, mkdirIn(home, 'd')) };
    await work(grpcRuntime(name, client, where));
  } finally {
    client.close();
  }
}

/** containerd where it is installed; it tells its clients what to mount. */
async function withPeer(home: string, image: Fixture, work: (peer: Runtime | null) => Promise<void>): Promise<void> {
  if ((await missingPrograms(['containerd', 'ctr'])).length > 0) return work(null);
  return withContainerd(join(home, mkdirIn(home, 'c')), async (socket) => {
    await run('ctr', ['--address', socket, 'images', 'import', archive(image, 'gzip')]);
    const client = new SnapshotsClient(socket, 'overlayfs');
    try {
      const where = { parent: chainsOf(image).at(-1) ?? '', mountPoints: join(home, mkdirIn(home, 'm')) };
      await work(grpcRuntime('containerd', client, where));
    } finally {
      client.close();
    }
  });
}

/** A snapshotter behind gRPC: it tells its clients what to mount. `parent`: the committed snapshot that containers lie on. */
function grpcRuntime(
  name: string,
  client: SnapshotsClient,
  { parent, mountPoints }: { parent: string; mountPoints: string },
): Runtime {
  const mounts = new Map<string, Mount[]>();
  return {
    name,
    prepare: async (key) => void mounts.set(key, await client.prepare(key, parent)),
    stat: (key) => client.stat(key),
    mount: async (key) => {
      const path = join(mountPoints, key);
      mkdirSync(path);
      for (const mount of mounts.get(key) ?? []) await mountElsewhere(mount, path);
      return path;
    },
    unmount: async (key) => {
      await unmountElsewhere(join(mountPoints, key));
      rmdirSync(join(mountPoints, key));
    },
    remove: async (key) => {
      mounts.delete(key);
      await client.remove(key);
    },
  };
}

/** Has layerd make committed snapshots of the layers that it has; returns the topmost. */
async function presentChain(client: SnapshotsClient, image: Fixture): Promise<string> {
  let parent = '';
  for (const chain of chainsOf(image)) parent = await client.present(chain, parent);
  return parent;
}

/** The chain IDs of the image's layers, by which containerd's overlay snapshotter names what it unpacked. */
function chainsOf({ layers }: Fixture): string[] {
  return chainIds(layers.map(({ diffId }) => parseDigest(diffId)));
}

/** mount(2) on a thread of libuv's pool. */
function mountElsewhere({ type, source, options }: Mount, target: string): Promise<void> {
  const [from, to, kind, data] = [source, target, type, options.join(',')].map((text) => Buffer.from(`${text}\0`));
  if (from === undefined || to === undefined || kind === undefined || data === undefined) return Promise.resolve();
  return new Promise((resolve, reject) => {
    libc().mount.async(from, to, kind, 0, data, (error, result) =>
      settle('mount', target, error, result, resolve, reject),
    );
  });
}

function unmountElsewhere(target: string): Promise<void> {
  const path = Buffer.from(`${target}\0`);
  return new Promise((resolve, reject) => {
    libc().umount2.async(path, 0, (error, result) => settle('umount', target, error, result, resolve, reject));
  });
}

function settle(
  what: string,
  target: string,
  error: Error | null,
  result: number,
  resolve: () => void,
  reject: (error: Error) => void,
): void {
  if (error !== null) reject(error);
  else if (result < 0) reject(new Error(`${what} of ${target} failed (errno ${lastErrno()})`));
  else resolve();
}

/** As many threads as there are clients, each with its share of the cycles; over as many lowers as an image has layers. */
async function bareCycles(
  home: string,
  { name: image, depth }: { name: string; depth: number },
  clients: number,
  { cycles }: ContainerScale,
  figures: Figures,
): Promise<void> {
  const lowers = Array.from({ length: depth }, (_, index) => join(home, `l${index}`));
  for (const lower of lowers) mkdirSync(lower);
  const threads = Array.from({ length: clients }, (_, index) => {
    const own = join(home, `client${index}`);
    mkdirSync(own);
    const workerData: BareWork = { home: own, lowers, cycles: Math.ceil(cycles / clients) };
    return new Worker(new URL('bare-cycle.js', import.meta.url), { workerData });
  });
  await Promise.all(threads.map((thread) => once(thread, 'message')));
  const ms = await timed(() =>
    Promise.all(
      threads.map((thread) => {
        thread.postMessage('start');
        return once(thread, 'message');
      }),
    ),
  );
  await Promise.all(threads.map((thread) => thread.terminate()));
  const done = Math.ceil(cycles / clients) * clients;
  figures.add(`whole cycle, ${clients} client(s)`, 'floor: system calls', image, 'per second', done / (ms / 1000));
  rmSync(home, { recursive: true });
}

/** A new directory below `home`; returns its name. */
function mkdirIn(home: string, name: string): string {
  mkdirSync(join(home, name));
  return name;
}
