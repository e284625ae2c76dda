/** Archives that come as a stream, once, with what tells of their layers behind them. */
import {
  createReadStream,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { fixture, type Fixture } from '../../bench/fixtures/fixtures.js';
import { run } from '../../bench/fixtures/shell.js';
import { describeWith } from '../support.js';
import { needsFixtures, TESTED_DRIVERS, withStore } from './store.js';

let tiny: Fixture;

beforeAll(async () => {
  tiny = await fixture('tiny');
}, 600_000);

/** The fixture as docker before 25 saves it: layers in directories named by other ids, the manifest last. */
async function oldArchive(home: string): Promise<string> {
  const directory = join(home, 'unpacked');
  mkdirSync(directory);
  await run('tar', ['-C', directory, '-xf', tiny.forms.dockerArchive.path]);
  const path = join(directory, 'manifest.json');
  const [image] = JSON.parse(readFileSync(path, 'utf8')) as [{ Config: string; Layers: string[] }];
  const layers = image.Layers.map((layer, index) => {
    const name = `${String(index).repeat(64)}/layer.tar`;
    mkdirSync(join(directory, String(index).repeat(64)));
    renameSync(join(directory, layer), join(directory, name));
    return name;
  });
  writeFileSync(path, JSON.stringify([{ ...image, Layers: layers }]));
  const archive = join(home, 'old.tar');
  await run('tar', ['-C', directory, '-cf', archive, ...layers, image.Config, 'manifest.json']);
  return archive;
}

describeWith('a stream whose layers nothing names', needsFixtures(), () => {
  describe.each(TESTED_DRIVERS)('%s', (driver) => {
    it('writes nothing of layers that are stored', async () => {
      const home = mkdtempSync(join(tmpdir(), 'layerd-streams-'));
      try {
        const archive = await oldArchive(home);
        await withStore({ driver }, async (store) => {
          const load = () => store.load({ stream: createReadStream(archive), size: null });
          expect(await load()).toMatchObject({ layersLoaded: 3, layersPresent: 0 });
          const stored = readdirSync(join(store.config.root, 'l')).sort();
          expect(await load()).toMatchObject({ layersLoaded: 0, layersPresent: 3, bytesLoaded: 0 });
          expect(readdirSync(join(store.config.root, 'l')).sort()).toEqual(stored);
          // what was stored and found superfluous would lie there
          expect(readdirSync(join(store.config.root, 'trash'))).toEqual([]);
          expect([...store.engine.images()].map(({ id }) => id)).toEqual([tiny.configDigest]);
          expect((await store.check()).problems).toEqual([]);
        });
      } finally {
        rmSync(home, { recursive: true, force: true });
      }
    });
  });
});
