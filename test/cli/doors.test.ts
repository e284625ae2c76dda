/** The sockets of the doors beside the native API, and how dockerd is told of its own. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { ask } from '../doors/http-fixture.js';
import { LAYERD, makeHome, removeHome, run, TestDaemon, type Outcome } from './daemon.js';

let home: string;
let daemon: TestDaemon | null;

beforeEach(() => {
  home = makeHome();
  daemon = null;
});
afterEach(async () => {
  await daemon?.stop();
  removeHome(home);
});

function layerd(...args: string[]): Promise<Outcome> {
  return run(LAYERD, ['--run', join(home, 'run'), ...args]);
}

it('are made in the run directory, for the daemon and its group alone', async () => {
  daemon = await TestDaemon.start(home);
  for (const door of ['docker', 'containerd']) {
    const path = join(home, 'run', `${door}.sock`);
    expect(statSync(path).mode & 0o777, door).toBe(0o660);
    expect((await daemon.logged('serving'))[`${door}_socket`]).toBe(path);
  }
});

it('are switched off one by one, and lie where they are told to', async () => {
  const elsewhere = join(home, 'elsewhere.sock');
  daemon = await TestDaemon.start(home, ['--containerd-socket', 'off', '--docker-socket', elsewhere]);
  expect(existsSync(join(home, 'run', 'containerd.sock'))).toBe(false);
  expect(existsSync(join(home, 'run', 'docker.sock'))).toBe(false);
  expect(await daemon.logged('serving')).toMatchObject({ containerd_socket: 'off', docker_socket: elsewhere });
  const { text } = await ask(elsewhere, 'POST', '/Plugin.Activate');
  expect(JSON.parse(text)).toEqual({ Implements: ['GraphDriver'] });
  await daemon.stop();
  expect(existsSync(elsewhere)).toBe(false);
  daemon = await TestDaemon.start(home, ['--docker-socket', 'off']);
  expect(existsSync(join(home, 'run', 'docker.sock'))).toBe(false);
  expect(existsSync(join(home, 'run', 'containerd.sock'))).toBe(true);
});

it('of Docker is told to dockerd by a file', async () => {
  const directory = join(home, 'plugins');
  const done = await layerd('install-docker-plugin', '--name', 'mine', '--directory', directory);
  expect(done.code, done.stderr).toBe(0);
  expect(readFileSync(join(directory, 'mine.spec'), 'utf8')).toBe(`unix://${join(home, 'run', 'docker.sock')}\n`);
  expect(done.stdout).toContain(`# ${join(directory, 'mine.spec')} is written`);
  const [lines = ''] = /^\{[^}]*\}/m.exec(done.stdout) ?? [];
  expect(JSON.parse(lines)).toEqual({ experimental: true, 'storage-driver': 'mine' });
});

it('of Docker is not told where there is none, or by a name that Docker would not find', async () => {
  const off = await layerd('--docker-socket', 'off', 'install-docker-plugin', '--directory', home);
  expect(off.code).toBe(1);
  expect(off.stderr).toContain('switched off');
  const name = await layerd('install-docker-plugin', '--name', '../x', '--directory', home);
  expect(name.code).toBe(1);
  expect(name.stderr).toContain('is not a name for a plugin');
});
