import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Figure } from '../../bench/harness.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';

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
      const flags = ['--peers', '--smoke', '--drivers', 'overlay2', '--only', 'hand,commits,containers,latency'];
      const { stdout } = await promisify(execFile)(process.execPath, [BENCH, ...flags, '--json', json]);
      const { figures } = JSON.parse(readFileSync(json, 'utf8')) as { figures: Figure[] };
      const scenarios = new Set(figures.map(({ scenario }) => scenario));
      for (const expected of ['start', 'commit of 100 changes', 'whole cycle, 4 client(s)', 'prepare p99 under load']) {
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
