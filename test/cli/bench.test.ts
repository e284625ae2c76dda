import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Figure } from '../../bench/harness.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { needsErofs } from '../unit/erofs-fixture.js';

const BENCH = fileURLToPath(new URL('../../bench/run.js', import.meta.url));
const DRIVERS = ['erofs', 'overlay2', 'copy'];

describeWith(
  'the bench, in seconds',
  [needsRoot(), needsProgram('busybox', 'busybox-static'), needsProgram('skopeo')],
  () => {
    let directory = '';
    let figures: Figure[] = [];
    let printed = '';

    beforeAll(async () => {
      directory = mkdtempSync(join(tmpdir(), 'layerd-bench-test-'));
      const json = join(directory, 'out', 'bench.json');
      const flags = ['--smoke', '--drivers', DRIVERS.join(','), '--json', json];
      ({ stdout: printed } = await promisify(execFile)(process.execPath, [BENCH, ...flags]));
      ({ figures } = JSON.parse(readFileSync(json, 'utf8')) as { figures: Figure[] });
    }, 300_000);
    afterAll(() => rmSync(directory, { recursive: true, force: true }));

    it.each(DRIVERS)('measures the same with %s as with every driver', (driver) => {
      const scenarios = (name: string): string[] =>
        figures.filter((figure) => figure.driver === name).map((figure) => figure.scenario);
      expect(scenarios(driver).length).toBeGreaterThan(20);
      expect(scenarios(driver)).toEqual(scenarios('erofs'));
    });

    it('has a number for everything it measured, and prints it', () => {
      for (const { driver, scenario, runs } of figures) {
        expect(runs.length, `${driver}: ${scenario}`).toBeGreaterThan(0);
        expect(runs.every(Number.isFinite), `${driver}: ${scenario}: ${runs.join(', ')}`).toBe(true);
        expect(printed).toContain(scenario);
      }
    });
  },
);

describeWith(
  'the bench beside others, in seconds',
  [needsRoot(), needsProgram('busybox', 'busybox-static'), needsProgram('skopeo')],
  () => {
    let directory = '';
    beforeAll(() => {
      directory = mkdtempSync(join(tmpdir(), 'layerd-bench-test-'));
    });
    afterAll(() => rmSync(directory, { recursive: true, force: true }));

    it('measures every part but the imports, which are as long as the peers take, and says which goals are met', async () => {
      const json = join(directory, 'bench.json');
      const flags = [
        '--peers',
        '--smoke',
        '--drivers',
        'overlay2',
        '--only',
        'hand,commits,containers,latency,unpacks',
      ];
      const { stdout } = await promisify(execFile)(process.execPath, [BENCH, ...flags, '--json', json]);
      const { figures } = JSON.parse(readFileSync(json, 'utf8')) as { figures: Figure[] };
      const scenarios = new Set(figures.map(({ scenario }) => scenario));
      for (const expected of [
        'start',
        'commit of 100 changes',
        'whole cycle, 4 client(s)',
        'prepare p99 under load',
        'commit after unpacking p99',
      ]) {
        expect(scenarios).toContain(expected);
      }
      expect(figures.every(({ runs }) => runs.length > 0 && runs.every(Number.isFinite))).toBe(true);
      expect(stdout).toMatch(/^GOAL +WHAT +ASKED +FOUND +VERDICT$/m);
    }, 300_000);

    it('measures a store that fills', async () => {
      const json = join(directory, 'flat.json');
      await promisify(execFile)(process.execPath, [
        BENCH,
        '--flat',
        '--smoke',
        '--layers',
        '100',
        '--drivers',
        'overlay2',
        '--json',
        json,
      ]);
      const { figures } = JSON.parse(readFileSync(json, 'utf8')) as { figures: Figure[] };
      const of = (fixture: string): number => figures.filter((figure) => figure.fixture === fixture).length;
      expect(of('a full store')).toBeGreaterThan(of('an empty store'));
    }, 300_000);
  },
);

describeWith(
  'the bench of drivers, in seconds',
  [
    needsRoot(),
    needsErofs(),
    needsProgram('busybox', 'busybox-static'),
    needsProgram('skopeo'),
    needsProgram('igzip', 'isal'),
    needsProgram('fincore', 'util-linux-extra'),
  ],
  () => {
    it.each([
      { way: '--reading', by: ['erofs', 'erofs+directio', 'overlay2', 'copy', 'tar -x, sync'] },
      { way: '--depth', by: ['a lower for each layer', 'one merged lower'] },
    ])(
      'measures the same by each ($way), and prints a table of it',
      async ({ way, by }) => {
        const directory = mkdtempSync(join(tmpdir(), 'layerd-bench-test-'));
        try {
          const json = join(directory, 'bench.json');
          const flags = [way, '--smoke', '--drivers', 'erofs,erofs+directio,overlay2,copy', '--json', json];
          const { stdout } = await promisify(execFile)(process.execPath, [BENCH, ...flags]);
          const { figures } = JSON.parse(readFileSync(json, 'utf8')) as { figures: Figure[] };
          expect(new Set(figures.map(({ driver }) => driver))).toEqual(new Set(by));
          for (const driver of by) {
            const own = figures.filter((figure) => figure.driver === driver);
            expect(own.length, driver).toBeGreaterThan(5);
            expect(own.every(({ runs }) => runs.length > 0 && runs.every(Number.isFinite))).toBe(true);
          }
          expect(stdout).toContain(`| ${[...new Set(figures.map(({ driver }) => driver))].join(' | ')} |`);
        } finally {
          rmSync(directory, { recursive: true, force: true });
        }
      },
      300_000,
    );
  },
);
