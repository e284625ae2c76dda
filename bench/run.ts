/**
 * npm run bench [-- --drivers erofs,overlay2 --fixtures debian-node,deep --runs 3 --json FILE --smoke --peers]
 * Prints medians and ranges, and writes JSON. --smoke runs everything in seconds on the smallest fixture; --peers compares
 * imports with those of other engines instead. README.md says how to read the figures.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { VERSION } from '../src/core/version.js';
import { compare, ratios } from './compare.js';
import { fixture } from './fixtures/fixtures.js';
import { FIXTURE_NAMES, isFixtureName, type FixtureName } from './fixtures/recipes.js';
import { table, type Figure } from './harness.js';
import { measure, type Scale, type Subject } from './scenarios.js';

const FULL: Scale = { runs: 3, cycles: 400, clients: [1, 8, 32], files: 20_000, fileBytes: 25_000 };
const MEASURED: readonly FixtureName[] = ['debian-node', 'smallfiles', 'bigfile', 'deep'];
const SMOKE: Scale = { runs: 1, cycles: 8, clients: [1, 4], files: 50, fileBytes: 1000 };

const { values } = parseArgs({
  options: {
    drivers: { type: 'string', default: 'erofs,overlay2' },
    fixtures: { type: 'string' },
    runs: { type: 'string' },
    json: { type: 'string', default: 'bench/out/bench.json' },
    smoke: { type: 'boolean', default: false },
    peers: { type: 'boolean', default: false },
  },
});

const scale: Scale = { ...(values.smoke ? SMOKE : FULL) };
if (values.runs !== undefined) scale.runs = Number(values.runs);
const names = values.fixtures?.split(',').map(fixtureName) ?? (values.smoke ? ['tiny' as const] : MEASURED);
const drivers = values.drivers.split(',');
const figures = values.peers ? await compare(names, drivers, scale.runs) : await scenarios();
process.stdout.write(values.peers ? ratios(figures) : table(figures));
mkdirSync(dirname(values.json), { recursive: true });
const machine = { cpus: cpus().length, model: cpus()[0]?.model ?? '', kernel: release(), node: process.version };
writeFileSync(values.json, `${JSON.stringify({ layerd: VERSION, machine, scale, figures }, null, 2)}\n`);
process.stderr.write(`written to ${values.json}\n`);

async function scenarios(): Promise<Figure[]> {
  const found: Figure[] = [];
  const directory = mkdtempSync(join(tmpdir(), 'layerd-bench-'));
  try {
    for (const name of names) {
      const subject = await subjectOf(name);
      for (const driver of drivers) {
        process.stderr.write(`${name} by ${driver} …\n`);
        found.push(...(await measure(join(directory, 'daemon'), driver, subject, scale)));
      }
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
  return found;
}

function fixtureName(name: string): FixtureName {
  if (isFixtureName(name)) return name;
  throw new Error(`there is no fixture ${name}; there are ${FIXTURE_NAMES.join(', ')}`);
}

async function subjectOf(name: FixtureName): Promise<Subject> {
  const { forms } = await fixture(name);
  return {
    name,
    forms: [
      { form: 'gzip OCI', path: forms.ociArchive.path },
      { form: 'plain docker', path: forms.dockerArchive.path },
    ],
  };
}
