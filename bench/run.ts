/**
 * npm run bench [-- --drivers erofs,overlay2 --fixtures debian-node,deep --runs 3 --json FILE --smoke]
 * Prints medians and ranges, and writes JSON. --smoke runs everything in seconds on the smallest fixture.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { VERSION } from '../src/core/version.js';
import { fixture } from './fixtures/fixtures.js';
import { FIXTURE_NAMES, isFixtureName } from './fixtures/recipes.js';
import { table, type Figure } from './harness.js';
import { measure, type Scale, type Subject } from './scenarios.js';

const FULL: Scale = { runs: 3, cycles: 400, clients: [1, 8, 32], files: 20_000, fileBytes: 25_000 };
const SMOKE: Scale = { runs: 1, cycles: 8, clients: [1, 4], files: 50, fileBytes: 1000 };

const { values } = parseArgs({
  options: {
    drivers: { type: 'string', default: 'erofs,overlay2' },
    fixtures: { type: 'string' },
    runs: { type: 'string' },
    json: { type: 'string', default: 'bench/out/bench.json' },
    smoke: { type: 'boolean', default: false },
  },
});

const scale: Scale = { ...(values.smoke ? SMOKE : FULL) };
if (values.runs !== undefined) scale.runs = Number(values.runs);
const names = (
  values.fixtures ?? (values.smoke ? 'tiny' : FIXTURE_NAMES.filter((name) => name !== 'tiny').join(','))
).split(',');
const directory = mkdtempSync(join(tmpdir(), 'layerd-bench-'));
const figures: Figure[] = [];
try {
  for (const name of names) {
    const subject = await subjectOf(name);
    for (const driver of values.drivers.split(',')) {
      process.stderr.write(`${name} by ${driver} …\n`);
      figures.push(...(await measure(join(directory, 'daemon'), driver, subject, scale)));
    }
  }
} finally {
  rmSync(directory, { recursive: true, force: true });
}
process.stdout.write(table(figures));
mkdirSync(dirname(values.json), { recursive: true });
const machine = { cpus: cpus().length, model: cpus()[0]?.model ?? '', kernel: release(), node: process.version };
writeFileSync(values.json, `${JSON.stringify({ layerd: VERSION, machine, scale, figures }, null, 2)}\n`);
process.stderr.write(`written to ${values.json}\n`);

async function subjectOf(name: string): Promise<Subject> {
  if (!isFixtureName(name)) throw new Error(`there is no fixture ${name}; there are ${FIXTURE_NAMES.join(', ')}`);
  const { forms } = await fixture(name);
  return {
    name,
    forms: [
      { form: 'gzip OCI', path: forms.ociArchive.path },
      { form: 'plain docker', path: forms.dockerArchive.path },
    ],
  };
}
