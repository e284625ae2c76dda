/** layerctl run and bundle with the real runc and crun, on a real image. */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { cleanEnvironment, LAYERCTL, makeHome, outcome, removeHome, TestDaemon, type Outcome } from '../cli/daemon.js';
import { describeWith, needsProgram, needsRoot, PATIENCE } from '../support.js';
import { busyboxArchive, busyboxLayer, needsBusybox } from './busybox.js';

let home: string;
let daemon: TestDaemon;

const IMAGE = 'test/box:1';
const CONFIG = {
  Env: ['PATH=/bin', 'GREETING=hello'],
  Cmd: ['sh', '-c', 'echo $GREETING from $(pwd)'],
  WorkingDir: '/home/app/work',
  User: 'app',
};

const needs = [needsRoot(), needsBusybox(), needsProgram('runc'), needsProgram('crun')];

async function ok(...args: string[]): Promise<string> {
  const done = await daemon.ctl(args);
  expect(done, done.stderr).toMatchObject({ code: 0 });
  return done.stdout;
}

/** Nothing is left of any run: no container, no mount of one, no bundle. */
async function expectNothingLeft(): Promise<void> {
  expect(await daemon.client.containers()).toEqual([]);
  expect(mountsBelow(join(home, 'run', 'm'))).toEqual([]);
  expect(runsOf(daemon.socket)).toEqual([]);
}

/** Directories of runs at this daemon: others may have theirs beside them. */
function runsOf(socket: string): string[] {
  if (!existsSync('/run/layerctl')) return [];
  return readdirSync('/run/layerctl').filter((key) => {
    const file = join('/run/layerctl', key, 'run.json');
    return existsSync(file) && readFileSync(file, 'utf8').includes(JSON.stringify(socket));
  });
}

/**
 * crun refuses machines whose cgroup v2 has controllers beside v1; there it runs in a mount namespace that does not
 * show it v2.
 */
function crunHere(): string {
  const unified = '/sys/fs/cgroup/unified/cgroup.controllers';
  if (!existsSync(unified) || readFileSync(unified, 'utf8').trim() === '') return 'crun';
  const script = join(home, 'crun');
  const inside = 'umount /sys/fs/cgroup/unified; exec crun "$@"';
  writeFileSync(script, `#!/bin/sh\nexec unshare --mount sh -c '${inside}' crun "$@"\n`);
  chmodSync(script, 0o755);
  return script;
}

/** Starts layerctl without waiting for it; its standard output is a pipe. */
function begin(...args: string[]): ChildProcess {
  return spawn(process.execPath, [LAYERCTL, ...args], {
    env: cleanEnvironment({ LAYERD_SOCKET: daemon.socket }),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** Waits until the child has printed the word. */
async function printed(child: ChildProcess, word: string): Promise<void> {
  let text = '';
  child.stdout?.on('data', (chunk: Buffer) => (text += chunk.toString()));
  await expect.poll(() => text, PATIENCE).toContain(word);
}

describeWith('containers by OCI runtimes', needs, () => {
  beforeAll(async () => {
    home = makeHome();
    daemon = await TestDaemon.start(home, ['--gc-grace', '1h']);
    const file = join(home, 'box.tar');
    busyboxArchive(file, IMAGE, CONFIG);
    await ok('load', file);
  });
  afterAll(async () => {
    await daemon.stop();
    removeHome(home);
  });

  describe.each(['runc', 'crun'])('%s', (name) => {
    let runtime: string;
    beforeAll(() => {
      runtime = name === 'crun' ? crunHere() : name;
    });
    function run(...args: string[]): Promise<Outcome> {
      return daemon.ctl(['run', '--rm', '--runtime', runtime, ...args]);
    }

    it("runs the image's own command as its user, in its directory, with its environment", async () => {
      const done = await run(IMAGE);
      expect(done).toMatchObject({ code: 0, stdout: 'hello from /home/app/work\n' });
      await expectNothingLeft();
    });

    it('takes the exit code of the program', async () => {
      expect(await run(IMAGE, 'sh', '-c', 'exit 42')).toMatchObject({ code: 42 });
      expect(await run(IMAGE, 'sh', '-c', 'sleep 60 & kill -9 $!; wait $!')).toMatchObject({ code: 137 });
      await expectNothingLeft();
    });

    it('tells a program that never ran from one that failed', async () => {
      const done = await run(IMAGE, '/no/such/program');
      expect(done.code).toBe(125);
      expect(done.stderr).toContain('/no/such/program');
      await expectNothingLeft();
    });

    it('hands signals on, once each', async () => {
      const script =
        "trap 'echo got int' INT; trap 'echo got term; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
      const child = begin('run', '--rm', '--runtime', runtime, IMAGE, 'sh', '-c', script);
      const done = outcome(child);
      await printed(child, 'ready');
      child.kill('SIGINT');
      await printed(child, 'got int');
      child.kill('SIGTERM');
      expect(await done).toMatchObject({ code: 5, stdout: 'ready\ngot int\ngot term\n' });
      await expectNothingLeft();
    });

    it('gives a terminal, of the size of ours, and echoes what is typed', async () => {
      const inside = `'${process.execPath}' '${LAYERCTL}' run --rm -it --runtime '${runtime}' ${IMAGE} sh -c 'tty; stty size; read x; echo "read $x"; exit 9'`;
      const outside = spawn('script', ['-qec', `stty rows 33 cols 77; ${inside}`, '/dev/null'], {
        env: cleanEnvironment({ LAYERD_SOCKET: daemon.socket }),
      });
      const done = outcome(outside);
      await printed(outside, '33 77');
      outside.stdin.write('typed\n');
      const { code, stdout } = await done;
      expect(stdout).toMatch(/\/dev\/(pts\/0|console)\r\n33 77\r\ntyped\r\nread typed\r\n/);
      expect(code).toBe(9);
      await expectNothingLeft();
    });

    it('writes a bundle that the runtime runs by itself', async () => {
      const dir = join(home, `bundle-${name}`);
      const id = (await ok('bundle', '--name', 'bundled', IMAGE, dir, 'sh', '-c', 'id -u; hostname; exit 3')).trim();
      const child = spawn(runtime, ['run', '--bundle', dir, `by-hand-${name}`], { stdio: ['ignore', 'pipe', 'pipe'] });
      expect(await outcome(child)).toMatchObject({ code: 3, stdout: '1000\nbundled\n' });
      const again = await daemon.ctl(['bundle', IMAGE, dir]);
      expect(again.code).toBe(1);
      expect(again.stderr).toContain('holds a bundle already');
      await ok('unmount', id);
      await ok('rm', id);
      await expectNothingLeft();
    });
  });

  function runs(...args: string[]): Promise<Outcome> {
    return daemon.ctl(['run', '--rm', ...args]);
  }

  it('looks users and groups up in the image, and knows numbers without it', async () => {
    const id = 'echo $(id -u):$(id -g):$(id -G) $HOME';
    const cases: [string, string][] = [
      ['app', '1000:1001:1001 29 44 /home/app'],
      ['1000', '1000:1001:1001 29 44 /home/app'],
      ['app:audio', '1000:29:29 /home/app'],
      ['4711', '4711:0:0 /'],
      ['4711:42', '4711:42:42 /'],
      ['root', '0:0:0 /root'],
    ];
    for (const [user, says] of cases) {
      expect(await runs('--user', user, IMAGE, 'sh', '-c', id)).toMatchObject({ code: 0, stdout: `${says}\n` });
    }
    const done = await runs('-u', 'nobody-here', IMAGE, 'id');
    expect(done).toMatchObject({ code: 125, stdout: '' });
    expect(done.stderr).toContain('the image has no user "nobody-here"');
    await expectNothingLeft();
  });

  it('takes variables, directory and entrypoint, and leaves options behind the image alone', async () => {
    const env = ['-e', 'GREETING=hi', '--env', 'FROM_HERE', '-w', '/tmp'];
    const done = await daemon.ctl(
      ['run', '--rm', ...env, IMAGE, 'sh', '-c', 'echo $GREETING $FROM_HERE $PWD $0', '--rm'],
      { env: { FROM_HERE: 'outside' } },
    );
    expect(done).toMatchObject({ code: 0, stdout: 'hi outside /tmp --rm\n' });
    expect(await runs('--entrypoint', 'echo', IMAGE, '-e', 'a', '-it')).toMatchObject({ stdout: 'a -it\n' });
    await expectNothingLeft();
  });

  it('hands standard input on where that is asked for', async () => {
    const args = ['run', '--rm'];
    const input = Buffer.from('one\ntwo\n');
    expect(await daemon.ctl([...args, '-i', IMAGE, 'wc', '-l'], { input })).toMatchObject({ stdout: '2\n' });
    expect(await daemon.ctl([...args, IMAGE, 'wc', '-l'], { input })).toMatchObject({ stdout: '0\n' });
  });

  it('has a network of its own, a read-only root if it is told so, and only the capabilities it needs', async () => {
    const net = await runs(IMAGE, 'sh', '-c', 'ls /sys/class/net');
    expect(net.stdout).toBe('lo\n');
    const refused = await runs('--read-only', '-u', '0', IMAGE, 'touch', '/etc/x');
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain('Read-only file system');
    const mounting = await runs('-u', '0', IMAGE, 'sh', '-c', 'busybox mount -t tmpfs x /tmp');
    expect(mounting.code).not.toBe(0);
  });

  it('refuses a terminal where there is none', async () => {
    const done = await runs('-t', IMAGE);
    expect(done.code).toBe(2);
    expect(done.stderr).toContain('-t needs a terminal');
    await expectNothingLeft();
  });

  it('keeps a container without --rm, which can be committed and run again', async () => {
    await ok('run', '--name', 'kept', '-u', '0', IMAGE, 'sh', '-c', 'echo new > /etc/motd');
    expect(await daemon.client.container('kept')).toMatchObject({ mounts: 0 });
    expect(await ok('changes', 'kept')).toContain('A /etc/motd');
    await ok('commit', 'kept', 'test/kept:1');
    expect((await runs('test/kept:1', 'cat', '/etc/motd')).stdout).toBe('new\n');
    await ok('rm', 'kept');
    await ok('rmi', 'test/kept:1');
    await expectNothingLeft();
  });

  it('names a container as create does where nobody names it', async () => {
    const done = await daemon.ctl(['run', IMAGE, 'hostname']);
    const [container] = await daemon.client.containers();
    expect(container?.name).toBe(container?.id.slice(0, 12));
    expect(done.stdout).toBe(`${container?.name}\n`);
    await ok('rm', container?.id ?? '');
    await expectNothingLeft();
  });

  it('leaves no container whose program it did not come to, so that the name is free for another try', async () => {
    const wrong = await daemon.ctl(['run', '--name', 'again', '-u', 'nobody-here', IMAGE, 'id']);
    expect(wrong).toMatchObject({ code: 125, stderr: expect.stringContaining('the image has no user') as string });
    await expectNothingLeft();
    await ok('run', '--name', 'again', IMAGE, 'id');
    await ok('rm', 'again');
  });

  it('refuses a bundle where no directory can be, and makes nothing on the way', async () => {
    const deep = join(home, 'mistyped', 'bundle');
    for (const dir of [deep, '/etc/passwd']) {
      const done = await daemon.ctl(['bundle', IMAGE, dir]);
      expect(done).toMatchObject({ code: 2, stderr: expect.stringContaining(`cannot write to ${dir}`) as string });
    }
    expect(existsSync(join(home, 'mistyped'))).toBe(false);
    await expectNothingLeft();
  });

  it('refuses a second container of the name, and leaves the first alone', async () => {
    await ok('create', '--name', 'taken', IMAGE);
    const done = await runs('--name', 'taken', IMAGE);
    expect(done.code).toBe(125);
    expect(done.stderr).toContain('a container named taken exists');
    expect((await daemon.client.containers()).map(({ name: left }) => left)).toEqual(['taken']);
    await ok('rm', 'taken');
    await expectNothingLeft();
  });

  it('leaves nothing after a kill -9 of layerctl: rm -f ends what still runs', async () => {
    const child = begin('run', '--name', 'orphan', IMAGE, 'sh', '-c', 'echo up; sleep 600');
    const done = outcome(child);
    await printed(child, 'up');
    child.kill('SIGKILL');
    child.stdout?.destroy();
    child.stderr?.destroy();
    await done;
    const refused = await daemon.ctl(['rm', 'orphan']);
    expect(refused.code).toBe(4);
    expect(refused.stderr).toContain('is mounted');
    await ok('rm', '-f', 'orphan');
    await expectNothingLeft();
    expect(execFileSync('runc', ['list', '-q'], { encoding: 'utf8' })).not.toContain('orphan');
  });

  it('leaves nothing after a kill -9 of layerctl: the next run or gc puts away what has ended', async () => {
    for (const next of [['gc'], ['run', '--rm', IMAGE]]) {
      const child = begin('run', '--rm', IMAGE, 'sh', '-c', 'echo up; sleep 1');
      const done = outcome(child);
      await printed(child, 'up');
      child.kill('SIGKILL');
      child.stdout?.destroy();
      child.stderr?.destroy();
      await done;
      expect(await daemon.client.containers()).toHaveLength(1);
      const put = async (): Promise<number> => {
        await ok(...next);
        return (await daemon.client.containers()).length;
      };
      await expect.poll(put, PATIENCE).toBe(0);
      await expectNothingLeft();
    }
  });

  it('refuses what it cannot run before it makes anything', async () => {
    const file = join(home, 'empty.tar');
    busyboxArchive(file, 'test/nothing:1', {});
    await ok('load', file);
    const nothing = await daemon.ctl(['run', 'test/nothing:1']);
    expect(nothing.code).toBe(125);
    expect(nothing.stderr).toContain('the image names no program to run');
    expect(await daemon.ctl(['run', '--runtime', 'nonesuch', IMAGE])).toMatchObject({ code: 2 });
    expect(await daemon.ctl(['run', 'test/absent:1'])).toMatchObject({ code: 125 });
    const behind = await daemon.ctl(['run', IMAGE, '--rm', 'id']);
    expect(behind).toMatchObject({ code: 2, stderr: expect.stringContaining('Options go before the image') as string });
    await expectNothingLeft();
  });

  it("reads the image's files through the image's links only", async () => {
    const outside = join(home, 'outside');
    mkdirSync(outside);
    writeFileSync(join(outside, 'passwd'), 'intruder:x:7:7::/:/bin/sh\n');
    const layer = busyboxLayer((root) => {
      execFileSync('rm', [join(root, 'etc/passwd')]);
      execFileSync('ln', ['-s', join(outside, 'passwd'), join(root, 'etc/passwd')]);
    });
    const file = join(home, 'links.tar');
    busyboxArchive(file, 'test/links:1', CONFIG, layer);
    await ok('load', file);
    const done = await daemon.ctl(['run', '--rm', '-u', 'intruder', 'test/links:1', 'id']);
    expect(done).toMatchObject({ code: 125, stdout: '' });
    expect(done.stderr).toContain('the image has no user "intruder"');
    await expectNothingLeft();
  });
});
