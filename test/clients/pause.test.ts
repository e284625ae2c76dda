/** `commit --pause` of a container that a real runtime runs: the layer shows one moment of it. */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { cleanEnvironment, LAYERCTL, makeHome, removeHome, TestDaemon } from '../cli/daemon.js';
import { describeWith, needsProgram, needsRoot, PATIENCE } from '../support.js';
import { busyboxArchive, needsBusybox } from './busybox.js';

const IMAGE = 'test/box:1';
/** Counts in two files, one after the other; what a layer holds between them takes a while to read. */
const COUNTING = `
  dd if=/dev/zero of=/middle bs=1M count=48 2>/dev/null
  i=0
  while :; do
    i=$((i+1))
    echo $i >/.new; busybox mv /.new /first
    echo $i >/.new; busybox mv /.new /last
  done`;

let home: string;
let daemon: TestDaemon;
let running: ChildProcess | null = null;

async function ok(...args: string[]): Promise<string> {
  const done = await daemon.ctl(args);
  expect(done, done.stderr).toMatchObject({ code: 0 });
  return done.stdout.trim();
}

/** A process that has the variable. */
function processWith(variable: string): string | null {
  const found = readdirSync('/proc').find((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(variable);
    } catch {
      return false; // it has ended
    }
  });
  return found ?? null;
}

/** The path of a process's cgroup in the hierarchy that freezes: the freezer of version 1, else version 2. */
function cgroupOf(pid: string): string {
  const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').trim().split('\n');
  const line = lines.find((each) => each.split(':')[1] === 'freezer') ?? lines.find((each) => each.startsWith('0::'));
  return line?.split(':').slice(2).join(':') ?? '';
}

function countIn(root: string, name: string): number {
  return Number(readFileSync(join(root, name), 'utf8'));
}

describeWith('commit --pause', [needsRoot(), needsBusybox(), needsProgram('runc')], () => {
  beforeAll(async () => {
    home = makeHome();
    daemon = await TestDaemon.start(home);
    const file = join(home, 'box.tar');
    busyboxArchive(file, IMAGE, { Env: ['PATH=/bin'] });
    await ok('load', file);
  });
  afterAll(async () => {
    running?.kill('SIGTERM');
    await daemon.ctl(['rm', '--force', 'writer']);
    await daemon.stop();
    removeHome(home);
  });

  it('takes everything at one moment from a container under runc, which then goes on', async () => {
    const variable = `LAYERD_PAUSE_TEST=${randomUUID()}`;
    running = spawn(
      process.execPath,
      [LAYERCTL, 'run', '--runtime', 'runc', '--name', 'writer', '-e', variable, IMAGE, 'sh', '-c', COUNTING],
      { env: cleanEnvironment({ LAYERD_SOCKET: daemon.socket }), stdio: 'ignore' },
    );
    await expect.poll(async () => (await daemon.client.containers())[0]?.path ?? '', PATIENCE).not.toBe('');
    const root = (await daemon.client.container('writer')).path ?? '';
    await expect.poll(() => readdirSync(root), PATIENCE).toContain('last');
    const cgroup = cgroupOf(processWith(variable) ?? '');
    for (const round of [1, 2, 3]) {
      const before = countIn(root, 'last');
      await ok('commit', 'writer', `test/moment:${round}`, '--pause', cgroup);
      await ok('create', `test/moment:${round}`, '--name', `moment${round}`);
      const moment = await ok('mount', `moment${round}`);
      const [first, last] = [countIn(moment, 'first'), countIn(moment, 'last')];
      expect(last).toBeGreaterThanOrEqual(before);
      expect(first - last).toBeOneOf([0, 1]);
      await expect.poll(() => countIn(root, 'last'), PATIENCE).toBeGreaterThan(first);
    }
  }, 120_000);

  it('refuses a cgroup that is none, and commits nothing', async () => {
    const refused = await daemon.ctl(['commit', 'writer', 'test/moment:none', '--pause', '/no/such/cgroup']);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain('/no/such/cgroup');
    expect((await daemon.client.images()).flatMap(({ refs }) => refs)).not.toContain('docker.io/test/moment:none');
  });
});
