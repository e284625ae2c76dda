/**
 * When the database is lost: layers and images are made known again from what lies on disk. Every stored layer has its
 * catalog, which says what it is, and is verified byte for byte; every image has its file below i/ (store/image-files.ts).
 * What cannot be made sense of is set aside into lost/, not removed: uppers of containers, which nothing describes,
 * damaged layers, and images that lack one.
 */
import { join } from 'node:path';
import { digestFromHex, type Digest } from '../core/digest.js';
import { toLayerdError } from '../core/errors.js';
import type { StoreContext } from '../store/context.js';
import { readImageFile, type DescribedImage } from '../store/image-files.js';
import type { Leases } from '../store/leases.js';
import { parseConfig } from './documents.js';
import type { Images } from './images.js';

export interface RebuildReport {
  layers: number;
  /** Ids of the images, and the names that they have again. */
  images: { imageId: Digest; refs: string[] }[];
  /** What was set aside, and why. */
  lost: { path: string; reason: string }[];
}

const HEX = /^[0-9a-f]{64}$/;

export class Rebuilder {
  private readonly context: StoreContext;
  private readonly images: Images;
  private readonly leases: Leases;
  private readonly report: RebuildReport = { layers: 0, images: [], lost: [] };

  constructor(context: StoreContext, parts: { images: Images; leases: Leases }) {
    this.context = context;
    this.images = parts.images;
    this.leases = parts.leases;
  }

  /** To be called on an empty database, before recovery takes what has no row for garbage. */
  async run(): Promise<RebuildReport> {
    const { pool } = this.context;
    const names = await pool.run('short', 'store.scan', undefined);
    await this.leases.during('rebuild', async (leaseId) => {
      for (const dir of names.layers) await this.layer(dir, leaseId);
      const described = await this.readImages(names.images);
      for (const [imageId, image] of described) await this.image(imageId, image, leaseId);
    });
    for (const name of names.snapshots) {
      await this.setAside({ snapshots: [name] }, `s/${name}`, 'what a container wrote; nothing says which container');
    }
    return this.report;
  }

  private async layer(dir: string, leaseId: string): Promise<void> {
    const { pool, writer } = this.context;
    try {
      const described = await pool.run('bulk', 'layer.describe', { dir });
      const { layer, inherited, facts, ...known } = described;
      const [fault] = await pool.run('bulk', 'layer.repair', { layer });
      if (fault !== undefined) throw new Error(`${fault.path}: ${fault.message}`);
      const row = { leaseId, driver: layer.driver, dir, diffId: layer.diffId, size: layer.size, ...known, ...facts };
      const { layerId, outcome } = await writer.run('addStoredLayer', {
        ...row,
        opaqueRoot: layer.opaqueRoot,
        blob: null,
      });
      const { driver } = layer;
      if (outcome === 'added' && inherited !== null) await writer.run('fixInherited', { dir, inherited, ...facts });
      if (outcome === 'present') {
        await writer.run('addVariant', { layerId, driver, dir, inherited: inherited ?? 'open', ...facts });
      }
      this.report.layers += 1;
    } catch (thrown) {
      await this.setAside({ layers: [dir] }, `l/${dir}`, toLayerdError(thrown).message);
    }
  }

  /** Images by their ids, with the names that are theirs: one that several had is the one's who got it last. */
  private async readImages(names: readonly string[]): Promise<Map<Digest, DescribedImage>> {
    const { places } = this.context;
    const images = new Map<Digest, DescribedImage>();
    const latest = new Map<string, number>();
    for (const hex of names) {
      try {
        if (!HEX.test(hex)) throw new Error('it is not the file of an image');
        const image = await readImageFile(places.image(hex), digestFromHex(hex));
        images.set(digestFromHex(hex), image);
        for (const { name, updated } of image.refs) latest.set(name, Math.max(updated, latest.get(name) ?? 0));
      } catch (thrown) {
        await this.setAside({ images: [hex] }, `i/${hex}`, toLayerdError(thrown).message);
      }
    }
    for (const image of images.values()) {
      image.refs = image.refs.filter(({ name, updated }) => latest.get(name) === updated);
    }
    return images;
  }

  private async image(imageId: Digest, { config, manifest, refs }: DescribedImage, leaseId: string): Promise<void> {
    const { reader } = this.context;
    try {
      const parsed = parseConfig(imageId, config);
      const layers = parsed.diffIds.map((diffId) => {
        const layer = reader.layer(diffId);
        if (layer === undefined) throw new Error(`its layer ${diffId} is not there, or damaged`);
        return layer;
      });
      const names = refs.map(({ name }) => name);
      await this.images.add(
        { config: { bytes: config, digest: imageId, parsed }, manifest, refs: names, layers },
        leaseId,
      );
      this.report.images.push({ imageId, refs: names });
    } catch (thrown) {
      const hex = imageId.slice('sha256:'.length);
      await this.setAside({ images: [hex] }, `i/${hex}`, toLayerdError(thrown).message);
    }
  }

  private async setAside(
    list: Partial<Record<'layers' | 'snapshots' | 'images', string[]>>,
    path: string,
    reason: string,
  ): Promise<void> {
    const { pool, places } = this.context;
    await pool.run('short', 'store.setAside', { layers: [], snapshots: [], trees: [], blobs: [], ...list });
    this.report.lost.push({ path: join(places.root, path), reason });
  }
}
