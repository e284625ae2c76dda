/** What is measured, each through the native API of a real daemon: whole requests, durable when they are answered. */
import { createHash } from 'node:crypto';
import { closeSync, fdatasyncSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { LayerdClient } from '../src/client/index.js';
import { startDaemon, type PrivateDaemon } from '../examples/private-daemon.js';
import { run } from './fixtures/shell.js';
import {
  concurrently,
  cpuMs,
  Figures,
  peakMb,
  percentile,
  residentMb,
  timed,
  warmCache,
  type Figure,
} from './harness.js';

/** An archive to measure with. */
export interface Subject {
  name: string;
  /** The same image in the forms that are to be imported. */
  forms: { form: string; path: string }[];
}

export interface Scale {
  runs: number;
  /** Container cycles for each number of clients. */
  cycles: number;
  clients: number[];
  /** Files that a container writes before a large commit, and their bytes. */
  files: number;
  fileBytes: number;
  /** Files that are swept while a large image comes in. */
  garbage: number;
  /** How often containerd unpacks each image. */
  unpacks: number;
}

const LAYERCTL = fileURLToPath(new URL('../src/bin/layerctl.js', import.meta.url));

type Add = (scenario: string, unit: Figure['unit'], value: number) => void;

/** All scenarios of one driver on one image; figures come out as they are measured. */
export async function measure(directory: string, driver: string, subject: Subject, scale: Scale): Promise<Figure[]> {
  const figures = new Figures();
  const add: Add = (scenario, unit, value) => figures.add(scenario, driver, subject.name, unit, value);
  for (let round = 0; round < scale.runs; round += 1) {
    for (const { form, path } of subject.forms) {
      await withDaemon(directory, driver, (daemon) => importAndRemove(daemon, form, path, add));
    }
  }
  const [first] = subject.forms;
  if (first !== undefined) {
    await withDaemon(directory, driver, (daemon) => containers(daemon, first.path, scale, add));
  }
  return figures.all();
}

/** Starts on an empty store, and what layerctl takes for a local question. */
export async function atHand(directory: string, driver: string, runs: number): Promise<Figure[]> {
  const figures = new Figures();
  const add: Add = (scenario, unit, value) => figures.add(scenario, `layerd ${driver}`, 'an empty store', unit, value);
  for (let round = 0; round < runs; round += 1) {
    await withDaemon(directory, driver, async (daemon) => {
      add('start', 'ms', daemon.startedMs);
      add('processor time of a start', 'ms', cpuMs(daemon.pid));
      await commandLine(daemon, add);
      add('resident, idle', 'MB', residentMb(daemon.pid));
    });
  }
  return figures.all();
}

/** Changes of two sizes on an image, listed and committed, beside reading, hashing and writing the larger once. */
export async function commitsOn(
  directory: string,
  driver: string,
  { name, forms }: Subject,
  { runs, files, fileBytes }: Pick<Scale, 'runs' | 'files' | 'fileBytes'>,
): Promise<Figure[]> {
  const figures = new Figures();
  const add: Add = (scenario, unit, value) => figures.add(scenario, `layerd ${driver}`, name, unit, value);
  for (let round = 0; round < runs; round += 1) {
    await withDaemon(directory, driver, async (daemon) => {
      const { images } = await daemon.client.load(forms[0]?.path ?? '');
      await commits(daemon.client, images[0]?.imageId ?? '', { files, fileBytes }, add);
      figures.add('peak memory of commits', `layerd ${driver}`, name, 'MB', peakMb(daemon.pid));
    });
    const floor = commitFloor(directory, files, fileBytes);
    figures.add(`commit of ${files} new files`, 'floor: read, hash, write', name, 'ms', floor);
  }
  return figures.all();
}

/** Files are read from the page cache and hashed on one core while the other writes what was read. */
function commitFloor(directory: string, files: number, bytes: number): number {
  mkdirSync(directory, { recursive: true });
  const content = Buffer.alloc(bytes, 'layerd ');
  for (let index = 0; index < files; index += 1) writeFileSync(join(directory, `file-${index}`), content);
  const started = performance.now();
  const hash = createHash('sha256');
  for (let index = 0; index < files; index += 1) hash.update(readFileSync(join(directory, `file-${index}`)));
  hash.digest();
  const hashed = performance.now();
  const fd = openSync(join(directory, 'tar'), 'w');
  for (let index = 0; index < files; index += 1) writeSync(fd, content);
  fdatasyncSync(fd);
  closeSync(fd);
  const written = performance.now();
  rmSync(directory, { recursive: true });
  return Math.max(hashed - started, written - hashed);
}

/** From an empty store: import, import again, remove, collect. */
async function importAndRemove(daemon: PrivateDaemon, form: string, path: string, add: Add): Promise<void> {
  const { client } = daemon;
  add('start', 'ms', daemon.startedMs);
  add('resident after the start', 'MB', residentMb(daemon.pid));
  await commandLine(daemon, add);
  warmCache(path);
  add(`import (${form})`, 'ms', await timed(() => client.load(path)));
  add(`import again (${form})`, 'ms', await timed(() => client.load(path)));
  const { total } = await client.diskUsage();
  add('on disk', 'MB', total / 1e6);
  add(
    'rmi',
    'ms',
    await timed(async () => {
      for (const image of await client.images()) await client.removeImage(image.id, { force: true });
    }),
  );
  add('gc (answer)', 'ms', await timed(() => client.gc({ grace: 0 })));
  add('gc (until unlinked)', 'ms', await timed(() => client.gc({ grace: 0, wait: true })));
}

/** What layerctl takes for a local question beyond a Node that does nothing. */
async function commandLine(daemon: PrivateDaemon, add: Add): Promise<void> {
  const bare = await timed(() => run(process.execPath, ['-e', '0']));
  const asked = await timed(() => run(process.execPath, [LAYERCTL, '--socket', daemon.socket, 'images']));
  add('layerctl beyond bare node', 'ms', asked - bare);
}

async function containers(daemon: PrivateDaemon, path: string, scale: Scale, add: Add): Promise<void> {
  const { client } = daemon;
  const { images } = await client.load(path);
  const image = images[0]?.imageId ?? '';
  for (const clients of scale.clients) await cycles(client, image, clients, scale.cycles, add);
  await commits(client, image, scale, add);
  add('resident', 'MB', residentMb(daemon.pid));
}

/** create, mount, one write, unmount, rm. */
async function cycles(client: LayerdClient, image: string, clients: number, total: number, add: Add): Promise<void> {
  const steps: Record<'create' | 'mount' | 'unmount' | 'rm', number[]> = { create: [], mount: [], unmount: [], rm: [] };
  const { all } = await concurrently(clients, total, async () => {
    let id = '';
    let root = '';
    steps.create.push(await timed(async () => ({ id } = await client.createContainer(image))));
    steps.mount.push(await timed(async () => ({ path: root } = await client.mount(id))));
    writeFileSync(join(root, 'written'), 'x');
    steps.unmount.push(await timed(() => client.unmount(id)));
    steps.rm.push(await timed(() => client.removeContainer(id)));
  });
  add(`cycles, ${clients} client(s)`, 'per second', total / (all / 1000));
  for (const [step, values] of Object.entries(steps)) {
    add(`${step} p50, ${clients} client(s)`, 'ms', percentile(values, 0.5));
    add(`${step} p99, ${clients} client(s)`, 'ms', percentile(values, 0.99));
  }
}

/** Changes of two sizes, listed and committed. */
async function commits(
  client: LayerdClient,
  image: string,
  scale: Pick<Scale, 'files' | 'fileBytes'>,
  add: Add,
): Promise<void> {
  const sets = [
    { name: '100 changes', files: 100, bytes: 1000 },
    { name: `${scale.files} new files`, files: scale.files, bytes: scale.fileBytes },
  ];
  for (const { name, files, bytes } of sets) {
    const { id } = await client.createContainer(image);
    const { path } = await client.mount(id);
    const directory = join(path, 'bench');
    mkdirSync(directory);
    const content = Buffer.alloc(bytes, 'layerd ');
    for (let index = 0; index < files; index += 1) writeFileSync(join(directory, `file-${index}`), content);
    const changes = async (): Promise<void> => {
      for await (const change of client.changes(id)) void change;
    };
    add(`changes of ${name}`, 'ms', await timed(changes));
    add(`commit of ${name}`, 'ms', await timed(() => client.commit(id, { ref: 'bench/committed:1' })));
    await client.unmount(id);
    await client.removeContainer(id);
  }
}

async function withDaemon(
  directory: string,
  driver: string,
  work: (daemon: PrivateDaemon) => Promise<void>,
): Promise<void> {
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  const daemon = await startDaemon(directory, ['--driver', driver, '--log-level', 'warn']);
  try {
    await work(daemon);
    for (const container of await daemon.client.containers()) {
      await daemon.client.removeContainer(container.id, { force: true });
    }
    for (const image of await daemon.client.images()) await daemon.client.removeImage(image.id, { force: true });
    await daemon.client.gc({ grace: 0, wait: true });
  } finally {
    await daemon.stop();
    rmSync(directory, { recursive: true, force: true });
  }
}
