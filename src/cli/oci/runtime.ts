/** An OCI runtime (runc, crun, or another of the same command line) as a child of ours. */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { accessSync, constants, existsSync } from 'node:fs';
import { constants as os } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { LayerdError } from '../../core/errors.js';
import { UsageError } from '../exit-codes.js';

/** In this order, where the user names none. */
const KNOWN = ['runc', 'crun'];

/** What a process can be told that is meant for the container. The others say something to us, or cannot be caught. */
const FORWARDED = ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGUSR1', 'SIGUSR2', 'SIGALRM', 'SIGWINCH'] as const;

export interface RunOutcome {
  /** False where the runtime could not start the program: it has said why. */
  started: boolean;
  /** As a shell has it: 128 and the signal's number for what a signal ended. */
  code: number;
}

/** The runtime to use: the one that is asked for (a name or a path), else the first that is installed. */
export function findRuntime(asked: string | undefined): string {
  if (asked?.includes('/') === true) {
    if (isProgram(asked)) return asked;
    throw new UsageError(`${asked} is not a program`, 'Name an OCI runtime, such as runc or crun.');
  }
  const directories = (process.env['PATH'] ?? '').split(':');
  for (const name of asked === undefined ? KNOWN : [asked]) {
    const found = directories.map((directory) => join(directory, name)).find(isProgram);
    if (found !== undefined) return found;
  }
  throw new UsageError(
    `${asked ?? KNOWN.join(' or ')} is not installed`,
    `Install one (apt-get install ${KNOWN.join(' or ')}), or name another with --runtime.`,
  );
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * Signals from the moment it is made: they go to the runtime, which hands them to the container, and those that come before
 * it runs wait for it.
 */
export class SignalForwarder {
  private readonly waiting: NodeJS.Signals[] = [];
  private child: ChildProcess | null = null;
  private readonly take = (signal: NodeJS.Signals): void => {
    if (this.child === null) this.waiting.push(signal);
    else this.child.kill(signal);
  };

  constructor() {
    for (const signal of FORWARDED) process.on(signal, this.take);
  }

  to(child: ChildProcess): void {
    this.child = child;
    for (const signal of this.waiting) child.kill(signal);
  }

  end(): void {
    for (const signal of FORWARDED) process.off(signal, this.take);
  }
}

/**
 * Runs the bundle in the foreground until its process ends. The runtime gets a session of its own, so that a key such as
 * Ctrl-C, which a terminal sends to every process in front of it, reaches the container once: through us.
 */
export function runBundle(
  runtime: string,
  run: { bundle: string; id: string; interactive: boolean },
  signals: SignalForwarder,
): Promise<RunOutcome> {
  const pidFile = join(run.bundle, 'pid');
  const child = spawn(runtime, ['run', '--bundle', run.bundle, '--pid-file', pidFile, run.id], {
    stdio: [run.interactive ? 'inherit' : 'ignore', 'inherit', 'inherit'],
    detached: true,
  });
  signals.to(child);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      const number = signal === null ? 0 : os.signals[signal];
      // Both runtimes write the file when the program runs, and not before.
      resolve({ started: existsSync(pidFile), code: code ?? 128 + number });
    });
  });
}

/** Whether the runtime has a process of this container that lives. */
export async function isRunning(runtime: string, id: string): Promise<boolean> {
  const state = await call(runtime, ['state', id]);
  return state !== null && (JSON.parse(state) as { status?: string }).status !== 'stopped';
}

/** Ends what is left of a container in the runtime; nothing where it has none. */
export async function deleteFromRuntime(runtime: string, id: string): Promise<void> {
  const deleted = await call(runtime, ['delete', '--force', id]);
  if (deleted !== null || !(await isRunning(runtime, id))) return;
  throw new LayerdError('IO_ERROR', `${runtime} could not end the container ${id}`, {
    details: { runtime, id },
    hint: `\`${runtime} delete --force ${id}\` says why.`,
  });
}

/** What the runtime prints, or null where it fails: it has no such container then. */
async function call(runtime: string, args: readonly string[]): Promise<string | null> {
  try {
    return (await promisify(execFile)(runtime, args)).stdout;
  } catch (error) {
    if (error instanceof Error && 'code' in error && typeof error.code === 'number') return null;
    throw error;
  }
}
