/** Bringing images in: an archive's layers go into the store, then its images are made known. */
import type { ArchiveInput, LoadOptions, OnProgress } from '../core/api.js';
import type { Digest } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import { formatPlatform } from '../core/platform.js';
import type { LoadedImage, LoadResult } from '../core/words.js';
import type { StoreContext } from '../store/context.js';
import type { Layers } from '../store/layers.js';
import type { Leases } from '../store/leases.js';
import { readArchive } from './archive-reader.js';
import type { ArchiveHost, IngestedLayer, LayerExpectation, LayerSource, ParsedImage } from './host.js';
import type { Images } from './images.js';
import type { Twin } from './twin.js';

export class Loader {
  private readonly context: StoreContext;
  private readonly layers: Layers;
  private readonly images: Images;
  private readonly leases: Leases;

  constructor(context: StoreContext, layers: Layers, images: Images, leases: Leases) {
    this.context = context;
    this.layers = layers;
    this.images = images;
    this.leases = leases;
  }

  /** Loads every image of an archive, or none: they become visible when all of their layers are stored. */
  load(input: ArchiveInput, options: LoadOptions, progress: OnProgress, signal: AbortSignal): Promise<LoadResult> {
    // A store without layers has none of those that come: a thread for them starts while the archive is looked into.
    if (this.context.reader.isEmpty()) this.context.pool.prepare('bulk');
    return this.leases.during('load', (leaseId) =>
      this.bring({ leaseId, progress }, (host) => readArchive(input, host, options, signal)),
    );
  }

  /** Has `read` bring the layers of its images under a lease, and makes the images known when all of them are there. */
  async bring(under: Bringing, read: (host: ArchiveHost) => Promise<ParsedImage[]>): Promise<LoadResult> {
    const { leaseId, progress } = under;
    const host = new LoadHost(this.layers, under, this.context.log);
    const parsed = await read(host);
    const images: LoadedImage[] = [];
    for (const image of parsed) {
      images.push(await this.addImage(image, leaseId, host));
      progress({ phase: 'image', subject: image.config.digest, done: 1, total: 1 });
    }
    return { images, ...host.tally() };
  }

  private async addImage(image: ParsedImage, leaseId: string, host: LoadHost): Promise<LoadedImage> {
    const rows = image.layers.map((layer) => {
      const row = this.context.reader.layer(layer.diffId);
      if (row === undefined) throw new LayerdError('INTERNAL', `layer ${layer.diffId} vanished under its lease`);
      return row;
    });
    const blobs = image.layers.map((layer) => layer.blobDigest ?? layer.diffId);
    const manifest = image.manifest === null ? null : { ...image.manifest, blobs };
    await this.images.add({ config: image.config, manifest, refs: image.refs, layers: rows }, leaseId);
    return {
      imageId: image.config.digest,
      refs: image.refs,
      platform: formatPlatform(image.platform),
      layers: rows.map((row) => ({ diffId: row.diff_id, size: row.size, present: !host.stored.has(row.diff_id) })),
    };
  }
}

/** What images are brought in under. */
export interface Bringing {
  leaseId: string;
  progress: OnProgress;
  /** Whether compressed blobs are kept; as configured where it is left out. */
  keepBlobs?: boolean;
}

/** What reading an archive asks of the store, for one load under one lease. */
class LoadHost implements ArchiveHost {
  /** Layers that this load stored. */
  readonly stored = new Map<Digest, number>();
  private readonly found = new Set<Digest>();
  private readonly layers: Layers;
  private readonly leaseId: string;
  private readonly progress: OnProgress;
  private readonly keepBlobs: boolean | undefined;
  private readonly log: StoreContext['log'];

  constructor(layers: Layers, { leaseId, progress, keepBlobs }: Bringing, log: StoreContext['log']) {
    this.layers = layers;
    this.leaseId = leaseId;
    this.progress = progress;
    this.keepBlobs = keepBlobs;
    this.log = log;
  }

  async present(candidate: { diffId?: Digest; blobDigest?: Digest }): Promise<{ diffId: Digest; size: number } | null> {
    const layer = await this.layers.present(candidate, this.leaseId, this.keepBlobs);
    if (layer === null) return null;
    if (!this.stored.has(layer.diff_id) && !this.found.has(layer.diff_id)) {
      this.found.add(layer.diff_id);
      this.progress({ phase: 'present', subject: layer.diff_id, done: layer.size, total: layer.size });
    }
    return { diffId: layer.diff_id, size: layer.size };
  }

  async resembling(size: number, head: Buffer, signal: AbortSignal): Promise<Twin | null> {
    const layer = await this.layers.resembling(size, head, { leaseId: this.leaseId, signal });
    return layer === null ? null : { diffId: layer.diff_id, tar: () => this.layers.tar(layer, signal) };
  }

  async ingest(source: LayerSource, expect: LayerExpectation, signal: AbortSignal): Promise<IngestedLayer> {
    const subject = expect.diffId ?? expect.name;
    const total = source.length;
    this.progress({ phase: 'layer', subject, done: 0, total });
    const arrival = await this.layers.ingest({
      source,
      expect: {
        ...(expect.blobDigest === undefined ? {} : { blobDigest: expect.blobDigest }),
        ...(expect.diffId === undefined ? {} : { diffId: expect.diffId }),
      },
      leaseId: this.leaseId,
      signal,
      progress: ({ bytesIn, resumed = false }) =>
        this.progress({ phase: resumed ? 'resume' : 'layer', subject, done: bytesIn, total }),
      ...(this.keepBlobs === undefined ? {} : { keepBlob: this.keepBlobs }),
    });
    const { layer, blobDigest, present } = arrival;
    this.progress({ phase: present ? 'present' : 'layer', subject, done: total, total });
    if (present) this.found.add(layer.diff_id);
    else this.stored.set(layer.diff_id, layer.size);
    return { diffId: layer.diff_id, blobDigest, size: layer.size, present };
  }

  notice(text: string): void {
    this.log.info({ notice: text }, 'archive notice');
  }

  tally(): Pick<LoadResult, 'layersLoaded' | 'layersPresent' | 'bytesLoaded'> {
    let bytesLoaded = 0;
    for (const size of this.stored.values()) bytesLoaded += size;
    return { layersLoaded: this.stored.size, layersPresent: this.found.size, bytesLoaded };
  }
}
