/**
 * The engine is killed (SIGKILL) in the middle of operations, at moments that a seed decides; whatever comes first after
 * a start, nothing that was answered is lost and nothing half-made is left. LAYERD_SEED repeats a run, LAYERD_KILLS
 * says how many kills there are for each driver and operation.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { fixture, type Fixture } from '../../bench/fixtures/fixtures.js';
import { imageRef } from '../../bench/fixtures/image.js';
import type { DriverName } from '../../src/core/words.js';
import { describeWith } from '../support.js';
import { needsFixtures, TESTED_DRIVERS, TestStore } from '../e2e/store.js';
import { COMMITTED, CONTAINER, type Operation, type Plan } from './victim-plan.js';

const VICTIM = fileURLToPath(new URL('victim.js', import.meta.url));
const REF = imageRef('tiny');
const OPERATIONS: Operation[] = ['load', 'commit', 'gc', 'containers'];
const KILLS = Number(process.env['LAYERD_KILLS'] ?? (process.env['LAYERD_CRASH'] === 'full' ? 25 : 2));
const SEED = Number(process.env['LAYERD_SEED'] ?? Date.now() % 1_000_000);

let tiny: Fixture;

beforeAll(async () => {
  tiny = await fixture('tiny');
}, 600_000);

/** Runs the victim; null where it died before its operation was answered, else what it took. */
function runVictim(store: TestStore, operation: Operation, delayMs: number | null): number | null {
  const plan: Plan = { config: store.config, archive: tiny.forms.ociArchive.path, ref: REF, operation, delayMs };
  const { stdout, stderr, status, signal } = spawnSync(process.execPath, [VICTIM, JSON.stringify(plan)], {
    encoding: 'utf8',
  });
  if (stderr !== '' || (status !== 0 && signal !== 'SIGKILL')) throw new Error(`the victim failed: ${stderr}`);
  return stdout === '' ? null : (JSON.parse(stdout) as { tookMs: number }).tookMs;
}

/** Everything that must hold after a start, whenever the engine before it died. */
async function expectSound(store: TestStore, operation: Operation, answered: boolean): Promise<void> {
  const { engine } = store;
  expect((await store.check()).problems).toEqual([]);
  expect(engine.leases()).toEqual([]);
  expect((await engine.info()).counts.leases).toBe(0);
  expectAnswered(store, operation, answered);
  await store.collect();
  const { rows, total } = await engine.diskUsage();
  expect(rows.filter(({ kind }) => kind === 'staging' || kind === 'other' || kind === 'trash')).toEqual([]);
  expect(total).toBe(await store.allocated());
  await store.load(tiny.forms.ociArchive.path);
  expect(engine.image(REF).id).toBe(tiny.configDigest);
  const root = await store.container(REF, 'after');
  expect(readFileSync(join(root, 'srv/app/lib/numbers'), 'utf8').split('\n')).toHaveLength(2001);
  expect((await store.check()).problems).toEqual([]);
  await store.removeAll();
  expect(await store.leftovers()).toEqual([]);
  expect(store.mounted()).toEqual([]);
}

function expectAnswered({ engine }: TestStore, operation: Operation, answered: boolean): void {
  const refs = [...engine.images()].flatMap((image) => image.refs);
  if (operation === 'load' && answered) expect(refs).toEqual([REF]);
  if (operation === 'commit') {
    if (answered) expect(refs).toContain(COMMITTED);
    // The container was mounted before, and the mount outlives the engine.
    const { mounts, path } = engine.container(CONTAINER);
    expect(mounts).toBe(1);
    expect(readFileSync(join(path ?? '', 'tmp/file-99'), 'utf8')).toBe('99\n'.repeat(999));
  }
  if (operation === 'gc' && answered) expect([...engine.layers()]).toEqual([]);
  if (operation === 'containers' && answered) expect([...engine.containers()]).toEqual([]);
}

describeWith(`kill -9 (LAYERD_SEED=${SEED})`, needsFixtures(), () => {
  describe.each(TESTED_DRIVERS)('%s', (driver) => {
    it.each(OPERATIONS)('in the middle of %s', (operation) => killRepeatedly(driver, operation), 3_600_000);
  });
});

async function killRepeatedly(driver: DriverName, operation: Operation): Promise<void> {
  const random = generator(`${SEED} ${driver} ${operation}`);
  const store = await TestStore.open({ driver });
  try {
    await store.stop();
    // The first victim lives, and tells how long the operation takes.
    const tookMs = runVictim(store, operation, null) ?? 0;
    await startSound(store, operation, true);
    for (let kill = 0; kill < KILLS; kill += 1) {
      const answered = runVictim(store, operation, Math.floor(random() * tookMs)) !== null;
      await startSound(store, operation, answered);
    }
  } finally {
    await store.remove();
  }
}

async function startSound(store: TestStore, operation: Operation, answered: boolean): Promise<void> {
  await store.start();
  await expectSound(store, operation, answered);
  await store.stop();
}

/** Numbers from 0 to 1 that the seed decides. */
function generator(seed: string): () => number {
  let count = 0;
  return () => createHash('sha256').update(`${seed} ${count++}`).digest().readUInt32BE() / 2 ** 32;
}
