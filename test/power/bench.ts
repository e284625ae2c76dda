/** One daemon on a disk that can be filled or made to fail, and what must hold whatever happens to it. */
import { mkdirSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import { toLayerdError, type ErrorCode } from '../../src/core/errors.js';
import type { DriverName } from '../../src/core/words.js';
import { unmountBelow } from '../conformance/file-system.js';
import { makeArchives, type Archive } from './images.js';
import { startLayerd, type RunningLayerd } from './layerd.js';
import type { Disk } from './disk.js';
import { Preload } from './preload.js';
import type { Stage } from './stage.js';

export class Bench {
  readonly disk: Disk;
  readonly preload: Preload;
  readonly archives: readonly Archive[];
  private readonly driver: DriverName;
  private readonly home: string;
  private running: RunningLayerd | null = null;

  private constructor(stage: Stage, disk: Disk, driver: DriverName, preload: Preload) {
    this.disk = disk;
    this.driver = driver;
    this.preload = preload;
    this.archives = makeArchives(stage.fresh(), 2, 'bench');
    this.home = stage.fresh();
  }

  /** Runs `work` with a daemon on the disk, and takes all of it away. */
  static async with(
    stage: Stage,
    disk: Disk,
    driver: DriverName,
    work: (bench: Bench) => Promise<void>,
  ): Promise<void> {
    const bench = new Bench(stage, disk, driver, await Preload.build(stage.fresh()));
    try {
      await bench.start();
      await work(bench);
    } finally {
      await bench.stop();
      await disk.remove();
    }
  }

  get root(): string {
    return join(this.disk.path, 'root');
  }

  get daemon(): RunningLayerd {
    if (this.running === null) throw new Error('the daemon does not run');
    return this.running;
  }

  /** The image that comes first. */
  get archive(): Archive {
    const [first] = this.archives;
    if (first === undefined) throw new Error('there are no archives');
    return first;
  }

  async start(): Promise<void> {
    mkdirSync(this.home, { recursive: true });
    const { environment } = this.preload;
    this.running = await startLayerd(this.driver, { root: this.root, home: this.home, environment });
  }

  /** As if the machine went down: nothing is stopped, and nothing stays mounted. */
  async stop(): Promise<void> {
    await this.running?.kill();
    this.running = null;
    unmountBelow(this.home);
    rmSync(this.home, { recursive: true, force: true });
  }

  /** Writes into the container, which is mounted, as a program in it would. */
  async write(path: string): Promise<void> {
    const { path: root } = await this.daemon.daemon.client.container('box');
    await writeFile(join(root ?? '', path), Buffer.alloc(10_000, 'x'));
  }

  /** Nothing is damaged and nothing is left of what failed. */
  async expectSound(): Promise<void> {
    await this.daemon.collect();
    expect((await this.daemon.daemon.client.check()).problems).toEqual([]);
    expect(await this.daemon.unaccounted()).toBe(0);
  }

  /** All work goes on; afterwards the store is empty, and nothing is left. */
  async expectWorking(): Promise<void> {
    expect(await this.daemon.audit(new Map(), this.archive)).toEqual({ lost: [], damaged: [], unaccounted: 0 });
  }
}

/** The daily work, one request after the other; each follows from those before. */
export const REQUESTS: readonly { name: string; run: (bench: Bench) => Promise<unknown> }[] = [
  { name: 'load', run: ({ daemon, archive }) => daemon.load(archive) },
  { name: 'create', run: ({ daemon, archive }) => daemon.createContainer('box', archive.ref) },
  { name: 'mount', run: ({ daemon }) => daemon.daemon.client.mount('box') },
  { name: 'write', run: (bench) => bench.write('srv/written') },
  { name: 'unmount', run: ({ daemon }) => daemon.daemon.client.unmount('box') },
  { name: 'commit', run: ({ daemon }) => daemon.commit('box', 'localhost/committed:1') },
  { name: 'tag', run: ({ daemon, archive }) => daemon.tag(archive.ref, 'localhost/tagged:1') },
  { name: 'rm', run: ({ daemon }) => daemon.removeContainer('box') },
  { name: 'rmi', run: ({ daemon }) => daemon.removeImage('localhost/committed:1') },
  { name: 'gc', run: ({ daemon }) => daemon.collect() },
];

/** What happens to the daemon during one request, and its end. */
export interface Trouble {
  begin(request: string): void;
  end(): void;
}

/**
 * Does the daily work, every request in trouble; where one fails, it is done again without. Returns how many failed. In the
 * end everything works and nothing is left.
 */
export async function workThrough(bench: Bench, trouble: Trouble, codes: readonly ErrorCode[]): Promise<number> {
  let failed = 0;
  for (const { name, run } of REQUESTS) {
    trouble.begin(name);
    const code = await attempt(() => run(bench), codes).finally(() => trouble.end());
    if (code === null) continue;
    failed += 1;
    await bench.expectSound();
    await run(bench);
  }
  await bench.expectSound();
  await bench.expectWorking();
  return failed;
}

/** Runs something that may fail with one of these codes, and must then say what to do. Returns the code, if any. */
export async function attempt(work: () => Promise<unknown>, codes: readonly ErrorCode[]): Promise<ErrorCode | null> {
  try {
    await work();
    return null;
  } catch (thrown) {
    // What a container writes fails in the container, with an errno.
    const error = toLayerdError(thrown);
    expect(codes, error.message).toContain(error.code);
    expect(error.hint, error.message).not.toBe('');
    return error.code;
  }
}
