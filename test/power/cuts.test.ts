/**
 * The power goes, at moments that a seed decides, while clients work: what was acknowledged is there afterwards byte for
 * byte, and every byte on disk is accounted for. LAYERD_SEED repeats a run; LAYERD_CUTS says how many cuts there are (20
 * in `npm test`, 1,000 in `npm run test:crash`, where containerd is put to a third as many).
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { DriverName } from '../../src/core/words.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { containerd } from './containerd.js';
import { cachingDisk, keepingDisk } from './disk.js';
import { layerd } from './layerd.js';
import { Preload } from './preload.js';
import { Random } from './random.js';
import { runRound, type Outcome, type Round } from './round.js';
import { Stage, type DiskFormat } from './stage.js';
import { nothingFound, type Subject } from './subject.js';

const SEED = process.env['LAYERD_SEED'] ?? String(Date.now() % 1_000_000);
const LONG = process.env['LAYERD_CRASH'] === 'full';
const CUTS = Number(process.env['LAYERD_CUTS'] ?? (LONG ? 1000 : 20));
/** A round takes some cuts of one disk: more would come from a store in an ever later state only. */
const CUTS_PER_ROUND = LONG ? 10 : 5;
const CUT_MS = 300_000;

const DISKS = {
  /** Keeps what it received: what is lost never left the machine. */
  keeping: keepingDisk,
  /** Loses any part of what was not flushed. */
  caching: cachingDisk,
} as const;
type DiskKind = keyof typeof DISKS;

interface Case {
  disk: DiskKind;
  format: DiskFormat;
  driver: DriverName;
}

const SHORT_CASES: readonly Case[] = [
  { disk: 'keeping', format: 'ext4', driver: 'erofs' },
  { disk: 'caching', format: 'xfs', driver: 'erofs' },
  { disk: 'caching', format: 'ext4', driver: 'overlay2' },
  { disk: 'keeping', format: 'xfs', driver: 'copy' },
];
const ALL_CASES: readonly Case[] = (['erofs', 'overlay2', 'copy'] as const).flatMap((driver) =>
  (['ext4', 'xfs'] as const).flatMap((format) =>
    (['keeping', 'caching'] as const).map((disk) => ({ disk, format, driver })),
  ),
);

let stage: Stage;
const rows = new Map<string, Outcome>();

describeWith(
  `power cuts (LAYERD_SEED=${SEED})`,
  [
    needsRoot(),
    needsProgram('mkfs.xfs', 'xfsprogs'),
    needsProgram('mkfs.ext4', 'e2fsprogs'),
    needsProgram('cc', 'gcc'),
    ...(LONG ? [needsProgram('containerd')] : []),
  ],
  () => {
    beforeAll(async () => {
      stage = await Stage.make();
    });
    afterAll(() => {
      stage.remove();
      process.stdout.write(table());
    });

    it.each(cases())(
      '$disk disk, $format, $driver: $cuts cuts',
      async ({ disk, format, driver, cuts, index }) => {
        const outcome = await round(layerd(driver), { disk, format }, { cuts, index });
        expect(outcome.acknowledged).toBeGreaterThan(0);
        expect(outcome).toEqual({ ...outcome, ...nothingFound() });
      },
      CUTS_PER_ROUND * CUT_MS,
    );

    it('would find what is lost without syncing: each harness on a daemon that does not sync', async () => {
      for (const disk of ['keeping', 'caching'] as const) {
        const unsynced = await Preload.build(stage.fresh());
        const outcome = await runRound({ ...base({ disk, format: 'ext4' }, `unsynced ${disk}`), unsynced });
        expect(outcome.lost).not.toEqual([]);
      }
    }, 1_800_000);

    it('would find what a disk loses that ignores flushes', async () => {
      const lying: Round['makeDisk'] = (where, format) => cachingDisk(where, format, { heedsFlushes: false });
      const outcome = await runRound({ ...base({ disk: 'caching', format: 'xfs' }, 'lying'), makeDisk: lying });
      expect([...outcome.lost, ...outcome.damaged]).not.toEqual([]);
    }, 1_800_000);

    if (LONG) {
      // The cases of one driver are all that there are for it.
      it.each(cases().filter(({ driver }) => driver === 'erofs'))(
        'containerd, $disk disk, $format: $cuts cuts',
        async ({ disk, format, cuts, index }) => {
          // What is lost is for the table; that something was there to be lost is for the test.
          const outcome = await round(containerd, { disk, format }, { cuts, index });
          expect(outcome.cuts).toBe(cuts);
          expect(outcome.acknowledged).toBeGreaterThan(0);
        },
        CUTS_PER_ROUND * CUT_MS,
      );
    }
  },
);

/** As many rounds as it takes, through all cases in turn. */
function cases(): (Case & { cuts: number; index: number })[] {
  const all = LONG ? ALL_CASES : SHORT_CASES;
  return Array.from({ length: Math.ceil(CUTS / CUTS_PER_ROUND) }, (_, index) => {
    const { disk, format, driver } = all[index % all.length] ?? SHORT_CASES[0] ?? noCases();
    return { disk, format, driver, cuts: Math.min(CUTS_PER_ROUND, CUTS - index * CUTS_PER_ROUND), index };
  });
}

function noCases(): never {
  throw new Error('there are no cases');
}

function base({ disk, format }: Pick<Case, 'disk' | 'format'>, name: string): Round {
  return {
    stage,
    subject: layerd('erofs'),
    format,
    makeDisk: DISKS[disk],
    cuts: 3,
    random: new Random(`${SEED} ${name}`),
  };
}

async function round(
  subject: Subject,
  where: Pick<Case, 'disk' | 'format'>,
  { cuts, index }: { cuts: number; index: number },
): Promise<Outcome> {
  const outcome = await runRound({ ...base(where, `${subject.name} ${index}`), subject, cuts });
  const row = `${subject.name}, ${where.format}, ${where.disk} disk`;
  const before = rows.get(row);
  rows.set(row, before === undefined ? outcome : sum(before, outcome));
  return outcome;
}

function sum(one: Outcome, other: Outcome): Outcome {
  return {
    cuts: one.cuts + other.cuts,
    acknowledged: one.acknowledged + other.acknowledged,
    lost: [...one.lost, ...other.lost],
    damaged: [...one.damaged, ...other.damaged],
    unaccounted: one.unaccounted + other.unaccounted,
  };
}

/** One row for each subject, file system and kind of disk. */
function table(): string {
  const lines = [...rows].map(([name, { cuts, acknowledged, lost, damaged, unaccounted }]) =>
    [name.padEnd(45), cuts, acknowledged, lost.length, damaged.length, unaccounted].join('  '),
  );
  return ['', `${'power cuts'.padEnd(45)}  cuts  acknowledged  lost  damaged  unaccounted bytes`, ...lines, ''].join(
    '\n',
  );
}
