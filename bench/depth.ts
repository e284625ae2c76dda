/**
 * From which depth a stack is better served by one merged index: the same stacks through one lower for each layer and
 * through a single one. Real programs below, small layers of another image above them.
 */
import { createReadStream, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createGunzip } from 'node:zlib';
import type { LayerKeeper, StoredLayer } from '../drivers/driver.js';
import { MergedStacks } from '../drivers/erofs/merged.js';
import { createDrivers } from '../drivers/index.js';
import { ingest } from '../src/content/ingest.js';
import { bytesOf } from '../src/core/bytes.js';
import { DEFAULT_ENGINE_CONFIG } from '../src/core/engine-config.js';
import { Places } from '../src/core/places.js';
import { umount } from '../src/linux/mount.js';
import { overlayMountAt } from '../src/linux/overlay.js';
import { dropCaches, START_PROGRAMS, startIn } from './caches.js';
import { fixture, type Fixture } from './fixtures/fixtures.js';
import type { FixtureName } from './fixtures/recipes.js';
import { run } from './fixtures/shell.js';
import { Figures, median, type Figure } from './harness.js';
import { unmountBelow } from './imports.js';
import { blobs } from './peers.js';

/** Where stacks of several images are cut off. */
const DEPTHS = [6, 24, 96];
/** Paths that are looked up in each round. */
const LOOKUPS = 2000;
/** Containers of each round. */
const STARTS = 3;
const MOUNTS = 20;

/** What is asked of a container. */
interface Asked {
  paths: readonly string[];
  programs: readonly (typeof START_PROGRAMS)[number][];
}

interface Way {
  name: string;
  lowers: string[];
}

/** Each stack is that of the images one upon the other, cut off at several depths. Needs root, and what the erofs driver needs. */
export async function compareDepths(
  stacks: readonly (readonly FixtureName[])[],
  { runs }: { runs: number },
): Promise<Figure[]> {
  const figures = new Figures();
  for (const names of stacks) {
    const images = await Promise.all(names.map((name) => fixture(name)));
    const home = mkdtempSync(join(tmpdir(), 'layerd-depth-'));
    try {
      const bench = await DepthBench.open(home, images);
      const whole = bench.layers.length;
      for (const depth of new Set([...DEPTHS.filter((asked) => names.length > 1 && asked < whole), whole])) {
        const on = `${names.join(' + ')}, ${depth} layers`;
        process.stderr.write(`${on} …\n`);
        await bench.measure(depth, runs, (what, by, unit, value) => figures.add(what, by, on, unit, value));
      }
    } finally {
      await unmountBelow(home);
      rmSync(home, { recursive: true, force: true });
    }
  }
  return figures.all();
}

type Add = (what: string, by: string, unit: Figure['unit'], value: number) => void;

class DepthBench {
  readonly layers: StoredLayer[] = [];
  private readonly home: string;
  private readonly places: Places;
  private readonly keeper: LayerKeeper;
  private readonly merged: MergedStacks;
  private mounts = 0;

  private constructor(home: string) {
    this.home = home;
    this.places = new Places(join(home, 'root'), join(home, 'run'));
    const { layers, trees, layerMounts, snapshots, merged } = this.places;
    for (const path of [layers, trees, layerMounts, snapshots, merged]) mkdirSync(path, { recursive: true });
    const { driverOptions } = DEFAULT_ENGINE_CONFIG;
    this.keeper = createDrivers(this.places, driverOptions)('erofs').layers;
    this.merged = new MergedStacks(this.places, driverOptions.erofs);
  }

  /** Stores the layers of the images one upon the other. */
  static async open(home: string, images: readonly Fixture[]): Promise<DepthBench> {
    const bench = new DepthBench(home);
    for (const image of images) for (const blob of blobs(image)) await bench.store(blob);
    return bench;
  }

  async measure(depth: number, runs: number, add: Add): Promise<void> {
    const stack = this.layers.slice(0, depth);
    const before = process.cpuUsage();
    const file = join(this.places.tree(await this.merged.ensure(stack)), 'index');
    add('writing the index, processor time', MERGED, 'ms', cpuSince(before) / 1000);
    add('size of the index', MERGED, 'MB', statSync(file).size / 1e6);
    const ways: Way[] = [
      { name: APART, lowers: stack.map((layer) => this.keeper.lower(layer) ?? '').toReversed() },
      { name: MERGED, lowers: [this.merged.lower(stack)] },
    ];
    const shown = await this.shown(ways);
    const step = Math.max(1, Math.floor(shown.length / LOOKUPS));
    const asked: Asked = {
      paths: shown.filter((_, index) => index % step === 0),
      programs: START_PROGRAMS.filter(({ path }) => shown.includes(`./${path}`)),
    };
    for (let round = 0; round < runs; round += 1) {
      for (const way of round % 2 === 0 ? ways : ways.toReversed()) {
        await this.measureWay(way, asked, (what, unit, value) => add(what, way.name, unit, value));
      }
    }
  }

  private async measureWay(
    way: Way,
    { paths, programs }: Asked,
    add: (what: string, unit: Figure['unit'], value: number) => void,
  ): Promise<void> {
    const there = 'lookup of what is there';
    const absent = paths.map((path) => `${path}-not`);
    for (const [what, asked] of [
      [there, paths],
      ['lookup of what is not', absent],
    ] as const) {
      await dropCaches();
      await this.mounted(way, (root) => add(`${what}, cold`, 'µs', lookUp(root, asked).us));
      await this.mounted(way, (root) =>
        add(`${what}, another container, processor time`, 'µs', lookUp(root, asked).cpuUs),
      );
    }
    const mounting: number[] = [];
    for (let index = 0; index < MOUNTS; index += 1) {
      const before = process.cpuUsage();
      await this.mounted(way, () => mounting.push(cpuSince(before)));
    }
    add('mount, processor time', 'µs', median(mounting));
    for (const { name, args } of programs) {
      await dropCaches();
      await this.mounted(way, async (root) => add(`start of ${name}, cold`, 'ms', (await startIn(root, args)).ms));
      for (let index = 0; index < STARTS; index += 1) {
        await this.mounted(way, async (root) => {
          const { ms, cpuMs } = await startIn(root, args);
          add(`start of ${name}, another container`, 'ms', ms);
          add(`start of ${name}, another container, processor time`, 'ms', cpuMs);
        });
      }
    }
  }

  /** Runs `work` in a container of its own, fresh for each. */
  private async mounted(way: Way, work: (root: string) => unknown): Promise<void> {
    const directory = join(this.home, 'containers', String(this.mounts));
    this.mounts += 1;
    const [upper, workDir, root] = [join(directory, 'u'), join(directory, 'w'), join(directory, 'm')];
    for (const path of [upper, workDir, root]) mkdirSync(path, { recursive: true });
    overlayMountAt({ lowers: way.lowers, upper, work: workDir, options: { index: 'off' } }, root);
    try {
      await work(root);
    } finally {
      umount(bytesOf(root));
      rmSync(directory, { recursive: true });
    }
  }

  /** All paths, which both ways show. */
  private async shown([apart, merged]: readonly Way[]): Promise<string[]> {
    if (apart === undefined || merged === undefined) throw new Error('there are two ways');
    const lists: string[][] = [];
    for (const way of [apart, merged]) {
      await this.mounted(way, async (root) => {
        lists.push((await run('find', ['.', '-xdev'], { cwd: root })).trimEnd().split('\n').sort());
      });
    }
    const [one = [], other = []] = lists;
    if (one.join('\n') !== other.join('\n')) throw new Error('the merged tree has other names');
    return one;
  }

  private async store(blob: string): Promise<void> {
    const dir = `l${this.layers.length}`;
    const { diffId, size, opaqueRoot } = await ingest(
      createReadStream(blob).pipe(createGunzip()),
      this.keeper.begin(dir),
      {},
    );
    this.layers.push({ driver: 'erofs', dir, diffId, size, opaqueRoot });
  }
}

const APART = 'a lower for each layer';
const MERGED = 'one merged lower';

/** Microseconds for each. */
function lookUp(root: string, paths: readonly string[]): { us: number; cpuUs: number } {
  const [began, before] = [performance.now(), process.cpuUsage()];
  for (const path of paths) statSync(`${root}/${path}`, { throwIfNoEntry: false });
  return { us: ((performance.now() - began) * 1000) / paths.length, cpuUs: cpuSince(before) / paths.length };
}

/** Microseconds that processors were busy for this process. */
function cpuSince(before: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(before);
  return user + system;
}
