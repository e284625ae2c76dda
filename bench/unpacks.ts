/**
 * What a commit keeps containerd waiting that unpacks by itself (without layerd as its differ): it must not be answered before
 * the data is durable, and containerd lets nobody else write meanwhile.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startDaemon } from '../examples/private-daemon.js';
import { fixture, type Fixture } from './fixtures/fixtures.js';
import type { FixtureName } from './fixtures/recipes.js';
import { imageRef } from './fixtures/image.js';
import { run } from './fixtures/shell.js';
import { Figures, missingPrograms, percentile, timed, warmCache, type Figure } from './harness.js';
import { archive, withContainerd } from './peers.js';

interface Line {
  msg: string;
  method?: string;
  duration_ms?: number;
}

/** Imports by the real containerd into a fresh layerd, one after the other; commits as layerd's door sees them. */
export async function commitsAfterUnpacking(
  driver: string,
  names: readonly FixtureName[],
  { unpacks }: { unpacks: number },
): Promise<Figure[]> {
  const figures = new Figures();
  const missing = await missingPrograms(['containerd', 'ctr']);
  if (missing.length > 0) {
    process.stderr.write(`unpacks: ${missing.join(', ')} not installed\n`);
    return [];
  }
  const name = `layerd ${driver}`;
  for (const image of await Promise.all(names.map((each) => fixture(each)))) {
    warmCache(archive(image, 'gzip'));
    const commits: number[] = [];
    for (let round = 0; round < unpacks; round += 1) {
      process.stderr.write(`containerd unpacks ${image.name} into layerd …\n`);
      const { ms, found } = await unpackOnce(driver, image);
      figures.add('unpack by containerd', name, image.name, 'ms', ms);
      commits.push(...found);
    }
    for (const [what, share] of [
      ['p50', 0.5],
      ['p99', 0.99],
    ] as const) {
      figures.add(`commit after unpacking ${what}`, name, image.name, 'ms', percentile(commits, share));
    }
    figures.add('commit after unpacking, longest', name, image.name, 'ms', Math.max(...commits));
  }
  return figures.all();
}

async function unpackOnce(driver: string, image: Fixture): Promise<{ ms: number; found: number[] }> {
  // short: mount options take one page
  const home = mkdtempSync(join(tmpdir(), 'vs-'));
  const [ours, theirs] = [join(home, 'l'), join(home, 'c')];
  for (const directory of [ours, theirs]) mkdirSync(directory);
  // nobody pays for what another left to be written
  await run('sync', ['--file-system', home]);
  const flags = ['--driver', driver, '--log-level', 'debug', '--containerd-address', join(theirs, 's')];
  const daemon = await startDaemon(ours, flags);
  try {
    const socket = join(ours, 'run', 'containerd.sock');
    const proxy = [`[proxy_plugins.layerd]\n  type = "snapshot"\n  address = "${socket}"`];
    const ms = await withContainerd(theirs, (address) => unpackAndRemove(address, image), proxy);
    return { ms, found: commitTimes(join(ours, 'layerd.log')) };
  } finally {
    await daemon.client.gc({ grace: 0, wait: true });
    await daemon.stop();
    rmSync(home, { recursive: true, force: true });
  }
}

async function unpackAndRemove(address: string, image: Fixture): Promise<number> {
  const ctr = (...args: string[]): Promise<string> => run('ctr', ['--address', address, 'images', ...args]);
  const ms = await timed(() => ctr('import', '--snapshotter', 'layerd', archive(image, 'gzip')));
  await ctr('rm', '--sync', imageRef(image.name));
  return ms;
}

function commitTimes(log: string): number[] {
  return readFileSync(log, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Line)
    .filter(({ msg, method }) => msg === 'request finished' && method === 'Snapshots/Commit')
    .map(({ duration_ms: ms = 0 }) => ms);
}
