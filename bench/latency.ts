/** Never in the way: what a container's steps take while a large image comes in and 50,000 files are swept. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { startDaemon } from '../examples/private-daemon.js';
import type { LayerdClient } from '../src/client/index.js';
import { fixture } from './fixtures/fixtures.js';
import type { FixtureName } from './fixtures/recipes.js';
import { Figures, peakMb, percentile, timed, warmCache, type Figure } from './harness.js';
import { archive } from './peers.js';
import type { Scale } from './scenarios.js';

const FILES_PER_DIRECTORY = 500;

/** Beside it a bare fdatasync of one page, on the same file system at the same time. */
export async function latencyUnderLoad(
  driver: string,
  names: { image: FixtureName; load: FixtureName },
  { garbage }: Pick<Scale, 'garbage'>,
): Promise<Figure[]> {
  const [small, large] = [await fixture(names.image), await fixture(names.load)];
  const figures = new Figures();
  const name = `layerd ${driver}`;
  const home = mkdtempSync(join(tmpdir(), 'vs-'));
  mkdirSync(join(home, 'l'));
  const daemon = await startDaemon(join(home, 'l'), ['--driver', driver, '--log-level', 'warn']);
  try {
    const { client } = daemon;
    const { images } = await client.load(archive(small, 'gzip'));
    const image = images[0]?.imageId ?? '';
    process.stderr.write('calls beside a load and a collection …\n');
    await fillAndRemove(client, image, garbage);
    warmCache(archive(large, 'gzip'));
    const syncs = new Worker(new URL('sync-loop.js', import.meta.url), { workerData: { file: join(home, 'page') } });
    await once(syncs, 'message');
    const work = [client.load(archive(large, 'gzip')), client.gc({ grace: 0, wait: true })];
    const steps = await stepsDuring(client, image, work).finally(() => syncs.postMessage('stop'));
    const [found] = (await once(syncs, 'message')) as [number[]];
    for (const [step, values] of Object.entries({ ...steps, 'bare fdatasync': found })) {
      figures.add(`${step} p50 under load`, name, large.name, 'ms', percentile(values, 0.5));
      figures.add(`${step} p99 under load`, name, large.name, 'ms', percentile(values, 0.99));
    }
    const { eventLoopDelayP99Ms } = await client.info();
    figures.add('event loop delay p99', name, large.name, 'ms', eventLoopDelayP99Ms);
    figures.add('peak memory under load', name, large.name, 'MB', peakMb(daemon.pid));
    for (const { id } of await client.images()) await client.removeImage(id, { force: true });
    await client.gc({ grace: 0, wait: true });
  } finally {
    await daemon.stop();
    rmSync(home, { recursive: true, force: true });
  }
  return figures.all();
}

/** A container that wrote many files, removed: its directory is in the trash. */
async function fillAndRemove(client: LayerdClient, image: string, files: number): Promise<void> {
  const { id } = await client.createContainer(image);
  const { path } = await client.mount(id);
  for (let index = 0; index < files; index += 1) {
    const directory = join(path, 'garbage', String(Math.floor(index / FILES_PER_DIRECTORY)));
    if (index % FILES_PER_DIRECTORY === 0) mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, String(index)), 'x');
  }
  await client.unmount(id);
  await client.removeContainer(id);
}

async function stepsDuring(
  client: LayerdClient,
  image: string,
  load: Promise<unknown>[],
): Promise<Record<'prepare' | 'mount' | 'unmount' | 'remove', number[]>> {
  const steps = { prepare: [] as number[], mount: [] as number[], unmount: [] as number[], remove: [] as number[] };
  const ended = new AbortController();
  const loaded = Promise.all(load).finally(() => ended.abort());
  loaded.catch(() => undefined); // looked at below
  while (!ended.signal.aborted) {
    let id = '';
    steps.prepare.push(await timed(async () => ({ id } = await client.createContainer(image))));
    steps.mount.push(await timed(() => client.mount(id)));
    steps.unmount.push(await timed(() => client.unmount(id)));
    steps.remove.push(await timed(() => client.removeContainer(id)));
  }
  await loaded;
  return steps;
}
