/** The build cache, by the client and layerctl, against a real daemon that is killed and started again. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { chainId, sha256, type Digest } from '../../src/core/digest.js';
import type { BuildCacheKey, GcReport } from '../../src/core/words.js';
import { smallImage, type SmallImage } from './archives.js';
import { makeHome, removeHome, TestDaemon } from './daemon.js';

let home: string;
let daemon: TestDaemon;
let base: SmallImage;
let parent: Digest;

beforeEach(async () => {
  home = makeHome();
  await start();
  base = smallImage(home, 'test/base:1', ['the base']);
  await daemon.client.load(base.file);
  const [layer] = (await daemon.client.image('test/base:1')).layers;
  parent = layer?.chainId ?? expect.fail('no layer');
});
afterEach(async () => {
  await daemon.stop('SIGKILL');
  removeHome(home);
});

async function start(...args: string[]): Promise<void> {
  daemon = await TestDaemon.start(home, ['--gc-interval', '0', ...args]);
}

async function restart(...args: string[]): Promise<void> {
  await daemon.stop('SIGKILL');
  await start(...args);
}

function gc(): Promise<GcReport> {
  return daemon.client.gc({ grace: 0, wait: true });
}

function step(name: string): BuildCacheKey {
  return { parent, instruction: `RUN make ${name}`, inputs: sha256(`inputs of ${name}`) };
}

/** Does the step as a builder would: a container, a change, a commit. The image stays only as long as `ref` names it. */
async function build(name: string, ref?: string): Promise<Digest> {
  const { client } = daemon;
  const { id } = await client.createContainer('test/base:1');
  const { path } = await client.mount(id);
  writeFileSync(join(path, name), name);
  await client.unmount(id);
  const { diffId } = await client.commit(id, ref === undefined ? {} : { ref });
  await client.removeContainer(id);
  const layer = diffId ?? expect.fail('no layer');
  await client.bindBuildCache({ ...step(name), layer });
  return layer;
}

async function layers(): Promise<Digest[]> {
  return (await daemon.client.layers()).map(({ diffId }) => diffId);
}

it('answers with the layer after a restart, without any image that has it', async () => {
  const layer = await build('one', 'test/one:1');
  await daemon.client.removeImage('test/one:1');
  await gc();
  await restart();
  expect(await daemon.client.useBuildCache(step('one'))).toMatchObject({
    ...step('one'),
    diffId: layer,
    chainId: chainId(parent, layer),
  });
  for (const other of [
    { ...step('one'), inputs: sha256('other') },
    { ...step('one'), instruction: 'RUN make' },
    { ...step('one'), parent: null },
  ]) {
    expect(await daemon.client.useBuildCache(other)).toBeNull();
  }
  expect((await gc()).removed).toEqual([]);
  expect(await layers()).toContain(layer);
});

it('lets a builder go on from a step that was done before, in another image', async () => {
  const { client } = daemon;
  await build('one');
  await gc();
  const hit = await client.useBuildCache(step('one'));
  const layer = hit?.diffId ?? expect.fail('no layer');
  const image = await client.extendImage('test/base:1', { layer, ref: 'test/again:1', changes: ['ENV COLOUR=blue'] });
  expect(image).toMatchObject({ ref: 'docker.io/test/again:1', diffId: layer });
  const detail = await client.image(image.imageId);
  expect(detail.layers.map(({ diffId, chainId: id }) => [diffId, id])).toEqual([
    [base.image.layers[0]?.diffId, parent],
    [layer, hit?.chainId],
  ]);
  expect(detail.config).toMatchObject({ config: { Env: ['COLOUR=blue'] } });
  const { id } = await client.createContainer('test/again:1');
  const { path } = await client.mount(id);
  expect(readFileSync(join(path, 'one'), 'utf8')).toBe('one');
  await client.unmount(id);
  const named = await client.extendImage('test/again:1', { layer: null, ref: 'test/named:1', changes: ['USER app'] });
  expect((await client.image(named.imageId)).layers).toHaveLength(2);
  await expect(client.extendImage('test/again:1', { layer: sha256('x') })).rejects.toMatchObject({
    code: 'LAYER_NOT_FOUND',
  });
});

it('is counted by df and named by why', async () => {
  const layer = await build('one');
  await gc();
  const { buildCache, reclaimable } = await daemon.client.diskUsage();
  const { disk } = await daemon.client.layer(layer);
  expect(buildCache).toEqual({ entries: 1, bytes: disk });
  expect(reclaimable).toBe(0);
  const { paths } = await daemon.client.why(layer);
  expect(paths.flat()).toEqual([expect.stringMatching(/build cache entry \d+ has it as the outcome of RUN make one/)]);
  expect(await daemon.client.metrics()).toContain('layerd_build_cache_entries 1');
});

it('remembers steps that change no file, and what was done anew', async () => {
  const nothing = await daemon.client.bindBuildCache({ ...step('nothing'), layer: null });
  expect(nothing).toMatchObject({ diffId: null, chainId: parent, disk: 0 });
  const first = await build('one');
  const second = await build('two');
  await daemon.client.bindBuildCache({ ...step('one'), layer: second });
  expect(await daemon.client.useBuildCache(step('one'))).toMatchObject({ diffId: second });
  await gc();
  expect(await layers()).not.toContain(first);
  expect(await layers()).toContain(second);
});

it('takes only layers that are here', async () => {
  await expect(daemon.client.bindBuildCache({ ...step('x'), layer: sha256('x') })).rejects.toMatchObject({
    code: 'LAYER_NOT_FOUND',
  });
  expect(await daemon.client.buildCache()).toEqual([]);
});

it('forgets what was not used last when it is full, but nothing that images have', async () => {
  const kept = await build('kept', 'test/kept:1');
  const old = await build('old');
  const fresh = await build('fresh');
  const { disk } = await daemon.client.layer(fresh);
  await gc();
  await restart('--build-cache-max-size', String(disk));
  const dry = await daemon.client.gc({ grace: 0, dryRun: true });
  const { removed } = await gc();
  expect(removed).toEqual(dry.removed);
  expect(removed.map(({ kind }) => kind)).toEqual(expect.arrayContaining(['build-cache', 'layer']));
  expect((await daemon.client.buildCache()).map(({ diffId }) => diffId)).toEqual([fresh, kept]);
  expect(await layers()).not.toContain(old);
});

it('forgets what nobody asked for', async () => {
  await build('one');
  await restart('--build-cache-max-age', '0');
  await gc();
  expect(await daemon.client.buildCache()).toEqual([]);
  expect(await layers()).toEqual(base.image.layers.map(({ diffId }) => diffId));
});

it('is listed and emptied by layerctl', async () => {
  await build('one');
  await build('two');
  const list = await daemon.ctl(['build-cache', 'ls']);
  expect(list.stdout).toMatch(/ENTRY +PARENT +LAYER +ON DISK +USED +INSTRUCTION\n.*RUN make two\n.*RUN make one\n/);
  const [two, one] = (await daemon.client.buildCache()).map(({ id }) => String(id));
  expect(await daemon.ctl(['build-cache', 'rm', two ?? ''])).toMatchObject({ code: 0, stdout: `${two}\n` });
  expect(await daemon.ctl(['build-cache', 'rm'])).toMatchObject({ code: 2 });
  expect(await daemon.ctl(['build-cache', 'rm', 'one'])).toMatchObject({ code: 2 });
  expect(await daemon.ctl(['build-cache', 'rm', '--all'])).toMatchObject({ code: 0, stdout: `${one}\n` });
  await gc();
  expect(await layers()).toHaveLength(1);
});
