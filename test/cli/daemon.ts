/** The real programs, as users run them: a daemon on a root of its own, and layerctl. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Info } from '../../src/core/words.js';
import { LayerdClient } from '../../src/client/index.js';
import { linuxAvailable } from '../../src/linux/libc.js';
import { mountsBelow } from '../../src/linux/mountinfo.js';

export const LAYERD = fileURLToPath(new URL('../../src/bin/layerd.js', import.meta.url));
export const LAYERCTL = fileURLToPath(new URL('../../src/bin/layerctl.js', import.meta.url));

export interface Outcome {
  code: number | null;
  signal: NodeJS.Signals | null;
  /** As text; what is binary is in `bytes`. */
  stdout: string;
  bytes: Buffer;
  stderr: string;
}

export interface RunOptions {
  env?: NodeJS.ProcessEnv;
  input?: Buffer;
}

/** A directory below /tmp: short, for the paths of sockets. */
export function makeHome(): string {
  return mkdtempSync(join(tmpdir(), 'layerd-cli-'));
}

/** The environment without what the tester's own says to the programs. */
export function cleanEnvironment(extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const inherited = Object.entries(process.env).filter(([name]) => !/^(LAYERD_|LISTEN_|NOTIFY_|WATCHDOG_)/.test(name));
  return { ...Object.fromEntries(inherited), ...extra };
}

/** Runs one of the programs to its end. */
export async function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const child = spawn(process.execPath, [program, ...args], { env: cleanEnvironment(options.env) });
  child.stdin.on('error', () => undefined);
  child.stdin.end(options.input);
  return outcome(child);
}

/** What a child said, and how it ended. */
export function outcome(child: ChildProcess): Promise<Outcome> {
  const chunks: Buffer[] = [];
  let stderr = '';
  child.stdout?.on('data', (chunk: Buffer) => chunks.push(chunk));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      const bytes = Buffer.concat(chunks);
      resolve({ code, signal, stdout: bytes.toString('utf8'), bytes, stderr });
    });
  });
}

export class TestDaemon {
  readonly home: string;
  readonly socket: string;
  readonly client: LayerdClient;
  private readonly child: ChildProcess;
  private readonly ended: Promise<Outcome>;
  private text = '';

  private constructor(home: string, child: ChildProcess, socket: string) {
    this.home = home;
    this.child = child;
    this.socket = socket;
    this.client = new LayerdClient({ socket });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.text += text));
    this.ended = outcome(child);
  }

  /** Starts a daemon on `home` (root and run below it) and waits until it serves. */
  static async start(home: string, args: readonly string[] = [], env: NodeJS.ProcessEnv = {}): Promise<TestDaemon> {
    const command = [LAYERD, '--root', join(home, 'root'), '--run', join(home, 'run'), ...args];
    const child = spawn(process.execPath, command, { env: cleanEnvironment(env), stdio: ['ignore', 'pipe', 'pipe'] });
    return TestDaemon.attach(home, child);
  }

  /** Waits until what another program started serves. */
  static async attach(home: string, child: ChildProcess): Promise<TestDaemon> {
    const daemon = new TestDaemon(home, child, join(home, 'run', 'layerd.sock'));
    await daemon.logged('serving');
    return daemon;
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  /** Every line of its log so far. */
  get log(): Record<string, unknown>[] {
    return this.text
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  /** Waits for a message in the log; fails if the daemon ends before. */
  async logged(message: string): Promise<Record<string, unknown>> {
    for (let tries = 0; tries < 600; tries++) {
      const found = this.log.findLast(({ msg }) => msg === message);
      if (found !== undefined) return found;
      if (this.child.exitCode !== null) break;
      await sleep(50);
    }
    throw new Error(`the daemon never logged ${JSON.stringify(message)}; it said:\n${this.text}`);
  }

  /** layerctl against this daemon. */
  ctl(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
    return run(LAYERCTL, args, { ...options, env: { LAYERD_SOCKET: this.socket, ...options.env } });
  }

  info(): Promise<Info> {
    return this.client.info();
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** Ends it and waits. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<Outcome> {
    this.client.close();
    this.child.kill(signal);
    return this.ended;
  }
}

/** Unmounts what the tests of one home left mounted, and removes it. */
export function removeHome(home: string): void {
  for (const { mountPoint } of linuxAvailable().available ? mountsBelow(home).toReversed() : []) {
    spawnSync('umount', ['-l', mountPoint]);
  }
  rmSync(home, { recursive: true, force: true });
}
