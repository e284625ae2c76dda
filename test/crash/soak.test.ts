/**
 * Mixed load through every door for long, its deeds by a seed (LAYERD_SEED): half a minute, or an hour in the long form
 * (LAYERD_SOAK_MINUTES for another time). Afterwards nothing is left: no descriptor, no mount, no byte, no memory.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it, vi } from 'vitest';
import { isErrno } from '../../src/core/errors.js';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { startDaemon, type PrivateDaemon } from '../../examples/private-daemon.js';
import { makeHome, removeHome } from '../cli/daemon.js';
import { SnapshotsClient } from '../clients/snapshots-client.js';
import { allocatedBytes } from '../e2e/store.js';
import { makeArchives } from '../power/images.js';
import { describeWith, needsRoot } from '../support.js';
import { FULL, Random, SEED } from './random.js';
import { ContainerdClient, DockerClient, NativeClient, type SoakClient } from './soak-clients.js';

const MINUTES = Number(process.env['LAYERD_SOAK_MINUTES'] ?? (FULL ? 60 : 0.4));
const NATIVE_CLIENTS = 3;
/** Between two deeds of a client, at most: the long form runs beside other things for its time. */
const PAUSE_MS = FULL ? 100 : 10;
const SAMPLE_MS = 500;
/** Worker threads end when they were idle for some seconds; each has some descriptors of its own. */
const SETTLED = { timeout: 120_000, interval: 1000 } as const;

/**
 * Resident memory follows the heaps of a dozen threads, which V8 lets grow and shrink by some MB as it sees fit; medians
 * over a quarter of the time leave that out. Both quarters that are compared come after the first one, when all code was
 * loaded and each kind of thread had run, and hold hundreds of samples. What is lost with every deed, were it a few KB,
 * adds up to more than this in an hour's tens of thousands of deeds.
 */
const GROWTH_MB = 32;
/** All lanes at work at once take 300 to 330 MB; what needs far more holds something that it should not. */
const MOST_MB = 512;

describeWith(`a soak of ${MINUTES} minutes (LAYERD_SEED=${SEED})`, [needsRoot()], () => {
  it('leaves nothing, and needs no more at its end than before', soak, MINUTES * 60_000 + 600_000);
});

async function soak(): Promise<void> {
  const home = makeHome();
  const daemon = await startDaemon(home, ['--log-level', 'warn', '--gc-interval', '5s']);
  try {
    await during(daemon, home, Math.min(MINUTES, 0.1), 'warm');
    await expectNothing(daemon, home);
    daemon.client.close();
    const before = held(daemon);
    const { memory, deeds } = await during(daemon, home, MINUTES, 'soak');
    await expectNothing(daemon, home);
    daemon.client.close();
    await vi.waitFor(() => expect(more(before, held(daemon))).toEqual([]), SETTLED);
    const quarters = [0, 1, 2, 3].map((quarter) => median(quarterOf(memory, quarter)));
    process.stderr.write(`soak: ${deeds} deeds; resident, by quarters: ${quarters.map(Math.round).join(', ')} MB\n`);
    expect(Math.max(...quarters)).toBeLessThan(MOST_MB);
    if (FULL) expect((quarters[3] ?? Infinity) - (quarters[1] ?? 0)).toBeLessThan(GROWTH_MB);
    expect(readFileSync(join(home, 'layerd.log'), 'utf8')).toBe('');
  } finally {
    await daemon.stop();
    removeHome(home);
  }
}

/** The load, from nothing to nothing; memory while it lasts. */
async function during(
  daemon: PrivateDaemon,
  home: string,
  minutes: number,
  name: string,
): Promise<{ memory: number[]; deeds: number }> {
  const random = (who: string): Random => new Random(`${SEED} ${name} ${who}`);
  const archives = makeArchives(home, NATIVE_CLIENTS * 2, `${SEED} ${name}`);
  const clients: SoakClient[] = [
    ...Array.from({ length: NATIVE_CLIENTS }, (_, index) => {
      const own = archives.filter((__, archive) => archive % NATIVE_CLIENTS === index);
      return new NativeClient(daemon.client, own, random(`native ${index}`), `${name}${index}`);
    }),
    new ContainerdClient(join(home, 'run', 'containerd.sock'), random('containerd')),
    new DockerClient(join(home, 'run', 'docker.sock'), random('docker')),
  ];
  const until = Date.now() + minutes * 60_000;
  const memory: number[] = [];
  let deeds = 0;
  const use = async (client: SoakClient, pauses: Random): Promise<void> => {
    while (Date.now() < until) {
      await client.act();
      deeds += 1;
      await sleep(pauses.below(PAUSE_MS));
    }
    await client.end();
  };
  const watch = async (): Promise<void> => {
    while (Date.now() < until) {
      memory.push(residentMb(daemon.pid));
      await sleep(SAMPLE_MS);
    }
  };
  await Promise.all([...clients.map((client, index) => use(client, random(`pauses ${index}`))), watch()]);
  return { memory, deeds };
}

/** Every door and the disk: nothing is left of the load. */
async function expectNothing(daemon: PrivateDaemon, home: string): Promise<void> {
  const { client } = daemon;
  // what was committed through a door becomes a layer in the background, under a lease
  await vi.waitFor(async () => {
    await client.gc({ grace: 0, wait: true });
    expect(await client.layers()).toEqual([]);
    expect(await client.leases()).toEqual([]);
  }, SETTLED);
  expect(await client.images()).toEqual([]);
  expect(await client.containers()).toEqual([]);
  const containerd = new SnapshotsClient(join(home, 'run', 'containerd.sock'), 'soak');
  expect(await containerd.blocks()).toEqual([]);
  containerd.close();
  expect(mountsBelow(home)).toEqual([]);
  expect((await client.check()).problems).toEqual([]);
  const { total, rows } = await client.diskUsage();
  expect(rows.filter(({ kind }) => kind !== 'metadata')).toEqual([]);
  expect(total).toBe(await allocatedBytes(join(home, 'root')));
}

/** What the process has open: files by name, the rest by kind. */
function held(daemon: PrivateDaemon): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const fd of readdirSync(`/proc/${daemon.pid}/fd`)) {
    const target = targetOf(`/proc/${daemon.pid}/fd/${fd}`);
    if (target === null) continue;
    const name = target.startsWith('/') ? target : target.replace(/:.*/, '');
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

/** Null for one that was closed meanwhile. */
function targetOf(path: string): string | null {
  try {
    return readlinkSync(path);
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return null;
    throw thrown;
  }
}

/** Of what there is more than there was. */
function more(before: Record<string, number>, after: Record<string, number>): string[] {
  return Object.entries(after).flatMap(([name, count]) => (count > (before[name] ?? 0) ? `${name}: ${count}` : []));
}

function residentMb(pid: number): number {
  const [, kb = '0'] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kb) / 1024;
}

function quarterOf(values: readonly number[], quarter: number): number[] {
  return values.slice(Math.floor((values.length * quarter) / 4), Math.floor((values.length * (quarter + 1)) / 4));
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;
}
