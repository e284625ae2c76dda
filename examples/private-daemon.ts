import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { LayerdClient } from '../src/client/index.js';

const LAYERD = fileURLToPath(new URL('../src/bin/layerd.js', import.meta.url));
const START_MS = 20_000;

/** A daemon of one's own, on a directory of its own, with default settings. */
export interface PrivateDaemon {
  client: LayerdClient;
  root: string;
  socket: string;
  pid: number;
  /** Milliseconds from the start of the process to its first answer. */
  startedMs: number;
  stop(): Promise<void>;
}

/** Starts it on `directory`, which keeps its root, its sockets and its log; `flags` as on the command line. */
export async function startDaemon(directory: string, flags: readonly string[] = []): Promise<PrivateDaemon> {
  const root = join(directory, 'root');
  const run = join(directory, 'run');
  const logFile = join(directory, 'layerd.log');
  const log = openSync(logFile, 'w');
  // A configuration of the machine's own daemon is not for this one.
  const config = join(directory, 'config.toml');
  closeSync(openSync(config, 'w'));
  const began = performance.now();
  const child = spawn(process.execPath, [LAYERD, '--config', config, '--root', root, '--run', run, ...flags], {
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  const socket = join(run, 'layerd.sock');
  const client = new LayerdClient({ socket });
  await answering(client, child, logFile);
  return {
    client,
    root,
    socket,
    pid: child.pid ?? 0,
    startedMs: performance.now() - began,
    stop: async () => {
      client.close();
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGTERM');
      await ended;
    },
  };
}

async function answering(client: LayerdClient, child: ChildProcess, logFile: string): Promise<void> {
  const until = Date.now() + START_MS;
  for (;;) {
    try {
      await client.health();
      return;
    } catch (thrown) {
      if (child.exitCode === null && Date.now() < until) {
        await sleep(5);
        continue;
      }
      child.kill('SIGKILL');
      throw new Error(`the daemon did not start; its log says:\n${readFileSync(logFile, 'utf8')}`, { cause: thrown });
    }
  }
}
