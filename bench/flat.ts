/**
 * Whether cost grows with the store: the same steps on an empty store and on one with thousands of layers, as many
 * containers and five hundred times as many entries, all made through the API and all on disk.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startDaemon } from '../examples/private-daemon.js';
import type { LayerdClient } from '../src/client/index.js';
import { sha256 } from '../src/core/digest.js';
import type { ByteString } from '../src/core/bytes.js';
import { encodeEntry, endOfArchive, padding } from '../src/tar/writer.js';
import { concurrently, Figures, median, peakMb, residentMb, timed, type Figure } from './harness.js';
import { unmountBelow } from './imports.js';

const LAYERS_PER_IMAGE = 100;
const ENTRIES_PER_LAYER = 500;
const SAMPLES = 200;
const COMMITS = 40;
const GARBAGE = 100;
const CLIENTS = 8;
const MOUNTED = 20;

export async function flatness(driver: string, layers: number): Promise<Figure[]> {
  const figures = new Figures();
  const by = `layerd ${driver}`;
  const home = mkdtempSync(join(tmpdir(), 'layerd-flat-'));
  const flags = ['--driver', driver, '--log-level', 'warn'];
  let daemon = await startDaemon(home, flags);
  try {
    const { images } = await daemon.client.load(imageOf(0, 10));
    const image = images[0]?.imageId ?? '';
    await steps(daemon.client, image, by, 'an empty store', figures);
    const filling = await timed(() => fill(daemon.client, layers));
    figures.add('filling', by, 'a full store', 's', filling / 1000);
    figures.add('peak memory of filling', by, 'a full store', 'MB', peakMb(daemon.pid));
    await daemon.stop();
    daemon = await startDaemon(home, flags);
    figures.add('start', by, 'a full store', 'ms', daemon.startedMs);
    figures.add('resident, idle', by, 'a full store', 'MB', residentMb(daemon.pid));
    await steps(daemon.client, image, by, 'a full store', figures);
    figures.add('list of containers', by, 'a full store', 'ms', await timed(() => daemon.client.containers()));
    await mountSome(daemon.client);
  } finally {
    await daemon.stop();
    await unmountBelow(home);
    rmSync(home, { recursive: true, force: true });
  }
  return figures.all();
}

async function steps(client: LayerdClient, image: string, by: string, store: string, figures: Figures): Promise<void> {
  const times: Record<'prepare' | 'stat' | 'remove' | 'commit', number[]> = {
    prepare: [],
    stat: [],
    remove: [],
    commit: [],
  };
  for (let index = 0; index < SAMPLES; index += 1) {
    let id = '';
    times.prepare.push(await timed(async () => ({ id } = await client.createContainer(image))));
    times.stat.push(await timed(() => client.container(id)));
    times.remove.push(await timed(() => client.removeContainer(id)));
  }
  const { id } = await client.createContainer(image);
  for (let index = 0; index < COMMITS; index += 1) {
    times.commit.push(await timed(() => client.commit(id, { ref: `bench/flat:${index}` })));
  }
  await client.removeContainer(id);
  for (const [step, values] of Object.entries(times)) figures.add(`${step}, p50`, by, store, 'ms', median(values));
  await client.gc({ grace: 0, wait: true });
  for (let index = 0; index < GARBAGE; index += 1)
    await client.removeContainer((await client.createContainer(image)).id);
  const collecting = await timed(() => client.gc({ grace: 0, wait: true }));
  figures.add('gc of 100 containers, p50', by, store, 'ms', collecting);
}

/** Images of a hundred layers each, and as many containers as layers. */
async function fill(client: LayerdClient, layers: number): Promise<void> {
  const ids: string[] = [];
  for (let image = 1; image * LAYERS_PER_IMAGE <= layers; image += 1) {
    process.stderr.write(`\rimage ${image} of ${layers / LAYERS_PER_IMAGE} …`);
    const { images } = await client.load(imageOf(image, LAYERS_PER_IMAGE));
    for (const { imageId } of images) ids.push(imageId);
  }
  process.stderr.write('\n');
  await concurrently(CLIENTS, layers, async (index) => {
    await client.createContainer(ids[index % ids.length] ?? '');
  });
}

async function mountSome(client: LayerdClient): Promise<void> {
  const all = await client.containers();
  for (let index = 0; index < MOUNTED; index += 1) {
    const id = all[Math.floor((index * all.length) / MOUNTED)]?.id ?? '';
    await client.mount(id);
    await client.unmount(id);
  }
}

/** A docker-archive with small layers of many empty files; no two layers of any image are the same. */
async function* imageOf(image: number, layers: number): AsyncGenerator<Buffer> {
  const tars = Array.from({ length: layers }, (_, layer) => layerTar(image, layer));
  const config = Buffer.from(
    JSON.stringify({
      architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
      os: 'linux',
      config: {},
      rootfs: { type: 'layers', diff_ids: tars.map(sha256) },
      history: tars.map(() => ({ created_by: 'bench' })),
    }),
  );
  const names = tars.map((_, layer) => `${layer}.tar`);
  const manifest = [{ Config: 'config.json', RepoTags: [`bench/flat-${image}:1`], Layers: names }];
  yield member('manifest.json', Buffer.from(JSON.stringify(manifest)));
  yield member('config.json', config);
  for (const [layer, tar] of tars.entries()) yield member(`${layer}.tar`, tar);
  yield endOfArchive();
}

let common: Buffer | null = null;

function layerTar(image: number, layer: number): Buffer {
  common ??= Buffer.concat([
    entry('common/', 'directory', 0),
    ...Array.from({ length: ENTRIES_PER_LAYER - 3 }, (_, index) => entry(`common/file-${index}`, 'file', 0)),
  ]);
  const own = member(`own/${image}-${layer}`, Buffer.from(`${image}-${layer}`));
  return Buffer.concat([entry('own/', 'directory', 0), own, common, endOfArchive()]);
}

function member(path: string, content: Buffer): Buffer {
  return Buffer.concat([entry(path, 'file', content.length), content, Buffer.alloc(padding(content.length))]);
}

function entry(path: string, type: 'file' | 'directory', size: number): Buffer {
  return encodeEntry({
    type,
    path: path as ByteString,
    linkPath: '' as ByteString,
    mode: type === 'file' ? 0o644 : 0o755,
    uid: 0,
    gid: 0,
    size,
    mtime: { sec: 1_700_000_000, nsec: 0 },
    devMajor: 0,
    devMinor: 0,
    xattrs: null,
  });
}
