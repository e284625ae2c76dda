/** A real engine on a root of its own, for tests; what it leaves is taken away. */
import { mkdtempSync, rmSync } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino, { type Logger } from 'pino';
import { run } from '../../bench/fixtures/shell.js';
import type { ArchiveInput, LoadOptions } from '../../src/core/api.js';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from '../../src/core/engine-config.js';
import type {
  ArchiveFormat,
  Change,
  CheckOptions,
  CheckReport,
  CommitOptions,
  CommitResult,
  DriverName,
  LoadResult,
  Progress,
} from '../../src/core/words.js';
import { Engine } from '../../src/engine.js';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { needsProgram, needsRoot, type Prerequisite } from '../needs.js';

/** The drivers that these tests go through. */
export const TESTED_DRIVERS = ['overlay2', 'copy', 'erofs'] as const satisfies DriverName[];

/** For everything that uses the fixture images. */
export function needsFixtures(): Prerequisite[] {
  return [
    needsRoot(),
    needsProgram('skopeo'),
    needsProgram('getfattr', 'attr'),
    needsProgram('busybox', 'busybox-static'),
    needsProgram('python3'),
  ];
}

export const never: AbortSignal = new AbortController().signal;

export const silent: Logger = pino({ level: 'silent' });

export class TestStore {
  readonly home: string;
  readonly config: EngineConfig;
  engine: Engine;
  running = true;

  private constructor(home: string, config: EngineConfig, engine: Engine) {
    this.home = home;
    this.config = config;
    this.engine = engine;
  }

  /** A fresh store whose collector runs on demand only; or the one that another process left in `home`. */
  static async open(
    change: Partial<EngineConfig> = {},
    home = mkdtempSync(join(tmpdir(), 'layerd-e2e-')),
  ): Promise<TestStore> {
    const config: EngineConfig = {
      ...DEFAULT_ENGINE_CONFIG,
      root: join(home, 'root'),
      run: join(home, 'run'),
      gc: { intervalMs: 0, graceMs: 600_000 },
      ...change,
    };
    return new TestStore(home, config, await Engine.open(config, silent));
  }

  /** Starts an engine on the root of the one that was stopped, perhaps with other settings. */
  async start(change: Partial<EngineConfig> = {}): Promise<void> {
    this.engine = await Engine.open({ ...this.config, ...change }, silent);
    this.running = true;
  }

  /** Ends the engine; what it mounted stays. */
  async stop(): Promise<void> {
    if (!this.running) return;
    this.running = false;
    await this.engine.close();
  }

  /** Ends the engine and starts another one. */
  async reopen(change: Partial<EngineConfig> = {}): Promise<void> {
    await this.stop();
    await this.start(change);
  }

  /** Removes everything, whatever is still mounted. */
  async remove(): Promise<void> {
    await this.stop();
    await removeStore(this.home);
  }

  load(
    input: string | ArchiveInput,
    options: LoadOptions = {},
    progress: (progress: Progress) => void = ignore,
  ): Promise<LoadResult> {
    return this.engine.load(typeof input === 'string' ? { path: input } : input, options, progress, never);
  }

  /** Saves into a file and returns what was said about it. */
  async save(refs: string[], format: ArchiveFormat, path: string): Promise<string> {
    const { stream, notice } = await this.engine.save({ refs, format }, never);
    const file = await open(path, 'w');
    try {
      for await (const chunk of stream) await file.writeFile(chunk);
    } finally {
      await file.close();
    }
    return notice;
  }

  /** `A /path`, `C /path`, `D /path`, in the order told. */
  async changes(container: string): Promise<string[]> {
    const lines: string[] = [];
    for await (const chunk of await this.engine.changes(container, never)) {
      lines.push(...chunk.map(({ kind, path }: Change) => `${kind} ${path}`));
    }
    return lines;
  }

  commit(container: string, options: CommitOptions): Promise<CommitResult> {
    return this.engine.commit(container, options, ignore, never);
  }

  check(options: CheckOptions = {}): Promise<CheckReport> {
    return this.engine.check(options, ignore, never);
  }

  /** What `check` finds, one `CODE subject` a problem. */
  async problems(options: CheckOptions = {}): Promise<string[]> {
    return (await this.check(options)).problems.map(({ code, subject }) => `${code} ${subject}`);
  }

  /** Makes a container, mounts it, and gives the path of its root. */
  async container(image: string, name: string): Promise<string> {
    await this.engine.createContainer(image, { name });
    return (await this.engine.mount(name)).path;
  }

  /** Removes every image and container, and collects until nothing is left to collect. */
  async removeAll(): Promise<void> {
    for (const { id } of this.engine.containers()) await this.engine.removeContainer(id, { force: true });
    for (const { id } of this.engine.images()) await this.engine.removeImage(id, { force: true });
    await this.collect();
  }

  /** Collects now, without grace, and waits until the trash is empty. */
  collect() {
    return this.engine.gc({ grace: 0, wait: true });
  }

  /** Bytes allocated below the root, as du counts them. */
  allocated(): Promise<number> {
    return allocatedBytes(this.config.root);
  }

  mounted(): string[] {
    return mountsBelow(this.home).map((mount) => mount.mountPoint as string);
  }

  /** Every path below root and run but those that an empty store has. */
  async leftovers(): Promise<string[]> {
    const paths = await readdir(this.home, { recursive: true });
    return paths.filter((path) => !EMPTY_STORE.has(path)).sort();
  }
}

const EMPTY_STORE = new Set(
  [
    ['root', 'root/lock', 'root/db', 'root/l', 'root/s', 'root/t', 'root/b', 'root/i', 'root/e', 'root/trash'],
    ['root/db/layerd.db', 'root/db/layerd.db-wal', 'root/db/layerd.db-shm'],
    ['run', 'run/lock', 'run/l', 'run/l.lock', 'run/t', 'run/t.lock', 'run/m'],
  ].flat(),
);

export function ignore(): void {
  // Progress, and failures that are looked at elsewhere.
}

/** Bytes allocated below a directory, as du counts them: by another program, hard links once. */
export async function allocatedBytes(path: string, exclude: readonly string[] = []): Promise<number> {
  const without = exclude.map((pattern) => `--exclude=${pattern}`);
  return Number.parseInt(await run('du', ['-s', '-x', '-B1', ...without, path]), 10);
}

/** Unmounts what is mounted below a store's home, and removes it. */
export async function removeStore(home: string): Promise<void> {
  for (const { mountPoint } of mountsBelow(home).toReversed()) await run('umount', ['-l', mountPoint]);
  rmSync(home, { recursive: true, force: true });
}

/** Runs `work` on a fresh store, and removes it afterwards. */
export async function withStore<T>(change: Partial<EngineConfig>, work: (store: TestStore) => Promise<T>): Promise<T> {
  const store = await TestStore.open(change);
  try {
    return await work(store);
  } finally {
    await store.remove();
  }
}
