/**
 * Whether cost grows with the store: the same steps, in turns, on an empty store and on one of thousands of layers, as many
 * containers and five hundred times as many entries, all made through the public doors and all mountable. Needs root.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { get, type IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startDaemon, type PrivateDaemon } from '../examples/private-daemon.js';
import type { Digest } from '../src/core/digest.js';
import { archiveOf, ENTRIES_PER_LAYER, imageOf, shapeOf, witnesses, type FlatImage } from './flat-images.js';
import { concurrently, Figures, median, peakMb, residentMb, resetPeak, timed, type Figure } from './harness.js';
import { unmountBelow } from './imports.js';
import { SnapshotsClient } from './snapshots-client.js';

/** How often it is measured; `settleMs`: threads that a load needed end when they were idle for so long. */
interface FlatScale {
  samples: number;
  commits: number;
  collections: number;
  starts: number;
  settleMs: number;
  /** Start with nothing in the page cache, of the whole machine. */
  cold: boolean;
}

const FULL: FlatScale = { samples: 200, commits: 40, collections: 5, starts: 5, settleMs: 12_000, cold: true };
const SMOKE: FlatScale = { samples: 3, commits: 2, collections: 1, starts: 1, settleMs: 0, cold: false };

const GARBAGE = 100;
const CLIENTS = 8;
/** Loads that run at a time while a store is filled. */
const LOADS = 2;
/** Of so many images, containers are made by containerd's door; of the others by HTTP. */
const BY_CONTAINERD = 10;
const SNAPSHOTTER = 'bench';

/** A daemon, what it runs on, and an image of which containers are made. */
interface Store {
  name: 'an empty store' | 'a full store';
  home: string;
  daemon: PrivateDaemon;
  image: string;
  /** The committed snapshot of the image, at containerd's door. */
  top: string;
}

export async function flatness(driver: string, layers: number, smoke: boolean): Promise<Figure[]> {
  const figures = new Figures();
  const by = `layerd ${driver}`;
  const home = mkdtempSync(join(tmpdir(), 'vs-'));
  const open: PrivateDaemon[] = [];
  const start = async (name: string): Promise<PrivateDaemon> => {
    const directory = join(home, name);
    mkdirSync(directory, { recursive: true });
    const daemon = await startDaemon(directory, ['--driver', driver, '--log-level', 'warn', '--gc-interval', '0']);
    open.push(daemon);
    return daemon;
  };
  try {
    const bench = new Flatness(figures, by, start, smoke ? SMOKE : FULL);
    const empty = await bench.open('an empty store', join(home, 'e'));
    const full = await bench.open('a full store', join(home, 'f'));
    await bench.fill(full, layers);
    await bench.mountAll(full);
    await bench.restart(full);
    await bench.steps([empty, full]);
    await bench.collections([empty, full]);
    await bench.lists(full);
    await bench.whole(full);
    await bench.starts(full);
  } finally {
    for (const daemon of open) await daemon.stop();
    await unmountBelow(home);
    rmSync(home, { recursive: true, force: true });
  }
  return figures.all();
}

class Flatness {
  private readonly figures: Figures;
  private readonly by: string;
  private readonly start: (name: string) => Promise<PrivateDaemon>;
  private readonly scale: FlatScale;
  private readonly images: FlatImage[] = [];
  private readonly chains = new Map<string, Digest[]>();
  private containers = 0;
  private garbage = 0;

  constructor(figures: Figures, by: string, start: (name: string) => Promise<PrivateDaemon>, scale: FlatScale) {
    this.figures = figures;
    this.scale = scale;
    this.by = by;
    this.start = start;
  }

  private add(scenario: string, store: Store, unit: Figure['unit'], value: number): void {
    this.figures.add(scenario, this.by, store.name, unit, value);
  }

  /** A daemon on an empty root, with one image. */
  async open(name: Store['name'], home: string): Promise<Store> {
    const daemon = await this.start(home.slice(-1));
    const image = imageOf('first', 0, 0);
    const { images } = await daemon.client.load(archiveOf(image, this.chains));
    const top = await this.adopt(daemon, this.chains.get(image.ref) ?? []);
    return { name, home, daemon, image: images[0]?.imageId ?? '', top };
  }

  /** Images by two loads at a time; containers as many as layers, by HTTP and by containerd's door. */
  async fill(store: Store, layers: number): Promise<void> {
    const { client, pid } = store.daemon;
    const shape = shapeOf(layers);
    const ids: string[] = [];
    const loading = await concurrently(LOADS, shape.images, async (index) => {
      if (index % 10 === 0) process.stderr.write(`\rimage ${index} of ${shape.images} …`);
      const image = imageOf('flat', index, index % shape.bases);
      this.images[index] = image;
      const { images } = await client.load(archiveOf(image, this.chains));
      ids[index] = images[0]?.imageId ?? '';
    });
    process.stderr.write(`\n${shape.layers} containers …\n`);
    this.add('peak memory of filling', store, 'MB', peakMb(pid));
    this.add('layers stored', store, 'per second', (shape.layers * 1000) / loading.all);
    const tops = new Map<number, string>();
    for (let index = 0; index < shape.images; index += BY_CONTAINERD) {
      tops.set(index, await this.adopt(store.daemon, this.chains.get(this.images[index]?.ref ?? '') ?? []));
    }
    const door = new SnapshotsClient(containerdOf(store.daemon), SNAPSHOTTER);
    const making = await concurrently(CLIENTS, shape.layers, async (index) => {
      const top = tops.get(index % shape.images);
      if (top === undefined) await client.createContainer(ids[index % ids.length] ?? '');
      else await door.prepare(`filled-${index}`, top);
    });
    door.close();
    this.containers = shape.layers;
    this.add('containers made', store, 'per second', (shape.layers * 1000) / making.all);
    this.add('peak memory of making containers', store, 'MB', peakMb(pid));
    const { counts } = await client.info();
    this.add('layers', store, 'of them', counts.layers);
    this.add('entries', store, 'of them', counts.layers * ENTRIES_PER_LAYER);
  }

  /** Mounts a container of every image, so that every layer is mounted once, and reads a file of each layer through it. */
  async mountAll({ daemon, ...store }: Store): Promise<void> {
    const { client } = daemon;
    const names = this.images.map(({ ref }) => ref);
    process.stderr.write(`mounting a container of each of ${names.length} images …\n`);
    resetPeak(daemon.pid);
    const { each } = await concurrently(CLIENTS, names.length, async (index) => {
      const { id } = await client.createContainer(names[index] ?? '');
      const { path } = await client.mount(id);
      for (const [file, content] of witnesses(this.images[index] ?? { ref: '', labels: [] })) {
        if (readFileSync(join(path, file), 'utf8') !== content) throw new Error(`${path}/${file} is not ${content}`);
      }
      await client.unmount(id);
      await client.removeContainer(id);
    });
    this.add('container made, mounted, read, removed', { daemon, ...store }, 'ms', median(each));
    this.add('peak memory of mounting', { daemon, ...store }, 'MB', peakMb(daemon.pid));
    this.add('containers', { daemon, ...store }, 'of them', this.containers);
  }

  /** A daemon that starts where every layer is mounted. */
  async restart(store: Store): Promise<void> {
    await store.daemon.stop();
    store.daemon = await this.start('f');
    this.add('start', store, 'ms', store.daemon.startedMs);
    await sleep(this.scale.settleMs);
    this.add('resident, idle', store, 'MB', residentMb(store.daemon.pid));
  }

  /** The steps of a container by both doors, one store after the other, so that the machine's moods meet both. */
  async steps(stores: readonly Store[]): Promise<void> {
    process.stderr.write('steps …\n');
    for (const { daemon } of stores) resetPeak(daemon.pid);
    const doors = new Map(
      stores.map(({ name, daemon }) => [name, new SnapshotsClient(containerdOf(daemon), SNAPSHOTTER)]),
    );
    const step = async (scenario: string, store: Store, work: () => Promise<unknown>): Promise<void> =>
      this.add(scenario, store, 'ms', await timed(work));
    for (let round = 0; round < this.scale.samples; round += 1) {
      for (const store of turns(stores, round)) {
        const { client } = store.daemon;
        let id = '';
        await step('prepare', store, async () => ({ id } = await client.createContainer(store.image)));
        await step('stat', store, () => client.container(id));
        await step('remove', store, () => client.removeContainer(id));
        const door = doors.get(store.name);
        const key = `step-${round}`;
        await step('prepare by gRPC', store, async () => door?.prepare(key, store.top));
        await step('stat by gRPC', store, async () => door?.stat(key));
        await step('remove by gRPC', store, async () => door?.remove(key));
      }
    }
    for (let round = 0; round < this.scale.commits; round += 1) {
      for (const store of turns(stores, round)) {
        const { client } = store.daemon;
        const { id } = await client.createContainer(store.image);
        const { path } = await client.mount(id);
        writeFileSync(join(path, 'written'), `${store.name} ${round}`);
        await step('commit', store, () => client.commit(id, { ref: `bench/committed:${round}` }));
        await client.unmount(id);
        await client.removeContainer(id);
      }
    }
    for (const door of doors.values()) door.close();
    for (const store of stores) this.add('peak memory of steps', store, 'MB', peakMb(store.daemon.pid));
  }

  /** Collections with nothing to collect, of a hundred containers, and of an image's layers. */
  async collections(stores: readonly Store[]): Promise<void> {
    process.stderr.write('collections …\n');
    const collect = async (scenario: string, store: Store): Promise<void> =>
      this.add(scenario, store, 'ms', await timed(() => store.daemon.client.gc({ grace: 0, wait: true })));
    for (const { daemon } of stores) await daemon.client.gc({ grace: 0, wait: true });
    for (let round = 0; round < this.scale.samples; round += 1) {
      for (const store of turns(stores, round)) await collect('gc of nothing', store);
    }
    for (let round = 0; round < this.scale.collections; round += 1) {
      for (const store of turns(stores, round)) {
        const { client } = store.daemon;
        await concurrently(CLIENTS, GARBAGE, async () => {
          await client.removeContainer((await client.createContainer(store.image)).id);
        });
        await collect('gc of 100 containers', store);
        this.garbage += 1;
        const image = imageOf(`garbage-${this.garbage}`, round, round);
        const { images } = await client.load(archiveOf(image));
        await client.removeImage(images[0]?.imageId ?? '', { force: true });
        await collect('gc of 12 layers', store);
      }
    }
  }

  /** Lists: when their first bytes come and when their last, and what else is answered meanwhile. */
  async lists(store: Store): Promise<void> {
    const { client, socket, pid } = store.daemon;
    const paths = ['containers', 'layers', 'images', 'layer-tree', 'df'];
    for (const path of paths) {
      process.stderr.write(`list of ${path} …\n`);
      for (let round = 0; round < 3; round += 1) {
        resetPeak(pid);
        const before = residentMb(pid);
        const listed = new AbortController();
        const beside: number[] = [];
        const watching = (async () => {
          while (!listed.signal.aborted) beside.push(await timed(() => client.health()));
        })();
        const { first, last, bytes } = await listing(socket, `/v1/${path}`);
        listed.abort();
        await watching;
        this.add(`list of ${path}: first byte`, store, 'ms', first);
        this.add(`list of ${path}: all`, store, 'ms', last);
        this.add(`list of ${path}: longest answer beside it`, store, 'ms', Math.max(...beside));
        this.add(`list of ${path}: size`, store, 'MB', bytes / 1e6);
        this.add(`list of ${path}: memory more`, store, 'MB', peakMb(pid) - before);
      }
    }
    const door = new SnapshotsClient(containerdOf(store.daemon), SNAPSHOTTER);
    this.add('list by gRPC: all', store, 'ms', await timed(() => door.list()));
    door.close();
  }

  /** What looks at everything. */
  async whole(store: Store): Promise<void> {
    const { client, pid } = store.daemon;
    process.stderr.write('check --quick …\n');
    resetPeak(pid);
    let ok = true;
    this.add(
      'check --quick',
      store,
      's',
      (await timed(async () => ({ ok } = await client.check({ quick: true })))) / 1000,
    );
    if (!ok) throw new Error('check found something wrong with the store');
    this.add('peak memory of check --quick', store, 'MB', peakMb(pid));
    await sleep(this.scale.settleMs);
    this.add('resident, idle after use', store, 'MB', residentMb(pid));
  }

  async starts(store: Store): Promise<void> {
    process.stderr.write('starts …\n');
    for (let round = 0; round < this.scale.starts; round += 1) {
      await store.daemon.stop();
      store.daemon = await this.start('f');
      this.add('start', store, 'ms', store.daemon.startedMs);
    }
    if (!this.scale.cold) return;
    await store.daemon.stop();
    writeFileSync('/proc/sys/vm/drop_caches', '3');
    store.daemon = await this.start('f');
    this.add('start, nothing in the page cache', store, 'ms', store.daemon.startedMs);
  }

  /** Makes a chain that is here known at containerd's door; returns the key of its topmost snapshot. */
  private async adopt(daemon: PrivateDaemon, chain: readonly Digest[]): Promise<string> {
    const door = new SnapshotsClient(containerdOf(daemon), SNAPSHOTTER);
    try {
      let parent = '';
      for (const chainId of chain) parent = await door.present(chainId, parent);
      return parent;
    } finally {
      door.close();
    }
  }
}

function containerdOf({ socket }: PrivateDaemon): string {
  return socket.replace('layerd.sock', 'containerd.sock');
}

function turns(stores: readonly Store[], round: number): readonly Store[] {
  return round % 2 === 0 ? stores : stores.toReversed();
}

async function listing(socketPath: string, path: string): Promise<{ first: number; last: number; bytes: number }> {
  const began = performance.now();
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    get({ socketPath, path }, resolve).once('error', reject);
  });
  let first = 0;
  let bytes = 0;
  for await (const chunk of response) {
    if (bytes === 0) first = performance.now() - began;
    bytes += (chunk as Buffer).length;
  }
  if (response.statusCode !== 200) throw new Error(`${path} was answered with ${response.statusCode}`);
  return { first, last: performance.now() - began, bytes };
}
