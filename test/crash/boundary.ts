/**
 * Fault injection at the boundary of the program: loaded before it (`node --import boundary.js`), into every thread, this
 * stands between layerd and each call by which it changes a disk, the mount table or the database. The product knows
 * nothing of it, and no step can be forgotten: what an operation does is recorded, and each call that was seen is a point
 * where it can be killed or given an error.
 *
 * A point is the call and who made it: `renameSync disk/trash:moveOne:37 < disk/trash:moveToTrash < …`. What happens
 * is told by BOUNDARY in the environment, the JSON of a {@link BoundaryPlan}, while the file DIRECTORY/armed exists.
 */
import fs from 'node:fs';
import promises from 'node:fs/promises';
import { createRequire, syncBuiltinESMExports } from 'node:module';
import { constants } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { libc, linuxAvailable } from '../../src/linux/libc.js';
import type { BoundaryPlan } from './boundary-plan.js';

type Call = (this: unknown, ...args: unknown[]) => unknown;
type Calls = Record<string, Call>;

const plan = JSON.parse(process.env['BOUNDARY'] ?? '') as BoundaryPlan;
const { existsSync, statSync, openSync, writeSync, closeSync } = fs;
const koffi = createRequire(import.meta.url)('koffi') as { errno(value: number): number };

const SYNC = [
  'chmodSync',
  'fsyncSync',
  'ftruncateSync',
  'mkdirSync',
  'mkdtempSync',
  'renameSync',
  'rmSync',
  'rmdirSync',
  'unlinkSync',
  'writeFileSync',
  'writeSync',
] as const;
const CALLBACK = ['fsync', 'fdatasync', 'write', 'writev', 'rename', 'unlink', 'rmdir', 'mkdir', 'chmod'] as const;
const PROMISE = ['chmod', 'mkdir', 'rename', 'rm', 'rmdir', 'unlink', 'writeFile', 'chown', 'symlink', 'link'] as const;
const HANDLE = ['write', 'writev', 'writeFile', 'sync', 'datasync', 'truncate', 'chmod'] as const;
const LIBC = [
  'copyFileRange',
  'fallocate',
  'fchmod',
  'fchmodat',
  'fchmodat2',
  'fchown',
  'fchownat',
  'fremovexattr',
  'fsetxattr',
  'fsmount',
  'ftruncate',
  'futimens',
  'linkat',
  'lremovexattr',
  'lsetxattr',
  'mkdirat',
  'mknodat',
  'mount',
  'mountSetattr',
  'moveMount',
  'pwrite',
  'renameat2',
  'symlinkat',
  'syncFileRange',
  'syncfs',
  'umount2',
  'unlinkat',
  'utimensat',
] as const;

/** The frames of layerd nearest to the call: `file:function`, the first with its line. */
function callers(): string {
  const holder: { stack?: string } = {};
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 40;
  Error.captureStackTrace(holder, callers);
  Error.stackTraceLimit = stackTraceLimit;
  const frames: string[] = [];
  for (const line of (holder.stack ?? '').split('\n')) {
    const found = /at (?:async )?(?:(.+?) \()?(?:file:\/\/)?\/.*\/(?:src|(drivers))\/(.+?)\.js:(\d+):\d+\)?$/.exec(
      line,
    );
    if (found === null || /^linux\/|^disk\/sync$/.test(found[3] ?? '')) continue;
    const name = `${found[2] === undefined ? '' : 'drivers/'}${found[3]}:${found[1] ?? '-'}`;
    frames.push(frames.length === 0 ? `${name}:${found[4]}` : name);
    if (frames.length === 3) break;
  }
  return frames.join(' < ');
}

/** Whether this call is the one that the plan means. In recording it is written down. */
function isTarget(call: string): boolean {
  if (!existsSync(join(plan.directory, 'armed'))) return false;
  const made = callers();
  if (made === '') return false; // the test's own, or what Node does inside a call that we stand before
  const point = `${call} ${made}`;
  if (plan.deed === 'record') note('points', `${point}\n`);
  if (plan.deed === 'record' || point !== plan.point) return false;
  note('hits', '.');
  if (statSync(join(plan.directory, 'hits')).size < plan.hit) return false;
  try {
    closeSync(openSync(join(plan.directory, 'done'), 'wx'));
    return true;
  } catch {
    return false; // it happens once
  }
}

/** Adds to a file of the plan's directory; by calls that nothing stands before. */
function note(file: string, text: string): void {
  const fd = openSync(join(plan.directory, file), 'a');
  writeSync(fd, text);
  closeSync(fd);
}

function die(): never {
  process.kill(process.pid, 'SIGKILL');
  for (;;);
}

function ioError(call: string): NodeJS.ErrnoException {
  const errno = plan.deed === 'ENOSPC' ? constants.errno.ENOSPC : constants.errno.EIO;
  const code = plan.deed === 'ENOSPC' ? 'ENOSPC' : 'EIO';
  return Object.assign(new Error(`${code}: injected, ${call}`), { code, errno: -errno, syscall: call });
}

/** Puts a call in the place of `real`; `fail` gives the injected error in the call's own way. */
function around(
  name: string,
  real: Call,
  fail: (args: unknown[]) => unknown,
  after: (result: unknown) => unknown,
): Call {
  return function (...args) {
    if (!isTarget(name)) return real.apply(this, args);
    if (plan.deed === 'kill before') die();
    if (plan.deed === 'kill after') return after(real.apply(this, withDeath(args)));
    return fail(args);
  };
}

/** The callback, if there is one, is what comes after the call. */
function withDeath(args: unknown[]): unknown[] {
  return typeof args.at(-1) === 'function' ? [...args.slice(0, -1), die] : args;
}

function synchronous(name: string, real: Call): Call {
  return around(
    name,
    real,
    () => {
      throw ioError(name);
    },
    die,
  );
}

function calledBack(name: string, real: Call): Call {
  const fail = (args: unknown[]): void => {
    const done = args.at(-1) as (error: Error) => void;
    process.nextTick(() => done(ioError(name)));
  };
  return around(name, real, fail, () => undefined);
}

function promised(name: string, real: Call): Call {
  return around(
    name,
    real,
    () => Promise.reject(ioError(name)),
    (result) => (result as Promise<unknown>).then(die, die),
  );
}

function native(name: string, real: Call & { async?: Call }): Call {
  const errno = plan.deed === 'ENOSPC' ? constants.errno.ENOSPC : constants.errno.EIO;
  const fail = (): number => {
    koffi.errno(errno);
    return -1;
  };
  const failLater = (args: unknown[]): void => {
    const done = args.at(-1) as (error: null, result: number) => void;
    setImmediate(() => done(null, fail()));
  };
  const own = around(name, real, fail, die);
  return real.async === undefined
    ? own
    : Object.assign(own, { async: around(name, real.async, failLater, () => undefined) });
}

function replace(calls: Calls, names: readonly string[], wrap: (name: string, real: Call) => Call, prefix = ''): void {
  for (const name of names) {
    const real = calls[name];
    if (real === undefined) throw new Error(`there is no ${name} to stand before`);
    calls[name] = wrap(prefix + name, real);
  }
}

/** A commit, named by the operations whose statements it holds. An injected error comes before it: all rolls back. */
function standBeforeCommits(): void {
  const memory = new Database(':memory:');
  const statement = Object.getPrototypeOf(memory.prepare('SELECT 1')) as Calls;
  memory.close();
  const operations = new Set<string>();
  replace(statement, ['run'], (_name, real) => {
    return function (...args) {
      const operation = /at (\w+) \(.*\/metadata\/operations\//.exec(new Error('here').stack ?? '')?.[1];
      if (operation !== undefined) operations.add(operation);
      return real.apply(this, args);
    };
  });
  const database = Database.prototype as unknown as {
    transaction: (this: Database.Database, work: Call) => Call & { immediate: Call };
  };
  const { transaction } = database;
  database.transaction = function (this: Database.Database, work) {
    if (this.inTransaction) return transaction.call(this, work);
    let target = false;
    const made = transaction.call(this, function (...args) {
      operations.clear();
      const result = work.apply(this, args);
      target = isTarget(`commit of ${[...operations].sort().join(', ')}`);
      if (target && plan.deed === 'kill before') die();
      if (target && plan.deed !== 'kill after') {
        const code = plan.deed === 'ENOSPC' ? 'SQLITE_FULL' : 'SQLITE_IOERR_FSYNC';
        throw new Database.SqliteError('injected', code);
      }
      return result;
    });
    const { immediate } = made;
    return Object.assign((...args: unknown[]) => made(...args), {
      immediate(...args: unknown[]) {
        const result = immediate.apply(made, args);
        return target ? die() : result;
      },
    });
  };
}

const handle = await promises.open('/dev/null');
const handles = Object.getPrototypeOf(handle) as Calls;
await handle.close();
replace(fs as unknown as Calls, SYNC, synchronous);
replace(fs as unknown as Calls, CALLBACK, calledBack);
replace(promises as unknown as Calls, PROMISE, promised, 'promises.');
replace(handles, HANDLE, promised, 'handle.');
syncBuiltinESMExports();
if (linuxAvailable().available) replace(libc() as unknown as Calls, LIBC, native, 'libc.');
standBeforeCommits();
