/** One disk, one daemon, one workload, and a number of power cuts; then every cut is looked at. */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { unmountBelow } from '../conformance/file-system.js';
import { toLayerdError, type ErrorCode } from '../../src/core/errors.js';
import { cachingDisk, type Disk } from './disk.js';
import type { Injection } from './fuse/client.js';
import { makeArchives, type Archive } from './images.js';
import { countPresent, Ledger, type Claims } from './ledger.js';
import type { Preload } from './preload.js';
import type { Random } from './random.js';
import { mountDisk, type DiskFormat, type Stage } from './stage.js';
import { nothingFound, type Findings, type Running, type Subject } from './subject.js';
import { work } from './workload.js';

const ARCHIVES = 9;
const CLIENTS = 3;
/** Half of the cuts come at once behind an answer, the others up to so much later. */
const DELAY_MS = 40;
const ANSWERS_BETWEEN = 6;
/** A disk that fails for reading only may not be asked for long: everything is in memory. */
const ANSWERS_OF_FAILING = 30;

export interface Round {
  stage: Stage;
  subject: Subject;
  format: DiskFormat;
  makeDisk: (stage: Stage, format: DiskFormat) => Promise<Disk>;
  cuts: number;
  random: Random;
  /** Nothing that the subject syncs is synced. */
  unsynced?: Preload;
}

/** What came of a number of cuts. */
export interface Outcome extends Findings {
  cuts: number;
  /** Things that had been acknowledged when the power went, over all cuts. */
  acknowledged: number;
}

interface Cut {
  file: string;
  claims: Claims;
}

export async function runRound(round: Round): Promise<Outcome> {
  const archives = makeArchives(round.stage.fresh(), ARCHIVES, String(round.random.fraction()));
  const outcome: Outcome = { cuts: 0, acknowledged: 0, ...nothingFound() };
  for (const [index, cut] of (await takeCuts(round, archives)).entries()) {
    const findings = await lookAt(round, cut, archives);
    outcome.cuts += 1;
    outcome.acknowledged += countPresent(cut.claims);
    for (const lost of findings.lost) outcome.lost.push(`cut ${index}: ${lost}`);
    for (const damaged of findings.damaged) outcome.damaged.push(`cut ${index}: ${damaged}`);
    outcome.unaccounted += findings.unaccounted;
  }
  return outcome;
}

async function takeCuts(round: Round, archives: readonly Archive[]): Promise<Cut[]> {
  const { stage, subject, random } = round;
  const disk = await round.makeDisk(stage, round.format);
  const home = stage.fresh();
  round.unsynced?.dropSyncs();
  try {
    const environment = round.unsynced?.environment ?? {};
    const running = await subject.start({ root: join(disk.path, 'root'), home, environment });
    const ledger = new Ledger();
    let over = false;
    const working = work({ running, ledger, archives, clients: CLIENTS, random, stopped: () => over });
    // What the workload throws is thrown below; until then it must not be nobody's.
    working.catch(() => undefined);
    const cuts: Cut[] = [];
    try {
      while (cuts.length < round.cuts) {
        // the first may come before anything was answered
        const answers = random.below(ANSWERS_BETWEEN) + Math.min(1, cuts.length);
        cuts.push(await Promise.race([nextCut(round, { disk, ledger, answers }), failure(working)]));
      }
      over = true;
      await working;
    } finally {
      await running.kill();
    }
    return cuts;
  } finally {
    unmountBelow(home);
    await disk.remove();
  }
}

/**
 * The disk begins to fail in the middle of the work, and stays so; then the machine goes down. The work may only fail with
 * one of `codes`. Returns what is found when the disk is well again.
 */
export async function failDisk(
  { stage, subject, format, random }: Pick<Round, 'stage' | 'subject' | 'format' | 'random'>,
  injection: Injection,
  codes: readonly ErrorCode[],
): Promise<{ failed: boolean; findings: Findings }> {
  const archives = makeArchives(stage.fresh(), ARCHIVES, String(random.fraction()));
  const disk = await cachingDisk(stage, format);
  const home = stage.fresh();
  let running: Running | null = null;
  try {
    running = await subject.start({ root: join(disk.path, 'root'), home, environment: {} });
    const ledger = new Ledger();
    let over = false;
    const outcome = work({ running, ledger, archives, clients: CLIENTS, random, stopped: () => over }).then(
      () => null,
      (thrown: unknown) => toLayerdError(thrown),
    );
    await ledger.more(ANSWERS_BETWEEN);
    await disk.inject(injection);
    const error = await Promise.race([outcome, ledger.more(ANSWERS_OF_FAILING).then(() => null)]);
    over = true;
    if (error !== null && !codes.includes(error.code)) throw error;
    const file = stage.file();
    const before = ledger.now();
    await disk.cut(file, random);
    const claims = Ledger.throughout(before, ledger.now());
    await running.kill();
    const findings = await lookAt({ stage, subject, format, random }, { file, claims }, archives);
    return { failed: error !== null, findings };
  } finally {
    await running?.kill();
    unmountBelow(home);
    await disk.remove();
  }
}

/** Never resolves: a workload ends when it is told to, or fails. */
async function failure(working: Promise<void>): Promise<never> {
  await working;
  throw new Error('the workload ended by itself');
}

async function nextCut(
  { stage, random }: Round,
  { disk, ledger, answers }: { disk: Disk; ledger: Ledger; answers: number },
): Promise<Cut> {
  await ledger.more(answers);
  if (random.chance(0.5)) await sleep(random.below(DELAY_MS));
  const file = stage.file();
  const before = ledger.now();
  await disk.cut(file, random);
  return { file, claims: Ledger.throughout(before, ledger.now()) };
}

/** The power is back: what does the subject make of the disk? */
async function lookAt(
  round: Pick<Round, 'stage' | 'subject' | 'format' | 'random'>,
  { file, claims }: Cut,
  archives: readonly Archive[],
): Promise<Findings> {
  const { stage, format, subject, random } = round;
  const home = stage.fresh();
  const disk = join(home, 'm');
  mkdirSync(disk);
  try {
    await mountDisk(file, format, disk);
    const running = await subject.start({ root: join(disk, 'root'), home, environment: {} });
    try {
      return await running.audit(claims, random.pick(archives) ?? unreachable());
    } finally {
      await running.kill();
    }
  } catch (thrown) {
    // A store that does not come up again has lost everything.
    const lost = [...claims].filter(([, { claim }]) => claim !== null).map(([thing]) => `${thing}: ${String(thrown)}`);
    return { ...nothingFound(), lost, damaged: [`the store does not work: ${String(thrown)}`] };
  } finally {
    unmountBelow(home);
    rmSync(home, { recursive: true, force: true });
    rmSync(file);
  }
}

function unreachable(): never {
  throw new Error('there are no archives');
}
