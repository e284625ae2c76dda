/**
 * What layerctl knows of the containers that it runs: a directory for each below /run/layerctl, made before the
 * container and removed after everything else, so that whatever a killed layerctl left can be found and put right.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rm, writeFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { LayerdClient } from '../../client/client.js';
import { isErrno, LayerdError } from '../../core/errors.js';
import type { ContainerSummary } from '../../core/words.js';
import { deleteFromRuntime, isRunning } from './runtime.js';

/** The label of a container that names its run. */
export const RUN_LABEL = 'layerctl.run';

interface RunRecord {
  /** The daemon that has the container. */
  socket: string;
  runtime: string;
  /** The container goes when it has ended (--rm). */
  remove: boolean;
  /** The layerctl that runs it, and when that process began (proc(5), stat, field 22): pids are used again. */
  owner: { pid: number; began: string };
}

export interface Run extends RunRecord {
  /** Also the id that the runtime has it by. */
  key: string;
  /** The bundle. */
  directory: string;
}

/** A reboot empties it, as it ends the containers. */
function home(): string {
  const base = process.getuid?.() === 0 ? '/run' : (process.env['XDG_RUNTIME_DIR'] ?? '/tmp');
  return join(base, 'layerctl');
}

/** Notes a run that this process begins. */
export async function beginRun(record: Omit<RunRecord, 'owner'>): Promise<Run> {
  const key = randomBytes(6).toString('hex');
  const directory = join(home(), key);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const owner = { pid: process.pid, began: (await beganAt(process.pid)) ?? '' };
  const part = join(directory, 'run.part');
  await writeFile(part, JSON.stringify({ ...record, owner }));
  await rename(part, join(directory, 'run.json'));
  return { ...record, owner, key, directory };
}

/** The run that a container belongs to, if it has not ended and been put away. */
export async function runOf(container: ContainerSummary): Promise<Run | null> {
  const key = container.labels[RUN_LABEL];
  return key === undefined || !/^[0-9a-f]{12}$/.test(key) ? null : readRun(key);
}

/**
 * Puts away a run that has ended, or ends it: the runtime's part, then the mount, then the container where that was
 * asked for, then our own notes. May be broken off and done again.
 */
export async function endRun(client: LayerdClient, run: Run): Promise<void> {
  await deleteFromRuntime(run.runtime, run.key);
  const container = (await client.containers()).find(({ labels }) => labels[RUN_LABEL] === run.key);
  if (container !== undefined) {
    if (container.mounts > 0) await unlessDone(client.unmount(container.id));
    if (run.remove) await unlessDone(client.removeContainer(container.id));
  }
  await rm(run.directory, { recursive: true, force: true });
}

/** Puts away what layerctl processes that were killed have left at this daemon. Containers that still run stay. */
export async function sweepRuns(client: LayerdClient): Promise<void> {
  for (const key of await readdir(home()).catch(nothing)) {
    const run = await readRun(key);
    if (run !== null && run.socket === client.socket && !(await isLive(run))) await endRun(client, run);
  }
}

/** Whether the layerctl that began the run is still there, or the container's process is. */
export async function isLive({ owner, runtime, key }: Run): Promise<boolean> {
  const began = await beganAt(owner.pid);
  return (began !== null && began === owner.began) || isRunning(runtime, key);
}

async function readRun(key: string): Promise<Run | null> {
  const directory = join(home(), key);
  try {
    const record = JSON.parse(await readFile(join(directory, 'run.json'), 'utf8')) as RunRecord;
    return { ...record, key, directory };
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return null;
    throw error;
  }
}

async function beganAt(pid: number): Promise<string | null> {
  const text = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => null);
  // the second field is a name in parentheses, and may hold anything
  return text?.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? null;
}

/** Somebody else may be ending the same run. */
async function unlessDone(work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (error) {
    const done = ['CONTAINER_NOT_MOUNTED', 'CONTAINER_NOT_FOUND'];
    if (!(error instanceof LayerdError) || !done.includes(error.code)) throw error;
  }
}

function nothing(error: unknown): string[] {
  if (isErrno(error, 'ENOENT')) return [];
  throw error;
}
