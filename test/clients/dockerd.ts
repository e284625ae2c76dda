/** A dockerd of the test's own, with layerd as its storage driver under a name of its own. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cleanEnvironment, LAYERD, outcome, run, type Outcome } from '../cli/daemon.js';

/** dockerd starts containerd and waits for it; a busy machine takes its time. */
const START_TRIES = 600;

export class Dockerd {
  readonly home: string;
  /** Of the plugin: dockerd looks for plugins in the machine's own directory only. */
  readonly driver = `layerd-test-${randomBytes(4).toString('hex')}`;
  private spec: string | null = null;
  private child: ChildProcess | null = null;

  constructor(home: string) {
    this.home = join(home, 'docker');
  }

  /** Makes the plugin known by the command that users have for it; what it printed. */
  async install(runDirectory: string): Promise<string> {
    const done = await run(LAYERD, ['--run', runDirectory, 'install-docker-plugin', '--name', this.driver]);
    if (done.code !== 0) throw new Error(done.stderr);
    this.spec = `/etc/docker/plugins/${this.driver}.spec`;
    return done.stdout;
  }

  /** Starts it (again) and waits until it answers. */
  async start(): Promise<void> {
    mkdirSync(this.home, { recursive: true });
    const log = openSync(join(this.home, 'log'), 'a');
    const at = (name: string): string => join(this.home, name);
    const places = ['--data-root', at('data'), '--exec-root', at('exec'), '--pidfile', at('pid'), '--host', this.host];
    const network = ['--bridge', 'none', '--iptables=false', '--ip6tables=false', '--ip-forward=false'];
    const args = ['--experimental', '--storage-driver', this.driver, ...places, ...network];
    this.child = spawn('dockerd', args, { stdio: ['ignore', log, log], env: cleanEnvironment() });
    closeSync(log);
    for (let tries = 0; tries < START_TRIES; tries++) {
      if ((await this.docker('version')).code === 0) return;
      if (this.child.exitCode !== null) break;
      await sleep(100);
    }
    throw new Error(`dockerd does not answer; it said:\n${readFileSync(join(this.home, 'log'), 'utf8').slice(-4000)}`);
  }

  /** A command of docker, by the classic builder. */
  docker(...args: string[]): Promise<Outcome> {
    const env = cleanEnvironment({ DOCKER_HOST: this.host, DOCKER_BUILDKIT: '0', HOME: this.home });
    return outcome(spawn('docker', args, { env, stdio: ['ignore', 'pipe', 'pipe'] }));
  }

  /** The same in a terminal, where docker tells of every layer. */
  inTerminal(...args: string[]): Promise<Outcome> {
    const env = cleanEnvironment({ DOCKER_HOST: this.host, DOCKER_BUILDKIT: '0', HOME: this.home });
    const command = ['docker', ...args].map((word) => `'${word}'`).join(' ');
    return outcome(spawn('script', ['-qec', command, '/dev/null'], { env, stdio: ['ignore', 'pipe', 'pipe'] }));
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const { child } = this;
    this.child = null;
    if (child === null || child.exitCode !== null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    await ended;
    if (signal === 'SIGKILL') this.endContainerd();
  }

  /**
   * containerd dies with its dockerd; where nobody reaps it at once, the next dockerd takes what is left of it for a living
   * one, and waits for it in vain.
   */
  private endContainerd(): void {
    const file = join(this.home, 'exec/containerd/containerd.pid');
    if (!existsSync(file)) return;
    spawnSync('kill', ['-9', readFileSync(file, 'utf8').trim()]);
    rmSync(file);
  }

  /** Ends it with everything that it started, and forgets the plugin. */
  async remove(): Promise<void> {
    await this.stop();
    this.endContainerd();
    const containers = join(this.home, 'exec/runtime-runc');
    for (const id of existsSync(join(containers, 'moby')) ? readdirSync(join(containers, 'moby')) : []) {
      spawnSync('runc', ['--root', join(containers, 'moby'), 'delete', '--force', id]);
    }
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      if (commandOf(pid).includes(this.home)) process.kill(Number(pid), 'SIGKILL');
    }
    if (this.spec !== null) rmSync(this.spec, { force: true });
  }

  private get host(): string {
    return `unix://${join(this.home, 'sock')}`;
  }
}

/** '' for a process that has ended meanwhile. */
function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch {
    return '';
  }
}
