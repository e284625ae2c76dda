/**
 * npm run bench [-- --drivers erofs,overlay2 --fixtures debian-node,deep --runs 3 --json FILE --smoke]
 * npm run bench -- --peers [--only hand,commits,imports,containers,latency,unpacks --peer-runs 1 --cycles 240 …]
 * npm run bench -- --flat [--layers 10000]
 * npm run bench -- --reading [--drivers erofs,erofs+directio,overlay2,btrfs,copy]
 * npm run bench -- --depth
 * Prints medians and ranges, and writes JSON. --smoke runs everything in seconds on the smallest fixture; --peers takes
 * turns with other engines and bare tools, and says which goals are met; --flat fills a store first, which takes minutes;
 * --reading reads through containers of every driver, cold and warm, beside an extracted tree; --depth through stacks of
 * many layers, merged and not.
 * README.md says how to read the figures.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { VERSION } from '../src/core/version.js';
import { compareContainers } from './containers.js';
import { compareDepths } from './depth.js';
import { fixture } from './fixtures/fixtures.js';
import { FIXTURE_NAMES, isFixtureName, type FixtureName } from './fixtures/recipes.js';
import { flatness } from './flat.js';
import { verdicts } from './goals.js';
import { markdown, table, type Figure } from './harness.js';
import { compareImports, ratios } from './imports.js';
import { latencyUnderLoad } from './latency.js';
import { compareReading } from './reading.js';
import { atHand, commitsOn, measure, type Scale, type Subject } from './scenarios.js';
import { commitsAfterUnpacking } from './unpacks.js';

const FULL: Scale = {
  runs: 3,
  cycles: 240,
  clients: [1, 8, 32],
  files: 20_000,
  fileBytes: 25_000,
  garbage: 50_000,
  unpacks: 5,
};
const MEASURED: readonly FixtureName[] = ['debian-node', 'smallfiles', 'bigfile', 'deep'];
const READ_THROUGH = 'erofs,erofs+directio,overlay2,btrfs,copy';
/** By containerd alone, into uppers. */
const UNPACKED: ReadonlySet<FixtureName> = new Set(['debian-node', 'bigfile', 'tiny']);
const SMOKE: Scale = { runs: 1, cycles: 8, clients: [1, 4], files: 50, fileBytes: 1000, garbage: 1000, unpacks: 1 };
const PARTS = ['hand', 'commits', 'imports', 'containers', 'latency', 'unpacks'] as const;

const { values } = parseArgs({
  options: {
    drivers: { type: 'string' },
    fixtures: { type: 'string' },
    runs: { type: 'string' },
    json: { type: 'string', default: 'bench/out/bench.json' },
    smoke: { type: 'boolean', default: false },
    peers: { type: 'boolean', default: false },
    'peer-runs': { type: 'string', default: '1' },
    only: { type: 'string', default: PARTS.join(',') },
    flat: { type: 'boolean', default: false },
    layers: { type: 'string', default: '10000' },
    reading: { type: 'boolean', default: false },
    depth: { type: 'boolean', default: false },
    cycles: { type: 'string' },
  },
});

const scale: Scale = { ...(values.smoke ? SMOKE : FULL) };
if (values.runs !== undefined) scale.runs = Number(values.runs);
if (values.cycles !== undefined) scale.cycles = Number(values.cycles);
const names = values.fixtures?.split(',').map(fixtureName) ?? (values.smoke ? ['tiny' as const] : MEASURED);
const drivers = (values.drivers ?? (values.reading ? READ_THROUGH : 'erofs,overlay2')).split(',');
const best = drivers[0] ?? 'erofs';
const base = names[0] ?? 'debian-node';
const figures = await measured();
process.stdout.write(values.peers ? ratios(figures) : '');
process.stdout.write(table(figures));
process.stdout.write(verdicts(figures));
if (values.reading || values.depth) process.stdout.write(markdown(figures));
mkdirSync(dirname(values.json), { recursive: true });
const machine = { cpus: cpus().length, model: cpus()[0]?.model ?? '', kernel: release(), node: process.version };
writeFileSync(values.json, `${JSON.stringify({ layerd: VERSION, machine, scale, figures }, null, 2)}\n`);
process.stderr.write(`written to ${values.json}\n`);

function measured(): Promise<Figure[]> {
  if (values.flat) return flatness(best, Number(values.layers), values.smoke);
  if (values.reading) return compareReading(names, drivers, scale);
  if (values.depth) return compareDepths(values.smoke ? [names] : [['deep'], ['debian-node', 'deep']], scale);
  return values.peers ? goals(values.only.split(',')) : scenarios();
}

/** What the goals speak of; a part that fails is said, and does not take the others with it. */
async function goals(parts: readonly string[]): Promise<Figure[]> {
  const directory = mkdtempSync(join(tmpdir(), 'layerd-bench-'));
  const daemon = join(directory, 'daemon');
  const works: Record<(typeof PARTS)[number], () => Promise<Figure[]>> = {
    hand: () => atHand(daemon, best, scale.runs),
    commits: async () => commitsOn(daemon, best, await subjectOf(base), scale),
    imports: () => compareImports(names, drivers, { runs: scale.runs, peerRuns: Number(values['peer-runs']) }),
    containers: () => compareContainers(best, { image: base, deep: names.includes('deep') ? 'deep' : base }, scale),
    unpacks: () =>
      commitsAfterUnpacking(
        best,
        names.filter((name) => UNPACKED.has(name)),
        scale,
      ),
    latency: () => latencyUnderLoad(best, { image: base, load: names.includes('bigfile') ? 'bigfile' : base }, scale),
  };
  const found: Figure[] = [];
  try {
    for (const part of PARTS.filter((name) => parts.includes(name))) {
      const began = performance.now();
      try {
        found.push(...(await works[part]()));
      } catch (thrown) {
        process.exitCode = 1;
        process.stderr.write(`${part}: ${thrown instanceof Error ? thrown.message : String(thrown)}\n`);
      }
      process.stderr.write(`${part}: ${Math.round((performance.now() - began) / 1000)} s\n`);
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
  return found;
}

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
