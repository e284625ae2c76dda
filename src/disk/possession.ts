/** Whose a root and a run directory are: one daemon has both, and a run directory serves one root. */
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  writeSync,
} from 'node:fs';
import { LayerdError } from '../core/errors.js';
import type { Places } from '../core/places.js';
import { linuxAvailable } from '../linux/libc.js';
import { tryLock } from '../linux/lock.js';
import { mountsBelow } from '../linux/mountinfo.js';

/** What a lock file says: the pid of the daemon that has it, and the root that it serves. */
interface Holder {
  pid: string;
  root: string;
}

/** Held until `release()`, or until the process ends, however it ends. */
export class Possession {
  private readonly descriptors: readonly number[];

  private constructor(descriptors: readonly number[]) {
    this.descriptors = descriptors;
  }

  /**
   * Makes the two directories where they are missing and takes them. Throws STORE_LOCKED naming the daemon that has the
   * root, RUN_IN_USE naming the daemon that has the run directory, or the root that still has mounts there: a start lets
   * go of mounts that it knows nothing of, and these are those of somebody's containers.
   */
  static take(places: Places): Possession {
    mkdirSync(places.root, { recursive: true, mode: 0o700 });
    mkdirSync(places.run, { recursive: true, mode: 0o755 });
    const mine: Holder = { pid: String(process.pid), root: realpathSync(places.root) };
    const root = lock(places.lock, ({ pid }) => storeLocked(places.root, pid));
    try {
      const run = lock(places.runLock, (holder) => runInUse(places.run, holder));
      write(root.fd, mine);
      try {
        refuseForeignMounts(places, mine, run.last);
        write(run.fd, mine);
      } catch (error) {
        closeSync(run.fd);
        throw error;
      }
      return new Possession([root.fd, run.fd]);
    } catch (error) {
      closeSync(root.fd);
      throw error;
    }
  }

  release(): void {
    for (const fd of this.descriptors) closeSync(fd);
  }
}

/** Takes the lock of a file; `last` is who wrote into it before us. */
function lock(path: string, taken: (holder: Holder) => LayerdError): { fd: number; last: Holder } {
  const fd = openSync(path, 'a+', 0o600);
  const [pid = '', root = ''] = readFileSync(path, 'utf8').split('\n');
  if (linuxAvailable().available && !tryLock(fd)) {
    closeSync(fd);
    throw taken({ pid, root });
  }
  return { fd, last: { pid, root } };
}

function write(fd: number, { pid, root }: Holder): void {
  ftruncateSync(fd, 0);
  writeSync(fd, `${pid}\n${root}\n`);
}

/** Mounts outlive the daemon that made them. Those of a root that is gone belong to nobody any more. */
function refuseForeignMounts(places: Places, mine: Holder, last: Holder): void {
  if (last.root === '' || last.root === mine.root || !existsSync(last.root) || !linuxAvailable().available) return;
  const mounts = [places.layerMounts, places.merged].flatMap((path) => mountsBelow(path));
  if (mounts.length === 0) return;
  throw new LayerdError('RUN_IN_USE', `${places.run} holds ${mounts.length} mounts of another root, ${last.root}`, {
    details: { run: places.run, root: last.root, mounts: mounts.length },
    hint: 'Choose another run directory (--run), or unmount the containers of that root first.',
  });
}

function storeLocked(root: string, pid: string): LayerdError {
  return new LayerdError('STORE_LOCKED', `another layerd (pid ${pid}) has the root ${root}`, {
    details: { root, pid },
    hint: 'Stop that daemon, or give this one a root of its own (--root).',
  });
}

function runInUse(run: string, { pid, root }: Holder): LayerdError {
  return new LayerdError(
    'RUN_IN_USE',
    `another layerd (pid ${pid}) has the run directory ${run} for its root ${root}`,
    {
      details: { run, pid, root },
      hint: 'Stop that daemon, or give this one a run directory of its own (--run).',
    },
  );
}
