/** layerctl against a real daemon on a real store. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testImage, testLayer, dockerMembers, tarOf } from '../unit/image-synthetic.js';
import { PATIENCE } from '../support.js';
import { smallImage, type SmallImage } from './archives.js';
import {
  cleanEnvironment,
  LAYERCTL,
  LAYERD,
  makeHome,
  outcome,
  removeHome,
  run,
  TestDaemon,
  type Outcome,
} from './daemon.js';

let home: string;
let daemon: TestDaemon;
let app: SmallImage;
let other: SmallImage;
/** The program as a shell runs it. */
const ctl = `'${process.execPath}' '${LAYERCTL}'`;

beforeAll(async () => {
  home = makeHome();
  // without root the copy driver is what auto finds
  daemon = await TestDaemon.start(home, ['--gc-grace', '1h']);
  app = smallImage(home, 'test/app:1', ['base of both', 'the app itself']);
  other = smallImage(home, 'test/other:1', ['base of both', 'another app']);
  for (const { file } of [app, other]) await ok('load', file);
});
afterAll(async () => {
  await daemon.stop();
  removeHome(home);
});

/** Runs a command that must succeed; its standard output. */
async function ok(...args: string[]): Promise<string> {
  const done = await daemon.ctl(args);
  expect(done, done.stderr).toMatchObject({ code: 0 });
  return done.stdout;
}

async function json<T>(...args: string[]): Promise<T> {
  return JSON.parse(await ok(...args, '--json')) as T;
}

function refuses(done: Outcome, code: number, says: string): void {
  expect(done.stderr).toContain(says);
  expect(done.code).toBe(code);
  expect(done.stdout).toBe('');
}

describe('images', () => {
  it('loads a file and prints its refs, then says what was there already', async () => {
    const one = await daemon.ctl(['load', smallImage(home, 'fresh:1', ['fresh base', 'fresh app']).file]);
    expect(one.stdout).toBe('docker.io/library/fresh:1\n');
    expect(one.stderr).toContain('2 layers loaded');
    const two = await daemon.ctl(['load', smallImage(home, 'fresh:2', ['fresh base', 'more']).file]);
    expect(two.stderr).toContain('1 layer loaded');
    expect(two.stderr).toContain('1 already there');
    expect(two.stderr).not.toContain('\u001b');
    await ok('rmi', 'fresh:1', 'fresh:2');
    await ok('gc', '--grace', '0');
  });

  it('loads from standard input, and prints ids alone when it shall be quiet', async () => {
    for (const args of [
      ['load', '-q'],
      ['load', '-', '--quiet'],
    ]) {
      const done = await daemon.ctl(args, { input: app.bytes });
      expect(done).toMatchObject({ code: 0, stdout: `${app.image.id}\n`, stderr: '' });
    }
  });

  it('loads a directory', async () => {
    const dir = join(home, 'layout');
    await ok('save', '--format', 'oci-dir', '-o', dir, 'test/app:1');
    const again = await daemon.ctl(['save', '--format', 'oci-dir', '-o', dir, 'test/app:1']);
    refuses(again, 1, `${dir} is not empty`);
    expect(readdirSync(dir).sort()).toEqual(['blobs', 'index.json', 'oci-layout']);
    expect(await ok('load', dir, '--ref', 'from/layout:1')).toContain('docker.io/from/layout:1');
    await ok('rmi', 'from/layout:1');
  });

  it('lists them', async () => {
    const text = await ok('images');
    expect(text.split('\n')[0]).toMatch(/^REF +IMAGE ID +PLATFORM +CREATED +SIZE +UNIQUE +SHARED$/);
    expect(text).toMatch(new RegExp(`docker.io/test/app:1 +${app.image.id.slice(7, 19)} +linux/amd64 `));
    const ids = (await ok('images', '-q')).trim().split('\n');
    expect(ids.sort()).toEqual([app.image.id, other.image.id].sort());
    const images = await json<{ id: string; unique: number }[]>('images');
    expect(images.find(({ id }) => id === other.image.id)).toMatchObject({ refs: ['docker.io/test/other:1'] });
  });

  it('shows history and everything else of one', async () => {
    expect(await ok('history', 'test/app:1')).toMatch(/^LAYER +CREATED +CREATED BY +SIZE +COMMENT\n/);
    const [image] = await json<{ config: { rootfs: { diff_ids: string[] } } }[]>('inspect', 'test/app:1');
    expect(image?.config.rootfs.diff_ids).toEqual(app.image.layers.map(({ diffId }) => diffId));
    const [layer] = await json<{ diffId: string; images: string[] }[]>('inspect', app.image.layers[0]?.diffId ?? '');
    expect(layer?.images.sort()).toEqual([app.image.id, other.image.id].sort());
  });

  it('draws the tree of layers, the shared one once', async () => {
    const [base, top] = app.image.layers.map(({ diffId }) => diffId.slice(7, 19));
    const text = await ok('layers', '--tree');
    expect(text.match(new RegExp(base ?? '', 'g'))).toHaveLength(1);
    expect(text).toMatch(new RegExp(`^${base}.*\n(├─|└─) .*`, 'm'));
    expect(text).toMatch(new RegExp(`(├─|└─) ${top}  .*docker.io/test/app:1`));
    expect((await ok('layers', '-q')).trim().split('\n')).toHaveLength(3);
  });

  it('tags and removes', async () => {
    await ok('tag', 'test/app:1', 'test/app:2');
    expect(await ok('rmi', 'test/app:2')).toBe('Untagged: docker.io/test/app:2\n');
  });

  it('saves whole files only', async () => {
    const file = join(home, 'saved.tar');
    const saved = await daemon.ctl(['save', '-o', file, 'test/app:1', 'test/other:1']);
    expect(saved).toMatchObject({ code: 0, stdout: '' });
    const names = execFileSync('tar', ['-tf', file], { encoding: 'utf8' });
    expect(names).toContain('manifest.json');
    refuses(await daemon.ctl(['save', '-o', join(home, 'none.tar'), 'test/nope:1']), 3, 'nope');
    expect(existsSync(join(home, 'none.tar'))).toBe(false);
    const piped = await daemon.ctl(['save', 'test/app:1', 'test/other:1']);
    expect(piped.bytes.equals(readFileSync(file))).toBe(true);
  });
});

describe('containers', () => {
  it('live from create to rm', async () => {
    const id = await ok('create', 'test/app:1', '--name', 'box', '--label', 'a=b', '--label', 'c');
    expect(id).toMatch(/^[0-9a-f]{64}\n$/);
    const path = await ok('mount', 'box');
    expect(path).toMatch(/^\/.*[^/\n]\n$/);
    const root = path.trimEnd();
    expect(readFileSync(join(root, 'the app itself'), 'utf8')).toBe('the app itself');
    writeFileSync(join(root, 'new'), 'new');
    expect(await ok('changes', 'box')).toMatch(/^A \/new$/m);
    expect(await ok('ps', '-s')).toMatch(/box +test\/app:1 .* mounted /);
    const [shown] = await json<{ labels: object; mounts: number }[]>('ps');
    expect(shown).toMatchObject({ name: 'box', labels: { a: 'b', c: '' }, mounts: 1, path: root });
    await ok('unmount', 'box');
    const commit = await daemon.ctl(['commit', 'box', 'test/new:1', '-m', 'mine', '-c', 'USER me', '-a', 'I']);
    expect(commit.stdout).toMatch(/^sha256:[0-9a-f]{64}\n$/);
    expect(commit.stderr).toContain('new layer');
    const [image] = await json<{ config: { config: { User: string } } }[]>('inspect', 'test/new:1');
    expect(image?.config.config.User).toBe('me');
    const tar = join(home, 'diff.tar');
    expect(await ok('diff', 'box', '-o', tar)).toBe('');
    expect(execFileSync('tar', ['-tf', tar], { encoding: 'utf8' })).toContain('new');
    const exported = await daemon.ctl(['export', 'box']);
    const names = execFileSync('tar', ['-t'], { input: exported.bytes, encoding: 'utf8' });
    expect(names).toMatch(/^new$/m);
    expect(names).toMatch(/^base of both$/m);
    expect(await ok('rm', 'box')).toBe(id);
    await ok('rmi', 'test/new:1');
  });

  it('are named several at a time; one that fails does not keep the others', async () => {
    await ok('create', 'test/app:1', '--name', 'one');
    await ok('create', 'test/app:1', '--name', 'two');
    const done = await daemon.ctl(['rm', 'one', 'nope', 'two']);
    expect(done.code).toBe(3);
    expect(done.stdout.trim().split('\n')).toHaveLength(2);
    expect(done.stderr).toContain('nope');
    expect(await ok('ps', '-q')).toBe('');
  });
});

describe('exit codes and complaints', () => {
  it('0 and help', async () => {
    const help = await run(LAYERCTL, ['--help']);
    expect(help.code).toBe(0);
    const commands =
      'load save images inspect history tag rmi layers create ps mount unmount changes diff export commit rm gc check why df lease events info version completion';
    for (const command of commands.split(' ')) expect(help.stdout).toMatch(new RegExp(`^  ${command}\\b`, 'm'));
    expect(help.stdout).toContain('Exit codes: 0 done, 1 error, 2 wrong usage, 3 not found');
    expect(help.stdout).not.toContain('__names');
  });

  it('1 for what is wrong with the data', async () => {
    const file = join(home, 'broken.tar');
    const layer = testLayer('a layer');
    const image = testImage([layer]);
    const lie = { ...image, layers: [{ ...layer, tar: testLayer('another').tar }] };
    writeFileSync(file, tarOf(dockerMembers([{ image: lie, tags: ['lie:1'] }])));
    refuses(await daemon.ctl(['load', file]), 1, layer.diffId.slice(7, 19));
  });

  it('2 for wrong usage', async () => {
    refuses(await daemon.ctl(['nonsense']), 2, 'unknown command');
    refuses(await daemon.ctl(['create']), 2, "missing required argument 'image'");
    refuses(await daemon.ctl(['images', '--nope']), 2, 'unknown option');
    refuses(await daemon.ctl(['save', '--format', 'zip', 'x']), 2, 'there is no format zip');
    refuses(await daemon.ctl(['save', '--json', 'x']), 2, '--json needs -o FILE');
    refuses(await daemon.ctl(['gc', '--grace', 'soon']), 2, 'soon is not a duration');
    refuses(await daemon.ctl(['create', 'x', '--size', 'big']), 2, 'big is not a size');
    refuses(await daemon.ctl(['events', '--since', 'x']), 2, 'x is not a sequence number');
    refuses(await daemon.ctl(['mount', '']), 2, 'the argument <container> is empty');
    refuses(await daemon.ctl(['rmi', 'test/app:1', '']), 2, 'the argument <image> is empty');
    refuses(await daemon.ctl(['pull', '--platform', 'bogus', '127.0.0.1:1/x']), 2, '"bogus" is not a platform');
    refuses(await daemon.ctl(['copy', 'docker-archive:/nope', 'oci:x']), 2, '`layerctl load` and then `layerctl save`');
  });

  it('2 for places that cannot be written to, with what is wrong with them', async () => {
    const [missing, file, dir] = [join(home, 'missing', 'x'), join(home, 'a-file'), join(home, 'a-dir')];
    const socket = join(home, 'a-socket');
    writeFileSync(file, '');
    mkdirSync(dir);
    const listening = createServer().listen(socket);
    await once(listening, 'listening');
    const save = ['save', 'test/app:1', '-o'];
    refuses(await daemon.ctl([...save, missing]), 2, `${missing}: its directory does not exist`);
    refuses(await daemon.ctl([...save, dir]), 2, `${dir}: it is a directory`);
    refuses(await daemon.ctl([...save, join(file, 'x')]), 2, 'a part of its path is no directory');
    refuses(await daemon.ctl([...save, socket]), 2, `${socket}: it is a socket`);
    refuses(await daemon.ctl([...save, '/dev/full']), 1, 'its file system is full');
    refuses(await daemon.ctl([...save, missing, '--format', 'oci-dir']), 2, 'its directory does not exist');
    const backup = await daemon.ctl(['backup', '-o', missing]);
    refuses(backup, 2, 'its directory does not exist');
    expect(backup.stderr).toContain('Create the directory');
    listening.close();
  });

  it('1 for registries that fail, and says that copy does not look here', async () => {
    const here = '127.0.0.1:1/here:1';
    await ok('tag', 'test/app:1', here);
    const copying = await daemon.ctl(['copy', here, `oci:${join(home, 'copied')}`]);
    refuses(copying, 1, '`layerctl push` do');
    await ok('rmi', here);
    const failing = await daemon.ctl(['copy', here, `oci:${join(home, 'copied')}`]);
    refuses(failing, 1, 'ECONNREFUSED');
    expect(failing.stderr).not.toContain('layerctl push');
    expect((await daemon.ctl(['push', 'test/app:1', here])).code).toBe(1);
  });

  it('3 for what is not there, with what to do next', async () => {
    const done = await daemon.ctl(['create', 'test/nope:1']);
    refuses(done, 3, 'nope');
    expect(done.stderr.split('\n')).toHaveLength(3);
    expect(done.stderr).toMatch(/^layerctl: .*\n {2}\S/);
    const inJson = await daemon.ctl(['create', 'test/nope:1', '--json']);
    expect(JSON.parse(inJson.stderr)).toMatchObject({ error: { code: 'IMAGE_NOT_FOUND' } });
  });

  it('4 for what is in use', async () => {
    await ok('create', 'test/app:1', '--name', 'user');
    refuses(await daemon.ctl(['rmi', 'test/app:1']), 4, 'user');
    refuses(await daemon.ctl(['create', 'test/app:1', '--name', 'user']), 4, 'user');
    await ok('mount', 'user');
    const mounted = await daemon.ctl(['rm', 'user']);
    refuses(mounted, 4, 'mounted');
    expect(mounted.stderr).toContain('-f (--force)');
    await ok('rm', '-f', 'user');
  });

  it('5 when nobody answers', async () => {
    const nobody = { env: { LAYERD_SOCKET: join(home, 'nobody') } };
    refuses(await daemon.ctl(['images'], nobody), 5, 'systemctl start layerd');
    const named = await run(LAYERCTL, ['images', '--socket', daemon.socket]);
    expect(named.code).toBe(0);
    const version = await daemon.ctl(['version'], nobody);
    expect(version).toMatchObject({ code: 0, stdout: expect.stringContaining('does not answer') as string });
  });

  it('6 when stored bytes are damaged', async () => {
    await ok('gc', '--grace', '0');
    expect(await ok('check', '-q')).toBe('');
    const layers = join(home, 'root', 'l');
    const files = readdirSync(layers, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    const catalog = files.find(({ name }) => name === 'catalog');
    const path = join(catalog?.parentPath ?? '', 'catalog');
    truncateSync(path, statSync(path).size - 1);
    const done = await daemon.ctl(['check']);
    expect(done.code).toBe(6);
    expect(done.stdout).toMatch(/^damage: /m);
    // loading again heals
    for (const { file } of [app, other]) await ok('load', file);
    await ok('check');
  });
});

describe('the store', () => {
  it('tells what occupies the disk and why', async () => {
    expect(await ok('df')).toMatch(/^total .*, reclaimable /m);
    expect(await ok('df', '-v')).toContain('docker.io/test/app:1');
    expect(await ok('why', 'test/app:1')).toContain('docker.io/test/app:1');
    const root = join(home, 'root');
    for (const name of ['', 'db', 'lock', 'l', 's', 't', 'b', 'e', 'trash']) {
      expect(await ok('why', join(root, name))).toContain('kept by 1 root');
    }
    const [layer = ''] = readdirSync(join(root, 'l'));
    expect(await ok('why', join(root, 'l', layer, 'catalog'))).toMatch(/it is layer sha256:.*docker.io\/test/);
    expect(await ok('why', join(root, '../run/l', layer, 'd'))).toMatch(/it is layer sha256:.*docker.io\/test/);
    expect(await ok('why', join(root, 'stray'))).toContain('no row accounts for it');
    refuses(await daemon.ctl(['why', '/etc/passwd']), 1, 'not below the root');
    refuses(await daemon.ctl(['history', 'app']), 3, 'There is docker.io/test/app:1');
  });

  it('collects, and says before what would go', async () => {
    await ok('gc', '--grace', '0');
    await ok('load', smallImage(home, 'garbage:1', ['base of both', 'garbage']).file);
    await ok('rmi', 'garbage:1');
    const dry = await json<{ removed: { id: string }[]; bytes: number }>('gc', '--dry-run', '--grace', '0');
    expect(dry.removed.map(({ id }) => id)).toEqual([testLayer('garbage').diffId]);
    expect(await ok('gc')).toMatch(/^0 things are gone, 0 B\n1 more, .* go when their grace period is over/);
    const done = await json<{ removed: { id: string }[]; bytes: number }>('gc', '--grace', '0', '--wait');
    expect(done.removed.map(({ id }) => id).sort()).toEqual(dry.removed.map(({ id }) => id).sort());
    expect(done.bytes).toBe(dry.bytes);
  });

  it('keeps leases', async () => {
    const id = (await ok('lease', 'create', '--ttl', '1h', '--hold', app.image.id)).trim();
    expect(await ok('lease', 'ls')).toContain(id);
    await ok('lease', 'rm', id);
    const again = await daemon.ctl(['lease', 'rm', id]);
    refuses(again, 3, id);
    expect(again.stderr).toContain('It may have expired');
  });

  it('tells what happened, and goes on until it is stopped', async () => {
    const events = (await ok('events', '--json')).trim().split('\n');
    const last = JSON.parse(events.at(-1) ?? '') as { seq: number };
    const follower = spawn(process.execPath, [LAYERCTL, 'events', '-f', '--since', String(last.seq), '--json'], {
      env: cleanEnvironment({ LAYERD_SOCKET: daemon.socket }),
    });
    let text = '';
    follower.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
    await ok('tag', 'test/app:1', 'test/seen:1');
    await expect.poll(() => text, PATIENCE).toContain('image.tag');
    const ended = new Promise((resolve) => follower.once('close', resolve));
    follower.kill('SIGINT');
    expect(await ended).toBe(130);
    await ok('rmi', 'test/seen:1');
  });

  it('tells of itself', async () => {
    expect(await ok('info')).toMatch(/^driver: +(erofs|overlay2|copy): /m);
    expect(await json('version')).toEqual({ client: '0.1.0', server: '0.1.0' });
  });
});

/** Runs a command on a terminal of 100 columns; all that appears on it. */
function onTerminal(command: string): string {
  const shell = `stty cols 100 rows 30; ${command}; echo "exit $?"`;
  const env = cleanEnvironment({ LAYERD_SOCKET: daemon.socket });
  return spawnSync('script', ['-qec', shell, '/dev/null'], { env, encoding: 'utf8' }).stdout;
}

describe('terminals and pipes', () => {
  it('refuses to write an archive on a screen', () => {
    expect(onTerminal(`${ctl} save test/app:1`)).toMatch(/not written to a terminal[^]*exit 2/);
    expect(onTerminal(`${ctl} export test/app:1`)).toMatch(/not written to a terminal[^]*exit 2/);
  });

  it('asks for a file when nothing is piped in', () => {
    expect(onTerminal(`${ctl} load`)).toMatch(/no archive on standard input[^]*exit 2/);
  });

  it('draws bars on a terminal, and none with -q', async () => {
    const big = smallImage(home, 'test/big:1', ['x'.repeat(3_000_000)]);
    expect(onTerminal(`${ctl} load ${big.file}`)).toMatch(/layer [0-9a-f]{12} .*\[=+.*3\.00 MB/);
    await ok('rmi', 'test/big:1');
    expect(onTerminal(`${ctl} load -q ${big.file}`)).not.toContain('[=');
    await ok('rmi', 'test/big:1');
  });

  it('gives up when it is interrupted, and so does the daemon', async () => {
    const loading = spawn(process.execPath, [LAYERCTL, 'load'], {
      env: cleanEnvironment({ LAYERD_SOCKET: daemon.socket }),
    });
    loading.stdin.write(app.bytes.subarray(0, 1_000));
    await expect
      .poll(async () => (await daemon.client.metrics()).includes('layerd_http_requests_running 2'), PATIENCE)
      .toBe(true);
    const ended = outcome(loading);
    loading.kill('SIGINT');
    expect(await ended).toMatchObject({ code: 130, stdout: '' });
    const cancelled = { msg: 'request refused', route: '/v1/images/load', code: 'CANCELLED' };
    await expect.poll(() => daemon.log, PATIENCE).toContainEqual(expect.objectContaining(cancelled));
  });

  it('is content with a reader that stops reading', () => {
    const env = cleanEnvironment({ LAYERD_SOCKET: daemon.socket });
    const shell = `set -o pipefail; ${ctl} inspect test/app:1 test/app:1 | true`;
    const { status, stderr } = spawnSync('bash', ['-c', shell], { env, encoding: 'utf8' });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });
});

/** What bash offers after these words, which it breaks at colons. */
async function offers(...typed: string[]): Promise<string[]> {
  const words = typed.flatMap((word) => word.split(/(:)/).filter((part, at) => part !== '' || at === 0));
  const script = join(home, 'completion.bash');
  writeFileSync(script, await ok('completion', 'bash'));
  const bin = join(home, 'bin');
  mkdirSync(bin, { recursive: true });
  writeFileSync(join(bin, 'layerctl'), `#!/bin/sh\nexec '${process.execPath}' '${LAYERCTL}' "$@"\n`, { mode: 0o755 });
  const line = words.map((word) => `'${word}'`).join(' ');
  const shell = `source ${script}; COMP_WORDS=(layerctl ${line}); COMP_CWORD=${words.length}; COMP_LINE='layerctl ${typed.join(' ')}'; COMP_POINT=\${#COMP_LINE}; _layerctl; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const env = cleanEnvironment({ LAYERD_SOCKET: daemon.socket, PATH: `${bin}:${process.env['PATH']}` });
  return execFileSync('bash', ['-c', shell], { env, encoding: 'utf8' }).trim().split('\n');
}

describe('backup', () => {
  it('is made by the daemon, and layerd restore puts it back', async () => {
    const own = makeHome();
    let serving = await TestDaemon.start(own);
    try {
      await serving.client.load(app.file);
      const file = join(own, 'backup');
      expect(await serving.ctl(['backup', '-o', file])).toMatchObject({ code: 0 });
      await serving.client.removeImage('test/app:1');
      await serving.stop();
      const places = ['--root', join(own, 'root'), '--run', join(own, 'run')];
      expect(await run(LAYERD, [...places, 'restore', file])).toMatchObject({ code: 0 });
      serving = await TestDaemon.start(own);
      expect((await serving.client.image('test/app:1')).id).toBe(app.image.id);
    } finally {
      await serving.stop();
      removeHome(own);
    }
  }, 180_000);
});

describe('completion', () => {
  it('offers commands, options, and names of what is there', async () => {
    expect(await offers('im')).toEqual(['images']);
    expect(await offers('lease', '')).toEqual(['create', 'ls', 'rm']);
    expect(await offers('gc', '--d')).toEqual(['--dry-run']);
    expect(await offers('images', '--js')).toEqual(['--json']);
    expect(await offers('create', 'docker.io/test/a')).toEqual(['docker.io/test/app:1']);
    expect(await offers('create', 'docker.io/test/app:')).toEqual(['1']);
    expect(await offers('--socket', daemon.socket, 'im')).toEqual(['images']);
    expect(await offers('save', '--format', 'oci')).toEqual(['oci', 'oci-dir']);
    expect(await offers('migrate', '--to', '')).toEqual(['erofs', 'overlay2', 'btrfs', 'copy']);
    expect(await offers('save', '-o', `${home}/completion.b`)).toEqual([`${home}/completion.bash`]);
    expect(await offers('create', '--name', '')).toEqual(['']);
    expect(await offers('create', '--name', 'x', 'docker.io/test/a')).toEqual(['docker.io/test/app:1']);
    expect(await offers('lease', 'create', '--ttl', '1h', '--h')).toEqual(['--hold']);
    await ok('create', 'test/app:1', '--name', 'complete-me');
    expect(await offers('rm', 'comp')).toEqual(['complete-me']);
    await ok('rm', 'complete-me');
  });

  it('speaks zsh and fish', async () => {
    expect(await ok('completion', 'zsh')).toMatch(/^#compdef layerctl\n/);
    expect(await ok('completion', 'fish')).toContain(
      "complete -c layerctl -n '__fish_seen_subcommand_from rm' -a '(layerctl __names containers 2>/dev/null)'",
    );
    refuses(await daemon.ctl(['completion', 'tcsh']), 2, 'tcsh');
  });
});
