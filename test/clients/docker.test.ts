/** The real dockerd with layerd as its storage driver, on what people learn Docker with. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { fixture } from '../../bench/fixtures/fixtures.js';
import type { LayerTreeNode } from '../../src/core/words.js';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { makeHome, removeHome, TestDaemon } from '../cli/daemon.js';
import { needsFixture } from '../reference/needs.js';
import { describeWith, needsProgram, needsRoot, PATIENCE } from '../support.js';
import { busyboxArchive, needsBusybox } from './busybox.js';
import { Dockerd } from './dockerd.js';

/** dockerd, containerd and runc start a dozen processes for a step: a busy machine takes its time. */
vi.setConfig({ testTimeout: 10 * 60_000 });

let home: string;
let layerd: TestDaemon;
let dockerd: Dockerd;

const needs = [needsRoot(), needsBusybox(), needsProgram('dockerd', 'docker.io'), ...needsFixture('deep')];

/** A docker command that must succeed; its standard output. */
async function docker(...args: string[]): Promise<string> {
  const done = await dockerd.docker(...args);
  expect(done, `docker ${args.join(' ')}: ${done.stderr}${done.stdout}`).toMatchObject({ code: 0 });
  return done.stdout;
}

/** Builds from a Dockerfile and files beside it; what docker said. */
function build(tag: string, dockerfile: string, files: Record<string, string> = {}): Promise<string> {
  const context = join(home, 'context', tag);
  mkdirSync(context, { recursive: true });
  writeFileSync(join(context, 'Dockerfile'), dockerfile);
  for (const [name, content] of Object.entries(files)) writeFileSync(join(context, name), content);
  return docker('build', '--network', 'none', '--tag', tag, context);
}

function runIn(image: string, ...command: string[]): Promise<string> {
  return docker('run', '--rm', '--network', 'none', image, ...command);
}

/** Diff IDs of an image's layers, as Docker knows them. */
async function layersOf(image: string): Promise<string[]> {
  return JSON.parse(await docker('image', 'inspect', '--format', '{{json .RootFS.Layers}}', image)) as string[];
}

/** Diff IDs of everything that layerd has. */
async function stored(): Promise<string[]> {
  return (await layerd.client.layers()).map(({ diffId }) => diffId);
}

/** The steps of a build, and whether each was done or came from the cache. */
function cached(output: string): boolean[] {
  return output
    .split(/^Step /m)
    .slice(1)
    .map((step) => step.includes('Using cache'));
}

const BASE = 'FROM busybox\nENV COLOUR=blue\nRUN echo shared > /shared\n';
const service = (name: string): string => `FROM base\nRUN echo ${name} > /name\nCOPY app /app\nCMD ["cat", "/app"]\n`;

describeWith('dockerd on layerd', needs, () => {
  beforeAll(async () => {
    home = makeHome();
    layerd = await TestDaemon.start(home, ['--gc-interval', '0']);
    dockerd = new Dockerd(home);
    const printed = await dockerd.install(join(home, 'run'));
    expect(printed).toContain(`"storage-driver": "${dockerd.driver}"`);
    await dockerd.start();
    busyboxArchive(join(home, 'busybox.tar'), 'busybox:latest', { Env: ['PATH=/bin'], Cmd: ['sh'] });
  });
  afterAll(async () => {
    await dockerd.remove();
    await layerd.stop();
    removeHome(home);
  });

  it('says who it is', async () => {
    const info = await docker('info');
    expect(info).toContain(`Storage Driver: ${dockerd.driver}`);
    expect(info).toContain(`Root: ${join(home, 'root')}`);
  });

  it('builds a base and two services on it, which share it', async () => {
    await docker('load', '--input', join(home, 'busybox.tar'));
    await build('base', BASE);
    for (const name of ['one', 'two']) await build(name, service(name), { app: `app of ${name}` });
    expect(await runIn('one')).toBe('app of one');
    expect(await runIn('two', 'cat', '/name', '/shared')).toBe('two\nshared\n');
    const [one, two, base] = [await layersOf('one'), await layersOf('two'), await layersOf('base')];
    expect(one).toHaveLength(4);
    expect(one.slice(0, 2)).toEqual(base);
    expect(two.slice(0, 2)).toEqual(base);
    const all = new Set([...one, ...two]);
    expect(all.size).toBe(6);
    // instructions that change no file come as an empty layer, which Docker lets go of again
    await layerd.client.gc({ grace: 0, wait: true });
    expect(new Set(await stored())).toEqual(all);
    // the base is one node of the tree, and one row of df
    const [root] = await layerd.client.layerTree();
    expect(diffIdsOf(root)).toEqual([base[0], [base[1], [one[2], [one[3]]], [two[2], [two[3]]]]]);
    const { rows } = await layerd.client.diskUsage();
    expect(rows.filter(({ kind, id }) => kind === 'layer' && id === base[0])).toHaveLength(1);
    const tree = await layerd.ctl(['layers', '--tree']);
    expect(tree.stdout.split(base[0]?.slice(7, 19) ?? '')).toHaveLength(2);
  });

  it('uses the cache for a second build, and does only the last step anew when only that changed', async () => {
    expect(cached(await build('one', service('one'), { app: 'app of one' }))).toEqual([false, true, true, true]);
    const before = await stored();
    const changed = await build('one-changed', service('one'), { app: 'another app' });
    expect(cached(changed)).toEqual([false, true, false, false]);
    expect(await runIn('one-changed')).toBe('another app');
    await layerd.client.gc({ grace: 0, wait: true });
    const added = (await stored()).filter((layer) => !before.includes(layer));
    expect(added).toEqual([(await layersOf('one-changed')).at(-1)]);
  });

  it('shows history and intermediate images', async () => {
    const history = await docker('history', '--no-trunc', '--format', '{{.CreatedBy}}|{{.Size}}', 'one');
    const rows = history
      .trimEnd()
      .split('\n')
      .map((line) => line.split('|'));
    expect(rows.map(([by]) => by)).toEqual([
      '/bin/sh -c #(nop)  CMD ["cat" "/app"]',
      expect.stringContaining('COPY file:'),
      '/bin/sh -c echo one > /name',
      '/bin/sh -c echo shared > /shared',
      '/bin/sh -c #(nop)  ENV COLOUR=blue',
    ]);
    // instructions that change no file make no layer
    expect([rows[0]?.[1], rows[4]?.[1]]).toEqual(['0B', '0B']);
    expect(rows[2]?.[1]).not.toBe('0B');
    const all = (await docker('images', '--all', '--quiet')).trim().split('\n');
    const named = (await docker('images', '--quiet')).trim().split('\n');
    expect(all.length).toBeGreaterThan(named.length);
  });

  it('builds in stages', async () => {
    const dockerfile =
      'FROM base AS maker\nRUN mkdir /out && echo made > /out/it\nFROM busybox\nCOPY --from=maker /out /out\n';
    await build('staged', dockerfile);
    expect(await runIn('staged', 'sh', '-c', 'cat /out/it; test -e /shared || echo not here')).toBe('made\nnot here\n');
    expect(await layersOf('staged')).toHaveLength(2);
  });

  it('diffs and commits containers', async () => {
    const script = 'echo new > /new; rm /name; echo more >> /shared; mkdir -p /d/e; echo up; sleep 600';
    await docker('run', '--detach', '--name', 'changed', '--network', 'none', 'one', 'sh', '-c', script);
    await expect.poll(() => docker('logs', 'changed'), PATIENCE).toContain('up');
    const diff = (await docker('diff', 'changed')).trimEnd().split('\n').sort();
    expect(diff).toEqual(['A /d', 'A /d/e', 'A /new', 'C /shared', 'D /name']);
    await docker('commit', 'changed', 'committed');
    expect(await layersOf('committed')).toHaveLength(5);
    const left = 'cat /new /shared; test -e /name || echo gone';
    expect(await runIn('committed', 'sh', '-c', left)).toBe('new\nshared\nmore\ngone\n');
    await docker('rm', '--force', 'changed');
  });

  it('saves, and loads only what is missing', async () => {
    const file = join(home, 'two.tar');
    const before = await layersOf('two');
    await docker('save', '--output', file, 'two');
    await docker('rmi', 'two');
    const shown = await dockerd.inTerminal('load', '--input', file);
    const loading = new Set([...shown.stdout.matchAll(/([0-9a-f]{12}): Loading layer/g)].map(([, id]) => id));
    expect([...loading]).toEqual(before.slice(2).map((layer) => layer.slice(7, 19)));
    // Docker checks every digest: what came out is what went in
    expect(await layersOf('two')).toEqual(before);
    expect(await runIn('two')).toBe('app of two');
  });

  it('keeps a door from seeing, and from changing, what is behind the other', async () => {
    const { client } = layerd;
    expect(await client.images()).toEqual([]);
    const [busybox] = await layersOf('busybox');
    const loaded = await client.load(join(home, 'busybox.tar'));
    expect(loaded).toMatchObject({ layersLoaded: 0, layersPresent: 1 });
    const { id } = await client.createContainer('busybox:latest', { name: 'native' });
    const { path } = await client.mount(id);
    writeFileSync(join(path, 'shared'), 'written by another');
    expect(await runIn('one', 'cat', '/shared')).toBe('shared\n');
    expect(await docker('ps', '--all', '--quiet')).toBe('');
    await client.unmount(id);
    await client.removeContainer(id);
    await client.removeImage('busybox:latest');
    await client.gc({ grace: 0, wait: true });
    expect(await stored()).toContain(busybox);
    expect(await runIn('busybox', 'echo', 'still here')).toBe('still here\n');
    expect((await client.why(busybox ?? '')).paths).not.toEqual([]);
    expect((await client.check({})).problems).toEqual([]);
  });

  it('builds 120 steps, each a layer, all from the cache the second time, and anew from the one that changed', async () => {
    const step = (index: number, text: string): string => `COPY ${text} /steps/${index}\n`;
    const many = (last: string): string =>
      `FROM busybox\n${Array.from({ length: 120 }, (_, index) => step(index, index < 119 ? 'text' : last)).join('')}`;
    const files = { text: 'the same in every step', other: 'another text' };
    await build('many', many('text'), files);
    expect(await layersOf('many')).toHaveLength(121);
    expect((await runIn('many', 'ls', '/steps')).trimEnd().split('\n')).toHaveLength(120);
    expect(cached(await build('many', many('text'), files)).slice(1)).toEqual(Array.from({ length: 120 }, () => true));
    const changed = cached(await build('many-changed', many('other'), files));
    expect(changed.slice(1)).toEqual([...Array.from({ length: 119 }, () => true), false]);
    expect((await layersOf('many-changed')).slice(0, -1)).toEqual((await layersOf('many')).slice(0, -1));
    expect(await runIn('many-changed', 'cat', '/steps/0', '/steps/119')).toBe('the same in every stepanother text');
    await docker('rmi', 'many', 'many-changed');
  });

  it('runs a container on 124 layers', async () => {
    const { forms } = await fixture('deep');
    await docker('load', '--input', forms.dockerArchive.path);
    expect(await runIn('localhost/deep:1', '/bin/sh', '-c', 'echo on all of them')).toBe('on all of them\n');
    await docker('rmi', 'localhost/deep:1');
  });

  it('goes on where it was after a restart of either, and after a kill -9 of either', async () => {
    await docker(
      'run',
      '--detach',
      '--name',
      'lasting',
      '--network',
      'none',
      'one',
      'sh',
      '-c',
      'echo kept > /kept; sleep 600',
    );
    await expect.poll(() => docker('diff', 'lasting'), PATIENCE).toContain('A /kept');
    await layerd.stop('SIGKILL');
    layerd = await TestDaemon.start(home, ['--gc-interval', '0']);
    expect(await docker('exec', 'lasting', 'cat', '/kept')).toBe('kept\n');
    await dockerd.stop('SIGKILL');
    await dockerd.start();
    await docker('start', 'lasting');
    expect(await docker('exec', 'lasting', 'cat', '/kept')).toBe('kept\n');
    await layerd.stop();
    layerd = await TestDaemon.start(home, ['--gc-interval', '0']);
    await docker('stop', '--time', '0', 'lasting');
    expect(mountsBelow(join(home, 'run', 'm'))).toEqual([]);
    await dockerd.stop();
    await dockerd.start();
    await docker('start', 'lasting');
    await docker('rm', '--force', 'lasting');
    expect(cached(await build('one', service('one'), { app: 'app of one' }))).toEqual([false, true, true, true]);
    expect((await layerd.client.check({})).problems).toEqual([]);
  });

  it('leaves nothing after prune', async () => {
    await docker('system', 'prune', '--all', '--force');
    expect(await docker('images', '--all', '--quiet')).toBe('');
    await layerd.client.gc({ grace: 0, wait: true });
    expect(await stored()).toEqual([]);
    const { rows } = await layerd.client.diskUsage();
    expect(rows.filter(({ kind }) => kind !== 'metadata')).toEqual([]);
    for (const room of ['l', 's', 't', 'trash']) expect(readdirSync(join(home, 'root', room))).toEqual([]);
    expect(mountsBelow(join(home, 'run'))).toEqual([]);
    expect((await layerd.client.check({})).problems).toEqual([]);
    const plugins = execFileSync('cat', [`/etc/docker/plugins/${dockerd.driver}.spec`], { encoding: 'utf8' });
    expect(plugins).toBe(`unix://${join(home, 'run', 'docker.sock')}\n`);
    expect(readFileSync(join(dockerd.home, 'log'), 'utf8')).not.toMatch(/level=(fatal|panic)/);
  });
});

type Nested = (string | Nested | undefined)[];

/** A tree of diff IDs, children in a fixed order. */
function diffIdsOf(node: LayerTreeNode | undefined): Nested {
  if (node === undefined) return [];
  const children = node.children.map(diffIdsOf);
  return [node.diffId, ...children];
}
