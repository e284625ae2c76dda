/** The disk fails below the file system: what was acknowledged before is there when the disk is well again. */
import { constants as os } from 'node:os';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { layerd } from './layerd.js';
import { Random } from './random.js';
import { failDisk } from './round.js';
import { Stage } from './stage.js';
import { nothingFound } from './subject.js';

const SEED = process.env['LAYERD_SEED'] ?? String(Date.now() % 1_000_000);

/** The file system stops, and says so in one of these ways. */
const CODES = ['IO_ERROR', 'NO_SPACE', 'READ_ONLY_STORE', 'STORE_DAMAGED'] as const;

const FAILURES = [
  { request: 'write', errno: os.errno.EIO },
  { request: 'write', errno: os.errno.ENOSPC },
  { request: 'fsync', errno: os.errno.EIO },
  { request: 'read', errno: os.errno.EIO },
] as const;
const ALL_CASES = FAILURES.flatMap(({ request, errno }) =>
  (['ext4', 'xfs'] as const).map((format) => ({ request, errno, format })),
);
/** In `npm test`, every failure on one of the two file systems. */
const CASES =
  process.env['LAYERD_CRASH'] === 'full' ? ALL_CASES : ALL_CASES.filter((_, index) => index % 4 < 1 || index % 4 > 2);

let stage: Stage;

describeWith(
  `a failing disk (LAYERD_SEED=${SEED})`,
  [needsRoot(), needsProgram('mkfs.xfs', 'xfsprogs'), needsProgram('mkfs.ext4', 'e2fsprogs')],
  () => {
    beforeAll(async () => {
      stage = await Stage.make();
    });
    afterAll(() => stage.remove());

    it.each(CASES)(
      '$format: errno $errno at each $request from some moment on',
      async ({ request, errno, format }) => {
        const random = new Random(`${SEED} ${request} ${errno} ${format}`);
        const injection = { request, errno, after: random.below(20), times: Number.MAX_SAFE_INTEGER };
        const { failed, findings } = await failDisk(
          { stage, subject: layerd('erofs'), format, random },
          injection,
          CODES,
        );
        // What is read may all be in memory; what is written has to reach the disk.
        if (request !== 'read') expect(failed).toBe(true);
        expect(findings).toEqual(nothingFound());
      },
      900_000,
    );
  },
);
