/** Stopping all processes of a cgroup for a moment: cgroup.freeze of version 2, the freezer of version 1 (cgroups(7)). */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { toBuffer } from '../core/bytes.js';
import { LayerdError } from '../core/errors.js';
import { readMountinfo } from './mountinfo.js';

/** How long the kernel may take to stop the last process. */
const FREEZE_TIMEOUT_MS = 10_000;
const POLL_MS = 2;

/** The files of one version of the kernel's interface. */
interface Hierarchy {
  /** Where it is mounted. */
  root: string;
  /** The field of /proc/PID/cgroup that names it. */
  controller: string;
  control: string;
  freeze: string;
  thaw: string;
  /** The file that tells, and what stands in it, when someone asked for it and when all processes have stopped. */
  asked: readonly [file: string, text: string];
  stopped: readonly [file: string, text: string];
}

const VERSION_2 = {
  controller: '',
  control: 'cgroup.freeze',
  freeze: '1',
  thaw: '0',
  asked: ['cgroup.freeze', '1'],
  stopped: ['cgroup.events', 'frozen 1'],
} as const;

const VERSION_1 = {
  controller: 'freezer',
  control: 'freezer.state',
  freeze: 'FROZEN',
  thaw: 'THAWED',
  asked: ['freezer.self_freezing', '1'],
  stopped: ['freezer.state', 'FROZEN'],
} as const;

/**
 * Freezes a cgroup and returns what thaws it again; one that was frozen already stays so. `cgroup` is its path below
 * the mount of the hierarchy (`/system.slice/x.scope`), or the whole path. Blocks until every process has stopped: for
 * worker threads. Throws INVALID_ARGUMENT for what is no cgroup or holds this process; TIMEOUT, thawed, if it does not freeze.
 */
export function freezeCgroup(cgroup: string): () => void {
  const [hierarchy, path] = locate(cgroup);
  const own = cgroupPath('self', hierarchy);
  if (path === '/' || own === path || own?.startsWith(`${path}/`)) {
    throw invalid(cgroup, 'holds layerd itself, which would stop too', "Name the container's own cgroup.");
  }
  const directory = join(hierarchy.root, path);
  if (shows(directory, hierarchy.asked)) return () => undefined;
  const thaw = (): void => writeFileSync(join(directory, hierarchy.control), hierarchy.thaw);
  writeFileSync(join(directory, hierarchy.control), hierarchy.freeze);
  for (const deadline = Date.now() + FREEZE_TIMEOUT_MS; !shows(directory, hierarchy.stopped); sleep(POLL_MS)) {
    if (Date.now() < deadline) continue;
    thaw();
    throw new LayerdError('TIMEOUT', `the cgroup ${cgroup} did not freeze within ${FREEZE_TIMEOUT_MS} ms`, {
      details: { cgroup },
      hint: 'A process in it hangs in the kernel (state D): try again, or go on without pausing.',
    });
  }
  return thaw;
}

/** The cgroup of a process as {@link freezeCgroup} takes it, or null where it is in the root of every hierarchy. */
export function cgroupOf(pid: number): string | null {
  for (const hierarchy of hierarchies()) {
    const path = cgroupPath(pid, hierarchy);
    if (path !== null && path !== '/') return join(hierarchy.root, path);
  }
  return null;
}

function hierarchies(): Hierarchy[] {
  return readMountinfo().flatMap(({ fsType, mountPoint, superOptions }): Hierarchy[] => {
    const root = toBuffer(mountPoint).toString();
    if (fsType === 'cgroup2') return [{ ...VERSION_2, root }];
    const isFreezer = fsType === 'cgroup' && superOptions.some((option) => option === VERSION_1.controller);
    return isFreezer ? [{ ...VERSION_1, root }] : [];
  });
}

function locate(cgroup: string): [Hierarchy, string] {
  // join() resolves `..`, which so cannot lead out of the hierarchy
  const path = join('/', cgroup).replace(/(?<=.)\/$/, '');
  for (const hierarchy of hierarchies()) {
    const below = path.startsWith(`${hierarchy.root}/`) ? path.slice(hierarchy.root.length) : path;
    if (below === '/' || existsSync(join(hierarchy.root, below, hierarchy.control))) return [hierarchy, below];
  }
  throw invalid(cgroup, 'does not exist, or cannot be frozen', 'See /proc/PID/cgroup of a process of the container.');
}

/** From lines such as `0::/user.slice` and `6:freezer:/x`. */
function cgroupPath(pid: number | 'self', { controller }: Hierarchy): string | null {
  const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').split('\n');
  for (const line of lines) {
    const [, controllers = '', ...path] = line.split(':');
    if (path.length > 0 && controllers.split(',').includes(controller)) return path.join(':');
  }
  return null;
}

function shows(directory: string, [file, text]: readonly [string, string]): boolean {
  return readFileSync(join(directory, file), 'utf8').split('\n').includes(text);
}

function sleep(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

function invalid(cgroup: string, what: string, hint: string): LayerdError {
  return new LayerdError('INVALID_ARGUMENT', `the cgroup ${cgroup} ${what}`, { details: { cgroup }, hint });
}
