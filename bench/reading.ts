/**
 * What an image costs and gives by each driver, beside its layers and its tree extracted by tar on the same disk: bringing
 * it in, disk, the first container, reading cold and warm through that container, memory, and taking all away. All are
 * there at once, and reading takes turns.
 */
import { createWriteStream, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { startDaemon, type PrivateDaemon } from '../examples/private-daemon.js';
import { cachedBytes, dropCaches, readTree, readTrees, START_PROGRAMS, startIn, walkTree } from './caches.js';
import { fixture, type Fixture } from './fixtures/fixtures.js';
import type { FixtureName } from './fixtures/recipes.js';
import { run } from './fixtures/shell.js';
import { Figures, missingPrograms, timed, warmCache, type Figure, type ScriptTime } from './harness.js';
import { unmountBelow } from './imports.js';
import { LoopDisk } from './loop-disk.js';
import { archive, extractLayers } from './peers.js';

/** An image that somebody keeps, with one container on it. */
interface Kept {
  name: string;
  /** The container's tree. */
  tree: string;
  /** What else is read when the tree is read. */
  below: string[];
  /** The tree of each layer by itself, where there is one that is not the same for all. */
  layers: string[];
  /** Mounts the container anew, with nothing below it mounted or in the page cache, as after a reboot. */
  remount(): Promise<void>;
  /** Takes the container and the image away, to the last file. */
  remove(): Promise<void>;
}

/** Starts are short: so many to a turn. */
const STARTS = 3;
const EXTRACTED = 'tar -x, sync';
const BTRFS_BYTES = 24e9;

/** Needs root. */
export async function compareReading(
  names: readonly FixtureName[],
  drivers: readonly string[],
  { runs }: { runs: number },
): Promise<Figure[]> {
  const missing = await missingPrograms(['fincore', 'igzip']);
  if (missing.length > 0) throw new Error(`reading is measured with ${missing.join(' and ')}, not installed here`);
  const figures = new Figures();
  for (const name of names) {
    const bench = new ReadingBench(await fixture(name), figures);
    try {
      await bench.keepAll(drivers);
      for (let round = 0; round < runs; round += 1) await bench.read(round);
      await bench.removeAll();
    } finally {
      await bench.close();
    }
  }
  return figures.all();
}

class ReadingBench {
  private readonly image: Fixture;
  private readonly figures: Figures;
  private readonly home = mkdtempSync(join(tmpdir(), 'layerd-reading-'));
  private readonly kept: Kept[] = [];
  private readonly closing: (() => Promise<void>)[] = [];

  constructor(image: Fixture, figures: Figures) {
    this.image = image;
    this.figures = figures;
  }

  async keepAll(drivers: readonly string[]): Promise<void> {
    warmCache(archive(this.image, 'gzip'));
    const exported = join(this.home, 'tree.tar');
    for (const driver of drivers) {
      this.say(`brought in by ${driver}`);
      const home = join(this.home, driver);
      mkdirSync(home);
      const daemon = await this.startDaemon(driver, home);
      const container = await this.keep(driver, daemon);
      if (!existsSync(exported)) {
        await pipeline(await daemon.client.exportContainer(container), createWriteStream(exported));
      }
    }
    this.say(`extracted by tar`);
    await this.extract(exported);
    for (const kept of this.kept) await kept.remount();
  }

  /** One turn of reading for each, beginning with another one each time. */
  async read(round: number): Promise<void> {
    const first = round % this.kept.length;
    for (const kept of [...this.kept.slice(first), ...this.kept.slice(0, first)]) {
      this.say(`read through ${kept.name}`);
      await this.readOne(kept);
    }
  }

  async removeAll(): Promise<void> {
    for (const kept of this.kept) {
      this.say(`removed by ${kept.name}`);
      await run('sync', []);
      this.add(kept.name, 'removal, until unlinked', 'ms', await timed(() => kept.remove()));
    }
  }

  async close(): Promise<void> {
    for (const close of this.closing.toReversed()) await close();
    await unmountBelow(this.home);
    rmSync(this.home, { recursive: true, force: true });
  }

  /** A driver's name, or one with a word behind it that says how: `erofs+directio`. */
  private async startDaemon(driver: string, home: string): Promise<PrivateDaemon> {
    const [name = '', way] = driver.split('+');
    let place = home;
    if (name === 'btrfs') {
      const disk = await LoopDisk.make(home, BTRFS_BYTES);
      await disk.format('btrfs');
      this.closing.push(() => disk.dispose());
      place = join(disk.path, 'layerd');
      mkdirSync(place);
    }
    const flags = way === 'directio' ? ['--erofs-directio', 'on'] : [];
    const daemon = await startDaemon(place, ['--driver', name, '--log-level', 'warn', ...flags]);
    this.closing.push(async () => {
      await daemon.stop();
      // not the disk itself
      await unmountBelow(place);
    });
    return daemon;
  }

  /** Brings the image in and makes a container on it, whose id it returns. */
  private async keep(name: string, { client, root, socket }: PrivateDaemon): Promise<string> {
    await run('sync', []);
    this.add(name, 'import (gzip)', 'ms', await timed(() => client.load(archive(this.image, 'gzip'))));
    const disk = async (): Promise<number> => (await client.diskUsage()).total / 1e6;
    this.add(name, 'disk, image alone', 'MB', await disk());
    const [image] = await client.images();
    let id = '';
    let tree = '';
    const first = await timed(async () => {
      ({ id } = await client.createContainer(image?.id ?? ''));
      tree = (await client.mount(id)).path;
    });
    this.add(name, 'first container, mounted', 'ms', first);
    this.add(name, 'disk, with a container', 'MB', await disk());
    const remount = async (): Promise<void> => {
      await client.unmount(id);
      await unmountBelow(dirname(socket));
      await dropCaches();
      await client.mount(id);
    };
    const remove = async (): Promise<void> => {
      await client.removeContainer(id, { force: true });
      await client.removeImage(image?.id ?? '', { force: true });
      await client.gc({ grace: 0, wait: true });
    };
    const names = name.startsWith('erofs') ? readdirSync(join(root, 'l')) : [];
    const below = names.map((dir) => join(root, 'l', dir, 'tar'));
    this.kept.push({
      name,
      tree,
      below,
      layers: names.map((dir) => join(dirname(socket), 'l', dir, 'd')),
      remount,
      remove,
    });
    return id;
  }

  /** The layers, each into a directory; and, to read, the tree that they show together. */
  private async extract(exported: string): Promise<void> {
    const [layers, tree] = [join(this.home, 'layers'), join(this.home, 'tree')];
    for (const path of [layers, tree]) mkdirSync(path);
    await run('sync', []);
    const { ms } = await extractLayers(this.image, 'gzip', layers);
    const synced = await timed(() => run('sync', ['--file-system', layers]));
    this.add(EXTRACTED, 'import (gzip)', 'ms', ms + synced);
    const [kib] = (await run('du', ['-sk', layers])).split('\t');
    this.add(EXTRACTED, 'disk, image alone', 'MB', (Number(kib) * 1024) / 1e6);
    await run('tar', ['-x', '--numeric-owner', '-p', '-f', exported, '-C', tree]);
    rmSync(exported);
    this.kept.push({
      name: EXTRACTED,
      tree,
      below: [],
      layers: readdirSync(layers).map((layer) => join(layers, layer)),
      remount: async () => undefined,
      remove: async () => void (await run('rm', ['-r', layers])),
    });
  }

  private async readOne({ name, tree, below, layers }: Kept): Promise<void> {
    const both = (what: string, { ms, cpuMs }: ScriptTime): void => {
      this.add(name, what, 'ms', ms);
      this.add(name, `${what}, processor time`, 'ms', cpuMs);
    };
    // A virtual machine gets memory from its host when it is first touched, and gives back what was free for a while: who
    // reads first would pay for all. So everything is read once without being measured.
    await readTree(tree);
    await dropCaches();
    both('whole tree read, cold', await readTree(tree));
    this.add(name, 'page cache after it', 'MB', (await cachedBytes([tree, ...below])) / 1e6);
    both('whole tree read, warm', await readTree(tree));
    if (layers.length > 0) {
      await dropCaches();
      both('layers read, no overlay, cold', await readTrees(layers));
      both('layers read, no overlay, warm', await readTrees(layers));
    }
    await dropCaches();
    both('walk with stat, cold', await walkTree(tree));
    for (const program of START_PROGRAMS.filter(({ path }) => existsSync(join(tree, path)))) {
      for (let start = 0; start < STARTS; start += 1) {
        await dropCaches();
        both(`start of ${program.name}, cold`, await startIn(tree, program.args));
        both(`start of ${program.name}, warm`, await startIn(tree, program.args));
      }
    }
  }

  private add(by: string, scenario: string, unit: Figure['unit'], value: number): void {
    this.figures.add(scenario, by, this.image.name, unit, value);
  }

  private say(what: string): void {
    process.stderr.write(`${this.image.name}, ${what} …\n`);
  }
}
