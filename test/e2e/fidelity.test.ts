/**
 * The mounted view of a real Debian image against the same image unpacked by others, entry by entry: type, mode, owner,
 * size, content, mtime to the nanosecond, link targets, hard-link groups, device numbers, every xattr. Nothing of ours
 * takes part in making or reading the reference.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { fixture, type Fixture } from '../../bench/fixtures/fixtures.js';
import { imageRef } from '../../bench/fixtures/image.js';
import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import type { DriverName } from '../../src/core/words.js';
import { Engine } from '../../src/engine.js';
import { withContainerd } from '../reference/containerd.js';
import { needsFixture, needsPeers } from '../reference/needs.js';
import {
  compareTrees,
  describeTree,
  showDifferences,
  type TreeDifference,
  type TreeListing,
} from '../reference/tree.js';
import { withUmociUnpack } from '../reference/umoci.js';
import { describeWith } from '../support.js';

const MINUTES = 60_000;

/**
 * Where containerd does not do what the tar says, and the tar's side is taken: it ignores the entry of the root, whose
 * time is then that of the unpacking, and drops trusted.* attributes.
 */
function containerdDiffers({ path, attribute }: TreeDifference): boolean {
  return (path === '.' && attribute === 'mtime') || attribute.startsWith('xattr:trusted.');
}

/** umoci loses attributes whose value is empty. */
function umociDiffers({ attribute, right }: TreeDifference): boolean {
  return attribute.startsWith('xattr:') && right === '';
}

describeWith('debian-node, as others unpack it', [...needsFixture('debian-node'), ...needsPeers()], () => {
  let image: Fixture;
  let byContainerd: TreeListing;
  let byUmoci: TreeListing;
  let directory = '';

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'layerd-fidelity-'));
    image = await fixture('debian-node');
    byContainerd = await withContainerd(async ({ unpack }) =>
      describeTree(await unpack(image.forms.ociArchive.path, imageRef('debian-node'))),
    );
    byUmoci = await withUmociUnpack(image.forms.ociLayout.path, image.tag, describeTree);
  }, 15 * MINUTES);

  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  const drivers: DriverName[] = ['erofs', 'overlay2', 'copy'];
  const forms = ['ociArchive', 'dockerArchive'] as const;
  it.each(drivers.flatMap((driver) => forms.map((form) => ({ driver, form }))))(
    'is the same by $driver from the $form',
    async ({ driver, form }) => {
      const listing = await view(driver, image.forms[form].path);
      expect(listing.size).toBeGreaterThan(30_000);
      const ours = compareTrees(byContainerd, listing, { ignore: containerdDiffers });
      expect(showDifferences(ours)).toBe('');
      const second = compareTrees(byUmoci, listing, { ignore: umociDiffers });
      expect(showDifferences(second)).toBe('');
    },
    10 * MINUTES,
  );

  async function view(driver: DriverName, archive: string): Promise<TreeListing> {
    const home = mkdtempSync(join(directory, `${driver}-`));
    const config = { ...DEFAULT_ENGINE_CONFIG, driver, root: join(home, 'root'), run: join(home, 'run') };
    const engine = await Engine.open(config, pino({ level: 'silent' }));
    try {
      const { images } = await engine.load({ path: archive }, {}, () => undefined, new AbortController().signal);
      const container = await engine.createContainer(images[0]?.imageId ?? '', { readOnly: true });
      const { path } = await engine.mount(container.id);
      const listing = await describeTree(path);
      await engine.removeContainer(container.id, { force: true });
      for (const { id } of engine.images()) await engine.removeImage(id, { force: true });
      await engine.gc({ grace: 0, wait: true });
      return listing;
    } finally {
      await engine.close();
    }
  }
});
