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
