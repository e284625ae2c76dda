/** Contenders against each other on the same archives: interleaved, medians, ratios. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bytesOf } from '../src/core/bytes.js';
import { umount } from '../src/linux/mount.js';
import { fixture, type Fixture } from './fixtures/fixtures.js';
import type { FixtureName } from './fixtures/recipes.js';
import { run } from './fixtures/shell.js';
import { columns, Figures, median, missingPrograms, shown, warmCache, type Figure } from './harness.js';
import { LoopDisk } from './loop-disk.js';
import { contenders, type Contender, type Form, type Imported } from './peers.js';

const FORMS: readonly Form[] = ['gzip', 'plain'];
const SPARE_BYTES = 512 * 1024 * 1024;

/** Imports by layerd, by the peers that are installed, and by the bare tools. Needs root. */
export async function compareImports(
  names: readonly FixtureName[],
  drivers: readonly string[],
  { runs, peerRuns }: { runs: number; peerRuns: number },
): Promise<Figure[]> {
  const present: Contender[] = [];
  for (const contender of contenders(drivers)) {
    const missing = await missingPrograms(contender.programs);
    if (missing.length === 0) present.push(contender);
    else process.stderr.write(`${contender.name}: ${missing.join(', ')} not installed\n`);
  }
  const figures = new Figures();
  for (const name of names) await takeTurns(await fixture(name), present, figures, { runs, peerRuns });
  return figures.all();
}

/** The turns of one image. */
async function takeTurns(
  image: Fixture,
  present: readonly Contender[],
  figures: Figures,
  { runs, peerRuns }: { runs: number; peerRuns: number },
): Promise<void> {
  for (const form of Object.values(image.forms)) warmCache(form.path);
  // a short name: mount options of the peers take one page
  const home = mkdtempSync(join(tmpdir(), 'vs-'));
  // the largest that a contender makes of an image are two copies and its archive
  const disk = await LoopDisk.make(home, SPARE_BYTES + 6 * image.forms.dockerArchive.size, { filled: true });
  try {
    for (let round = 0; round < runs; round += 1) {
      for (const form of FORMS) {
        const taking = present.filter(
          ({ forms, kind }) => forms.includes(form) && (kind !== 'peer' || round < peerRuns),
        );
        for (const contender of taking) {
          process.stderr.write(`${image.name}, ${form}, ${contender.name} …\n`);
          const imported = await once(contender, image, form, disk).catch((thrown: unknown) =>
            giveUp(contender, thrown),
          );
          if (imported === null) continue;
          figures.add(`import (${form})`, contender.name, image.name, 'ms', imported.ms);
          for (const [what, [unit, value]] of Object.entries(imported.beside ?? {})) {
            figures.add(`${what} (${form})`, contender.name, image.name, unit, value);
          }
        }
      }
    }
  } finally {
    await disk.dispose();
    rmSync(home, { recursive: true, force: true });
  }
}

/** A peer that fails is said, and does not end the race for the others; layerd and the floors must not fail. */
function giveUp({ name, kind }: Contender, thrown: unknown): null {
  if (kind !== 'peer') throw thrown;
  process.stderr.write(`${name}: ${thrown instanceof Error ? thrown.message : String(thrown)}\n`);
  return null;
}

/** The medians of imports, and how often each goes into that of the first contender, which is layerd with its best driver. */
export function ratios(figures: readonly Figure[]): string {
  const firsts = new Map<string, number>();
  const rows = figures
    .filter(({ scenario }) => scenario.startsWith('import ('))
    .map((figure) => {
      const ms = median(figure.runs);
      const race = `${figure.fixture} ${figure.scenario}`;
      const first = firsts.get(race) ?? ms;
      firsts.set(race, first);
      return [figure.fixture, figure.scenario, figure.driver, `${shown(ms / 1000)} s`, `${shown(ms / first)} ×`];
    });
  if (rows.length === 0) return '';
  const header = ['FIXTURE', 'FORM', 'BY', 'MEDIAN', 'TIMES THE FIRST'];
  rows.sort((a, b) => `${a[0]} ${a[1]}`.localeCompare(`${b[0]} ${b[1]}`));
  return columns([header, ...rows]);
}

/**
 * Each on a new file system: ext4 passes over the inodes of files that were removed within the last minutes, so what one
 * contender made and removed would slow down the next.
 */
async function once(contender: Contender, image: Fixture, form: Form, disk: LoopDisk): Promise<Imported> {
  await disk.format('ext4');
  try {
    return await contender.import(image, form, disk.path);
  } finally {
    await unmountBelow(disk.path);
  }
}

/** Some peers leave their own directory mounted upon itself; layerd leaves what containers may use. */
export async function unmountBelow(home: string): Promise<void> {
  const targets = (await run('findmnt', ['--list', '--noheadings', '--output', 'TARGET'])).split('\n');
  const below = targets.filter((path) => path.startsWith(`${home}/`)).toReversed();
  // by the system call: umount(8) reads the whole mount table for each
  for (const path of below) umount(bytesOf(path));
}
