/**
 * A disk that is full or fails, and too few descriptors: the error says what is wrong and what to do, nothing is damaged,
 * nothing is left behind, and work goes on when the trouble is over. LAYERD_TROUBLE says how many points of each request are
 * tried (`npm run test:crash` tries many more than `npm test`); every request meets each of them.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, readdirSync, rmSync, statfsSync } from 'node:fs';
import { constants as os } from 'node:os';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../../bench/fixtures/shell.js';
import { LayerdClient } from '../../src/client/index.js';
import { isErrno } from '../../src/core/errors.js';
import { fallocate } from '../../src/linux/extents.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { attempt, Bench, REQUESTS, workThrough, type Trouble } from './bench.js';
import { keepingDisk } from './disk.js';
import { CALLS } from './preload.js';
import { Stage } from './stage.js';

const POINTS = Number(process.env['LAYERD_TROUBLE'] ?? (process.env['LAYERD_CRASH'] === 'full' ? 20 : 2));
const LIMIT_MS = 900_000 + POINTS * 120_000;

const NEEDS = [
  needsRoot(),
  needsProgram('mkfs.xfs', 'xfsprogs'),
  needsProgram('mkfs.ext4', 'e2fsprogs'),
  needsProgram('cc', 'gcc'),
];

let stage: Stage;

describeWith('trouble', NEEDS, () => {
  beforeAll(async () => {
    stage = await Stage.make();
  });
  afterAll(() => stage.remove());

  describe.each(['erofs', 'overlay2', 'copy'] as const)('a full disk, %s', (driver) => {
    it('fails with NO_SPACE, whatever there is room for', { timeout: LIMIT_MS }, async () => {
      await Bench.with(stage, await keepingDisk(stage, 'xfs'), driver, async (bench) => {
        let failed = 0;
        for (let point = 0; point < POINTS; point += 1) {
          // from nothing to what an image takes
          failed += await workThrough(bench, filled(bench, (point * 2_000_000) / POINTS), ['NO_SPACE']);
        }
        expect(failed).toBeGreaterThan(0);
      });
    });
  });

  describe.each([
    { what: 'ENOSPC at writes', kinds: CALLS.write, errno: os.errno.ENOSPC, codes: ['NO_SPACE'] },
    { what: 'ENOSPC at names', kinds: CALLS.name, errno: os.errno.ENOSPC, codes: ['NO_SPACE'] },
    { what: 'EIO at writes and syncs', kinds: CALLS.write + CALLS.sync, errno: os.errno.EIO, codes: ['IO_ERROR'] },
    // SQLite cannot tell a page that it cannot read from one that is not what it was
    { what: 'EIO at reads', kinds: CALLS.read, errno: os.errno.EIO, codes: ['IO_ERROR', 'STORE_DAMAGED'] },
  ] as const)('$what', ({ kinds, errno, codes }) => {
    it.each(['once', 'from then on'] as const)('fails clearly, %s', { timeout: LIMIT_MS }, async (how) => {
      await Bench.with(stage, await keepingDisk(stage, 'ext4'), 'overlay2', async (bench) => {
        const calls = await countCalls(bench, kinds);
        let failed = 0;
        for (let point = 0; point < POINTS; point += 1) {
          const trouble: Trouble = {
            begin: (request) => {
              const first = 1 + Math.floor(((calls.get(request) ?? 0) * point) / POINTS);
              const times = how === 'once' ? 1 : ALWAYS;
              bench.preload.fail({ kinds, errno, first, times, on: bench.root });
            },
            end: () => bench.preload.relent(),
          };
          failed += await workThrough(bench, trouble, codes);
        }
        expect(failed).toBeGreaterThan(0);
      });
    });
  });

  it('too few descriptors: fails with TOO_MANY_FILES', { timeout: LIMIT_MS }, async () => {
    await Bench.with(stage, await keepingDisk(stage, 'ext4'), 'overlay2', async (bench) => {
      // Code is loaded when it is first needed, and Node never tries again what it once could not read.
      await bench.expectWorking();
      let failed = 0;
      for (let room = 0; room < POINTS; room += 1) {
        // A connection that comes when not one descriptor is left cannot be answered: libuv takes it and closes it.
        failed += await workThrough(bench, descriptors(bench, 3 * room), ['TOO_MANY_FILES', 'STREAM_BROKEN']);
      }
      expect(failed).toBeGreaterThan(0);
    });
  });

  it('connections leave descriptors to the work: more are told TOO_MANY_FILES', { timeout: LIMIT_MS }, async () => {
    await Bench.with(stage, await keepingDisk(stage, 'ext4'), 'overlay2', async (bench) => {
      const { daemon } = bench.daemon;
      // its connection is there before the others
      await bench.expectWorking();
      const trouble = descriptors(bench, 200);
      trouble.begin('connect');
      const idle: Socket[] = [];
      const crowd = async (): Promise<void> => {
        idle.push(...(await Promise.all(Array.from({ length: 400 }, () => connected(daemon.socket)))));
      };
      const late = async (): Promise<string | null> => {
        const client = new LayerdClient({ socket: daemon.socket });
        try {
          return await attempt(() => client.info(), ['TOO_MANY_FILES', 'STREAM_BROKEN']);
        } finally {
          client.close();
        }
      };
      await crowd();
      try {
        // What was refused with them makes room within a second; then there is room for words again. Threads that end
        // make room for more.
        await expect
          .poll(
            async () => {
              const answer = await late();
              if (answer === null) await crowd();
              return answer;
            },
            { timeout: 60_000 },
          )
          .toBe('TOO_MANY_FILES');
        for (const { run: request } of REQUESTS) await request(bench);
        await bench.expectSound();
      } finally {
        for (const socket of idle) socket.destroy();
        trouble.end();
      }
      await expect.poll(late, { timeout: 60_000 }).toBe(null);
      await bench.expectWorking();
    });
  });

  it('a database that another program holds: fails with TIMEOUT', { timeout: LIMIT_MS }, async () => {
    await Bench.with(stage, await keepingDisk(stage, 'ext4'), 'overlay2', async (bench) => {
      await bench.daemon.load(bench.archive);
      const holder = new Database(join(bench.root, 'db/layerd.db'));
      try {
        holder.exec('BEGIN IMMEDIATE');
        const tag = (): Promise<void> => bench.daemon.tag(bench.archive.ref, 'localhost/tagged:1');
        expect(await attempt(tag, ['TIMEOUT'])).toBe('TIMEOUT');
      } finally {
        holder.close();
      }
      await bench.expectSound();
      await bench.expectWorking();
    });
  });

  it(
    'a disk that became read-only: fails with READ_ONLY_STORE, and does not start',
    { timeout: LIMIT_MS },
    async () => {
      const disk = await keepingDisk(stage, 'ext4');
      await Bench.with(stage, disk, 'overlay2', async (bench) => {
        await bench.daemon.load(bench.archive);
        // what ext4 does by itself when the disk fails
        await run('mount', ['-o', 'remount,abort', disk.path]);
        const create = (): Promise<void> => bench.daemon.createContainer('box', bench.archive.ref);
        expect(await attempt(create, ['READ_ONLY_STORE', 'IO_ERROR'])).not.toBeNull();
        await bench.stop();
        await expect(bench.start()).rejects.toThrow('READ_ONLY_STORE');
        await disk.remount();
        await bench.start();
        expect((await bench.daemon.daemon.client.images()).map(({ id }) => id)).toEqual([bench.archive.imageId]);
        await bench.expectSound();
        await bench.expectWorking();
      });
    },
  );

  it('a full disk at the start: says so, and starts when there is room', { timeout: LIMIT_MS }, async () => {
    await Bench.with(stage, await keepingDisk(stage, 'xfs'), 'overlay2', async (bench) => {
      await bench.daemon.load(bench.archive);
      await bench.stop();
      const trouble = filled(bench, 0);
      trouble.begin('start');
      await expect(bench.start()).rejects.toThrow('NO_SPACE');
      trouble.end();
      await bench.start();
      await bench.expectSound();
      await bench.expectWorking();
    });
  });
});

/** More calls than there are. */
const ALWAYS = 2 ** 30;

/** How many calls of these kinds each request makes. */
async function countCalls(bench: Bench, kinds: number): Promise<ReadonlyMap<string, number>> {
  const calls = new Map<string, number>();
  for (const { name, run: request } of REQUESTS) {
    bench.preload.fail({ kinds, errno: 0, first: ALWAYS, times: 0, on: bench.root });
    await request(bench);
    calls.set(name, bench.preload.seen);
  }
  bench.preload.relent();
  await bench.expectWorking();
  return calls;
}

/** The disk has room for so many bytes during each request. */
function filled(bench: Bench, room: number): Trouble {
  const ballast = join(bench.disk.path, 'ballast');
  return {
    begin: () => fill(ballast, bench.disk.path, room),
    end: () => rmSync(ballast),
  };
}

/** Makes a file that leaves `room` bytes, in ever smaller steps. */
function fill(ballast: string, disk: string, room: number): void {
  const fd = openSync(ballast, 'w');
  try {
    let size = 0;
    for (let step = 256 * 1024 ** 2; step >= 4096; step /= 2) {
      while (freeBytes(disk) - step >= room && reserve(fd, size, step)) size += step;
    }
  } finally {
    closeSync(fd);
  }
}

function freeBytes(disk: string): number {
  const { bavail, bsize } = statfsSync(disk);
  return bavail * bsize;
}

/** False where the disk has no room for it: file systems keep some to themselves. */
function reserve(fd: number, offset: number, length: number): boolean {
  try {
    fallocate(fd, offset, length);
    return true;
  } catch (thrown) {
    if (isErrno(thrown, 'ENOSPC')) return false;
    throw thrown;
  }
}

/** The daemon may open so many more files. */
function descriptors(bench: Bench, room: number): Trouble {
  const { pid } = bench.daemon.daemon;
  const limit = (files: number): Buffer => execFileSync('prlimit', ['--pid', String(pid), `--nofile=${files}:`]);
  return {
    begin: () => limit(readdirSync(`/proc/${pid}/fd`).length + room),
    end: () => limit(MANY_FILES),
  };
}

const MANY_FILES = 1024;

/** A connection that says nothing, and may be closed by the daemon. */
function connected(path: string): Promise<Socket> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.on('error', () => socket.destroy());
    socket.once('connect', () => resolve(socket)).once('close', () => resolve(socket));
  });
}
