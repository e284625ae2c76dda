/** The runtime of examples/, as a user starts it. */
import { execFileSync, spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { cleanEnvironment, makeHome, outcome, removeHome, TestDaemon, type Outcome } from '../cli/daemon.js';
import { describeWith, needsRoot } from '../support.js';
import { busyboxArchive, needsBusybox } from './busybox.js';

const RUNTIME = fileURLToPath(new URL('../../examples/runtime/runtime.js', import.meta.url));

let home: string;
let daemon: TestDaemon;

function runtime(...args: string[]): Promise<Outcome> {
  const env = cleanEnvironment({ LAYERD_SOCKET: daemon.socket });
  return outcome(spawn(process.execPath, [RUNTIME, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] }));
}

describeWith('the runtime in examples/', [needsRoot(), needsBusybox()], () => {
  beforeAll(async () => {
    home = makeHome();
    daemon = await TestDaemon.start(home);
    busyboxArchive(join(home, 'box.tar'), 'test/box:1', {
      Env: ['PATH=/bin', 'WHO=the image'],
      Cmd: ['sh', '-c', 'echo hello from $WHO in $PWD as process $$'],
      WorkingDir: '/home/app',
    });
  });
  afterAll(async () => {
    await daemon.stop();
    removeHome(home);
  });

  it('loads, runs, commits, and runs what was committed', async () => {
    const first = await runtime('test/box:1', '--load', join(home, 'box.tar'));
    expect(first).toMatchObject({ code: 0, stdout: 'hello from the image in /home/app as process 1\n' });
    const script = 'echo changed > /etc/motd; rm /etc/group';
    const second = await runtime('test/box:1', '--commit', 'test/box:2', '--', 'sh', '-c', script);
    expect(second.code, second.stderr).toBe(0);
    const third = await runtime('test/box:2', '--', 'sh', '-c', 'cat /etc/motd; test -e /etc/group || echo gone');
    expect(third).toMatchObject({ code: 0, stdout: 'changed\ngone\n' });
    const history = await daemon.client.history('test/box:2');
    expect(history).toHaveLength(2);
  });

  it('exits as the program does, and leaves nothing', async () => {
    expect(await runtime('test/box:1', '--commit', 'test/box:3', '--', 'sh', '-c', 'exit 7')).toMatchObject({
      code: 7,
    });
    await expect(daemon.client.image('test/box:3')).rejects.toMatchObject({ code: 'IMAGE_NOT_FOUND' });
    expect(await runtime('test/absent:1')).toMatchObject({ code: 1 });
    expect(await daemon.client.containers()).toEqual([]);
    expect(mountsBelow(join(home, 'run', 'm'))).toEqual([]);
    expect(execFileSync('ls', [join(home, 'run', 'm')], { encoding: 'utf8' })).toBe('');
  });
});
