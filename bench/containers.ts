/** A container's layer from its making to its end, by layerd, by containerd, and by bare system calls, in turns. */
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { startDaemon } from '../examples/private-daemon.js';
import type { LayerdClient } from '../src/client/index.js';
import { chainIds, parseDigest } from '../src/core/digest.js';
import { lastErrno, libc } from '../src/linux/libc.js';
import type { BareWork } from './bare-cycle.js';
import { fixture, type Fixture } from './fixtures/fixtures.js';
import type { FixtureName } from './fixtures/recipes.js';
import { run } from './fixtures/shell.js';
import { concurrently, Figures, missingPrograms, peakMb, percentile, timed, type Figure } from './harness.js';
import { unmountBelow } from './imports.js';
import { archive, withContainerd } from './peers.js';
import type { Scale } from './scenarios.js';
import { SnapshotsClient, type SnapshotMount } from './snapshots-client.js';

/** Cycles are those for each number of clients, in each run. */
type ContainerScale = Pick<Scale, 'runs' | 'cycles' | 'clients'>;

/** Who makes and removes containers. */
interface Runtime {
  name: string;
  prepare(key: string): Promise<void>;
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
      await withPeer(home, image, async (peer) => {
        for (const clients of scale.clients) {
          for (let round = 0; round < scale.runs; round += 1) {
            process.stderr.write(`containers, ${clients} client(s) …\n`);
            for (const runtime of peer === null ? [few] : [few, peer]) {
              await measureRuntime(runtime, image.name, clients, scale, figures);
            }
            if (deep.name !== image.name) await measureRuntime(many, deep.name, clients, scale, figures);
            await bareCycles(join(home, mkdirIn(home, 'b')), image.name, clients, scale, figures);
          }
        }
      });
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
  const steps: Record<'prepare' | 'mount' | 'unmount' | 'remove', number[]> = {
    prepare: [],
    mount: [],
    unmount: [],
    remove: [],
  };
  const pairs = await concurrently(clients, cycles, async (index) => {
    const key = `p${clients}-${index}-${performance.now()}`;
    steps.prepare.push(await timed(() => runtime.prepare(key)));
    await runtime.remove(key);
  });
  const rate = (all: number): number => cycles / (all / 1000);
  figures.add(`prepare and remove, ${clients} client(s)`, runtime.name, image, 'per second', rate(pairs.all));
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
    mount: async (key) => (await client.mount(key)).path,
    unmount: async (key) => void (await client.unmount(key)),
    remove: async (key) => void (await client.removeContainer(key)),
  };
}

/** containerd where it is installed; it tells its clients what to mount. */
async function withPeer(home: string, image: Fixture, work: (peer: Runtime | null) => Promise<void>): Promise<void> {
  if ((await missingPrograms(['containerd', 'ctr'])).length > 0) return work(null);
  return withContainerd(join(home, mkdirIn(home, 'c')), async (socket) => {
    await run('ctr', ['--address', socket, 'images', 'import', archive(image, 'gzip')]);
    const client = new SnapshotsClient(socket, 'overlayfs');
    const mounts = new Map<string, SnapshotMount[]>();
    const target = (key: string): string => join(home, 'c', 'm', key);
    try {
      await work({
        name: 'containerd',
        prepare: async (key) => void mounts.set(key, await client.prepare(key, topOf(image))),
        mount: async (key) => {
          const path = target(key);
          mkdirSync(path, { recursive: true });
          for (const mount of mounts.get(key) ?? []) await mountElsewhere(mount, path);
          return path;
        },
        unmount: async (key) => {
          await unmountElsewhere(target(key));
        },
        remove: async (key) => {
          mounts.delete(key);
          await client.remove(key);
          rmSync(target(key), { recursive: true, force: true });
        },
      });
    } finally {
      client.close();
    }
  });
}

/** The chain ID of the image's topmost layer, by which containerd's overlay snapshotter names what it unpacked. */
function topOf({ layers }: Fixture): string {
  return chainIds(layers.map(({ diffId }) => parseDigest(diffId))).at(-1) ?? '';
}

/** mount(2) on a thread of libuv's pool. */
function mountElsewhere({ type, source, options }: SnapshotMount, target: string): Promise<void> {
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

/** As many threads as there are clients, each with its share of the cycles. */
async function bareCycles(
  home: string,
  image: string,
  clients: number,
  { cycles }: ContainerScale,
  figures: Figures,
): Promise<void> {
  const lowers = Array.from({ length: 6 }, (_, index) => join(home, `lower${index}`));
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
