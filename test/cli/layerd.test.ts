/** The daemon as a process: configuration, one per root, signals, service manager, access. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LayerdClient } from '../../src/client/index.js';
import { describeWith, needsProgram, needsRoot, PATIENCE } from '../support.js';
import { smallImage } from './archives.js';
import { cleanEnvironment, LAYERCTL, LAYERD, makeHome, outcome, removeHome, run, TestDaemon } from './daemon.js';

let home: string;
const daemons: TestDaemon[] = [];
const children: ChildProcess[] = [];

beforeEach(() => {
  home = makeHome();
});
afterEach(async () => {
  for (const daemon of daemons.splice(0)) await daemon.stop('SIGKILL');
  for (const child of children.splice(0)) child.kill('SIGKILL');
  removeHome(home);
});

async function start(args: readonly string[] = [], env: NodeJS.ProcessEnv = {}): Promise<TestDaemon> {
  const daemon = await TestDaemon.start(home, args, env);
  daemons.push(daemon);
  return daemon;
}

/** A datagram socket that receives as systemd would; every message so far. */
async function receiver(name: string): Promise<string[]> {
  const script = [
    'import json, socket, sys',
    'name = sys.argv[1]',
    's = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)',
    's.bind("\\0" + name[1:] if name.startswith("@") else name)',
    'print(json.dumps("listening"), flush=True)',
    'while True: print(json.dumps(s.recv(65536).decode()), flush=True)',
  ].join('\n');
  const python = spawn('python3', ['-c', script, name]);
  children.push(python);
  const messages: string[] = [];
  createInterface(python.stdout).on('line', (line) => messages.push(JSON.parse(line) as string));
  await expect.poll(() => messages.shift(), PATIENCE).toBe('listening');
  return messages;
}

describe('configuration', () => {
  it('is printed with where it came from', async () => {
    const file = join(home, 'config.toml');
    writeFileSync(file, '[gc]\ngrace = "3s"\n');
    const args = ['config', '--config', file, '--log-level', 'debug'];
    const toml = await run(LAYERD, args, { env: { LAYERD_EVENTS_MAX: '500', LAYERD_EVNTS: '1' } });
    expect(toml.code).toBe(0);
    expect(toml.stdout).toContain(`grace = "3s"  # ${file}:2\n`);
    expect(toml.stdout).toContain('max = 500  # LAYERD_EVENTS_MAX\n');
    expect(toml.stdout).toContain('log_level = "debug"  # --log-level\n');
    expect(toml.stderr).toBe('layerd: LAYERD_EVNTS is not a setting (`layerd --help` lists the variables.)\n');
    const data = JSON.parse((await run(LAYERD, [...args, '--json'])).stdout) as { key: string; value: unknown }[];
    expect(data.find(({ key }) => key === 'gc.grace')).toMatchObject({ value: 3000, where: `${file}:2` });
  });

  it('that is wrong keeps the daemon from starting, and names the line', async () => {
    const file = join(home, 'config.toml');
    writeFileSync(file, 'root = "/r"\n\ndriver = "zfs"\n');
    const done = await run(LAYERD, ['--config', file]);
    expect(done.code).toBe(1);
    expect(done.stderr).toMatch(new RegExp(`^layerd: ${file}:3: driver is "zfs", expected one of .*\n$`));
    const usage = await run(LAYERD, ['--nope']);
    expect(usage.code).toBe(2);
  });

  it('has every setting in the help', async () => {
    const { stdout } = await run(LAYERD, ['--help']);
    for (const flag of [
      '--root',
      '--run',
      '--driver',
      '--socket-group',
      '--log-level',
      '--metrics-address',
      '--gc-interval',
    ]) {
      expect(stdout).toContain(`${flag} <value>`);
    }
    expect((await run(LAYERD, ['version'])).stdout).toMatch(/^layerd \d+\.\d+\.\d+ \(Node.js v/);
  });
});

describe('a daemon', () => {
  it('is alone on its root, and the other is told whose it is', async () => {
    const first = await start();
    const second = await run(LAYERD, ['--root', join(home, 'root'), '--run', join(home, 'run2')]);
    expect(second.code).toBe(1);
    const [json, ...more] = second.stderr.trim().split('\n');
    const said = JSON.parse(json ?? '') as { error: string };
    expect(said).toMatchObject({ level: 'fatal', msg: 'cannot start', code: 'STORE_LOCKED' });
    expect(said.error).toMatch(new RegExp(`\\b${first.pid}\\b`));
    expect(more).toEqual([]);
    expect(json).not.toContain('"stack"');
    const { stdout } = spawnSync(
      'script',
      [
        '-qec',
        `'${process.execPath}' '${LAYERD}' --root '${join(home, 'root')}' --run '${join(home, 'run2')}'`,
        '/dev/null',
      ],
      { env: cleanEnvironment(), encoding: 'utf8' },
    );
    expect(stdout).toMatch(/^layerd: .* \(.*\)\r\n$/);
    expect(await first.client.health()).toEqual({ ok: true, problems: [] });
  });

  it('does not take the run directory or the socket of another', async () => {
    const first = await start();
    const second = await run(LAYERD, ['--root', join(home, 'root2'), '--run', join(home, 'run')]);
    expect(second.code).toBe(1);
    expect(second.stderr).toContain('RUN_IN_USE');
    expect(second.stderr).toContain(`another layerd (pid ${first.pid}) has the run directory`);
    const elsewhere = ['--root', join(home, 'root2'), '--run', join(home, 'run2'), '--http-socket', first.socket];
    const third = await run(LAYERD, elsewhere);
    expect(third.code).toBe(1);
    expect(third.stderr).toContain('SOCKET_IN_USE');
  });

  it('takes the place of one that was killed, and its socket', async () => {
    const first = await start();
    await first.stop('SIGKILL');
    expect(existsSync(first.socket)).toBe(true);
    const second = await start();
    expect((await second.info()).pid).toBe(second.pid);
  });

  it('stops in good order: finishes what runs, removes its socket, exits with 0', async () => {
    const daemon = await start();
    const { file, bytes } = smallImage(home, 'test/app:1', ['one', 'two']);
    expect(statSync(file).size).toBe(bytes.length);
    // an upload that is under way when the signal comes
    const slow = (async function* () {
      yield bytes.subarray(0, 700);
      await sleep(600);
      yield bytes.subarray(700);
    })();
    const loading = daemon.client.load(slow);
    await sleep(200);
    daemon.signal('SIGTERM');
    expect((await loading).layersLoaded).toBe(2);
    const ended = await daemon.stop();
    expect(ended).toMatchObject({ code: 0, signal: null });
    expect(existsSync(daemon.socket)).toBe(false);
    expect(daemon.log.map(({ msg }) => msg)).toEqual(expect.arrayContaining(['serving', 'stopping', 'stopped']));
  });

  it('gives up what does not finish in time', async () => {
    const daemon = await start(['--drain-timeout', '300ms']);
    const endless = (async function* () {
      for (;;) {
        yield Buffer.alloc(512);
        await sleep(50);
      }
    })();
    const loading = daemon.client.load(endless).catch((error: unknown) => error);
    await sleep(200);
    const began = performance.now();
    expect(await daemon.stop()).toMatchObject({ code: 0 });
    expect(performance.now() - began).toBeLessThan(5_000);
    expect(await loading).toBeInstanceOf(Error);
  });

  it('reads its settings again at SIGHUP, and says what needs a restart', async () => {
    const file = join(home, 'config.toml');
    writeFileSync(file, 'log_level = "info"\n');
    const daemon = await start(['--config', file]);
    const { socket } = daemon;
    writeFileSync(file, 'log_level = "debug"\nkeep_blobs = true\n[gc]\ninterval = "1h"\n');
    daemon.signal('SIGHUP');
    expect(await daemon.logged('settings reloaded')).toMatchObject({
      changed: { log_level: 'debug', 'gc.interval': 3_600_000 },
      needs_restart: ['keep_blobs'],
    });
    await new LayerdClient({ socket }).health();
    await daemon.logged('request finished');
    expect(daemon.log.findLast(({ route }) => route === '/v1/health')).toMatchObject({ level: 'debug' });
    writeFileSync(file, 'log_level = "loud"\n');
    daemon.signal('SIGHUP');
    expect(await daemon.logged('settings not reloaded')).toMatchObject({ code: 'INVALID_CONFIG' });
    expect(await daemon.client.health()).toMatchObject({ ok: true });
  });

  it('serves metrics on the loopback where it is asked to', async () => {
    const port = 20_000 + Math.floor(Math.random() * 10_000);
    const daemon = await start(['--metrics-address', `127.0.0.1:${port}`]);
    const answer = await fetch(`http://127.0.0.1:${port}/metrics`);
    expect(answer.status).toBe(200);
    const text = await answer.text();
    expect(text).toContain('layerd_http_connections');
    expect((await fetch(`http://127.0.0.1:${port}/v1/images`)).status).toBe(404);
    expect(text.split('\n').filter((line) => line.startsWith('# TYPE')).length).toBe(
      new Set(text.split('\n').filter((line) => line.startsWith('# TYPE'))).size,
    );
    await daemon.stop();
    await expect(fetch(`http://127.0.0.1:${port}/metrics`)).rejects.toThrow();
  });

  it('keeps nothing of a client that hangs up in the middle of an upload', async () => {
    const daemon = await start();
    const { bytes } = smallImage(home, 'test/app:1', ['one', 'two']);
    const before = (await daemon.client.diskUsage()).rows.map(({ kind }) => kind);
    const client = connect(daemon.socket);
    client.write(`POST /v1/images/load HTTP/1.1\r\nhost: x\r\ncontent-length: ${bytes.length}\r\n\r\n`);
    client.write(bytes.subarray(0, bytes.length - 3_000));
    await sleep(200);
    client.destroy();
    expect(await daemon.logged('request refused')).toMatchObject({ code: 'CANCELLED', route: '/v1/images/load' });
    await daemon.client.gc({ grace: 0, wait: true });
    expect(await daemon.client.layers()).toEqual([]);
    expect(await daemon.client.leases()).toEqual([]);
    expect((await daemon.client.diskUsage()).rows.map(({ kind }) => kind)).toEqual(before);
  });
});

describeWith('mounts', [needsRoot()], () => {
  it('outlive the daemon, whether it stops or dies', async () => {
    const first = await start();
    const { file } = smallImage(home, 'test/app:1', ['one', 'two']);
    await first.client.load(file);
    await first.client.createContainer('test/app:1', { name: 'box' });
    const { path } = await first.client.mount('box');
    writeFileSync(join(path, 'before'), 'x');
    await first.stop();
    expect(readFileSync(join(path, 'two'), 'utf8')).toBe('two');
    writeFileSync(join(path, 'meanwhile'), 'x');
    const second = await start();
    expect(await second.client.mount('box')).toEqual({ path, mounts: 2 });
    await second.stop('SIGKILL');
    expect(readFileSync(join(path, 'meanwhile'), 'utf8')).toBe('x');
    const third = await start();
    expect(await third.client.unmount('box')).toEqual({ mounts: 1 });
    expect(await third.client.unmount('box')).toEqual({ mounts: 0 });
    expect(existsSync(join(path, 'two'))).toBe(false);
    await third.client.removeContainer('box');
  });
});

describe('requests that are sent again', () => {
  const requests: ((client: LayerdClient) => Promise<unknown>)[] = [
    (client) => client.createContainer('test/app:1', { name: 'box', key: 'create' }),
    (client) => client.mount('box', { key: 'mount' }),
    (client) => client.mount('box', { key: 'another' }),
    (client) => client.unmount('box', { key: 'unmount' }),
    (client) => client.unmount('box', { key: 'the last' }),
    (client) => client.removeContainer('box', { key: 'rm' }),
    (client) => client.createLease({ id: 'lease', ttlMs: 60_000, key: 'lease' }),
    (client) => client.removeLease('lease', { key: 'release' }),
    (client) => client.removeImage('test/app:1', { key: 'rmi' }),
  ];

  it('take effect once and are answered alike, also by a daemon that was started again', async () => {
    const first = await start();
    await first.client.load(smallImage(home, 'test/app:1', ['one']).file);
    const answers: unknown[] = [];
    for (const request of requests) {
      answers.push(await request(first.client));
      expect(await request(first.client)).toEqual(answers.at(-1));
    }
    expect(answers.slice(1, 5)).toMatchObject([{ mounts: 1 }, { mounts: 2 }, { mounts: 1 }, { mounts: 0 }]);
    expect(answers.at(-1)).toMatchObject({ untagged: ['docker.io/test/app:1'] });
    await first.stop('SIGKILL');
    const second = await start();
    for (const [index, request] of requests.entries()) expect(await request(second.client)).toEqual(answers[index]);
    await expect(second.client.mount('box', { key: 'rm' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(second.client.mount('box')).rejects.toMatchObject({ code: 'CONTAINER_NOT_FOUND' });
  });
});

describeWith('access', [needsRoot(), needsProgram('python3')], () => {
  const nobody = 65_534;

  /** layerctl as another user. */
  function asNobody(daemon: TestDaemon, ...args: string[]): ReturnType<typeof outcome> {
    const env = cleanEnvironment({ LAYERD_SOCKET: daemon.socket });
    return outcome(spawn(process.execPath, [LAYERCTL, ...args], { env, uid: nobody, gid: nobody }));
  }

  beforeEach(() => chmodSync(home, 0o755));

  it('is for root, unless there is a group', async () => {
    const daemon = await start();
    const refused = await asNobody(daemon, 'images');
    expect(refused).toMatchObject({ code: 1, stdout: '' });
    expect(refused.stderr).toMatch(/you may not connect[^]*socket_group/);
    await daemon.stop();
    const open = await start(['--socket-group', String(nobody)]);
    expect(await asNobody(open, 'images')).toMatchObject({ code: 0 });
    await expect
      .poll(() => open.log.find(({ route }) => route === '/v1/images'), PATIENCE)
      .toMatchObject({ peer_uid: nobody });
  });

  it('is checked by the daemon too, where the mode of the socket lets everybody in', async () => {
    const daemon = await start();
    chmodSync(daemon.socket, 0o666);
    expect((await asNobody(daemon, 'images')).code).not.toBe(0);
    expect(await daemon.logged('connection refused')).toMatchObject({ peer_uid: nobody, level: 'warn' });
  });

  it('lets a member load what he may read, by descriptor, and nothing else', async () => {
    const daemon = await start(['--socket-group', String(nobody)]);
    const { file, image } = smallImage(home, 'test/app:1', ['one']);
    chownSync(file, nobody, nobody);
    chmodSync(file, 0o600);
    expect(await asNobody(daemon, 'load', '-q', file)).toMatchObject({ code: 0, stdout: `${image.id}\n` });
    // a mere name of a file (O_PATH) needs no right to read it, and gives none
    const secret = smallImage(home, 'test/secret:1', ['secret']).file;
    chmodSync(secret, 0o600);
    const script = [
      'import os, socket, sys',
      `fd = os.open(${JSON.stringify(secret)}, os.O_PATH)`,
      's = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])',
      `s.sendall(b"POST /v1/images/load HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\ncontent-length: 0\\r\\nx-layerd-fd: %d\\r\\n\\r\\n" % fd)`,
      'print(b"".join(iter(lambda: s.recv(65536), b"")).decode())',
    ].join('\n');
    const python = spawn('python3', ['-c', script, daemon.socket], { uid: nobody, gid: nobody });
    const answer = await outcome(python);
    expect(answer.stdout, answer.stderr).toContain('it was not opened for reading');
    expect(await daemon.client.images()).toHaveLength(1);
  });
});

describeWith(
  'the service manager',
  [needsRoot(), needsProgram('python3'), needsProgram('systemd-socket-activate', 'systemd')],
  () => {
    it.each(['a path', 'the abstract namespace'])('is told of start, health, reload and stop (%s)', async (where) => {
      const name = where === 'a path' ? join(home, 'notify') : `@layerd-test-${process.pid}`;
      const messages = await receiver(name);
      const env = { NOTIFY_SOCKET: name, WATCHDOG_USEC: '400000' };
      const daemon = await start([], env);
      await expect.poll(() => messages.filter((text) => text === 'WATCHDOG=1').length, PATIENCE).toBeGreaterThan(2);
      const root = join(home, 'root');
      expect(messages.slice(0, 2)).toEqual(['STATUS=Opening the store', `READY=1\nSTATUS=Serving ${root}`]);
      daemon.signal('SIGHUP');
      await daemon.logged('settings reloaded');
      await daemon.stop();
      await expect.poll(() => messages.at(-1), PATIENCE).toMatch(/^STOPPING=1\n/);
      const reloading = messages.findIndex((text) => /^RELOADING=1\nMONOTONIC_USEC=\d+$/.test(text));
      expect(messages.indexOf(`READY=1\nSTATUS=Serving ${root}`, reloading)).toBeGreaterThan(reloading);
    });

    it('gets no ping from a daemon that hangs', async () => {
      const messages = await receiver(join(home, 'notify'));
      const daemon = await start([], { NOTIFY_SOCKET: join(home, 'notify'), WATCHDOG_USEC: '200000' });
      await expect.poll(() => messages.includes('WATCHDOG=1'), PATIENCE).toBe(true);
      daemon.signal('SIGSTOP');
      await sleep(200);
      const pings = messages.length;
      await sleep(500);
      expect(messages.length).toBe(pings);
      daemon.signal('SIGCONT');
      await expect.poll(() => messages.length, PATIENCE).toBeGreaterThan(pings);
    });

    it('starts it by its socket, and keeps the socket when it ends', async () => {
      mkdirSync(join(home, 'run'));
      const socket = join(home, 'run', 'layerd.sock');
      const command = [process.execPath, LAYERD, '--root', join(home, 'root'), '--run', join(home, 'run')];
      const activator = spawn('systemd-socket-activate', ['-l', socket, '--fdname=http', ...command], {
        env: cleanEnvironment(),
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      children.push(activator);
      let said = '';
      activator.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
      // the file is there before anybody listens
      await expect.poll(() => said, PATIENCE).toContain('Listening');
      const client = new LayerdClient({ socket });
      // nothing runs yet: the first request starts the daemon and waits for it
      const info = await client.info();
      expect(info.pid).toBe(activator.pid);
      const { file } = smallImage(home, 'test/app:1', ['one']);
      await client.load(file);
      expect(await client.images()).toHaveLength(1);
      client.close();
      const ended = new Promise((resolve) => activator.once('close', resolve));
      activator.kill('SIGTERM');
      expect(await ended).toBe(0);
      expect(existsSync(socket)).toBe(true);
    });
  },
);
