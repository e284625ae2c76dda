/** Images: stacks of layers with a config and names. */
import type { Once } from '../core/api.js';
import { chainIds, isDigest, type Digest } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import { formatPlatform } from '../core/platform.js';
import { normalizeReference } from '../core/reference.js';
import type { HistoryRow, ImageDetail, ImageSummary, RemovedImage } from '../core/words.js';
import type { ImageRow, LayerRow } from '../metadata/rows.js';
import type { Chains } from '../store/chains.js';
import type { ImageFiles } from '../store/image-files.js';
import type { StoreContext } from '../store/context.js';
import { parseConfig } from './documents.js';
import { historyRows } from './config.js';
import type { StoredDocument } from './host.js';
import type { ImageConfig } from './types.js';

const HEX_PREFIX = /^(?:sha256:)?([0-9a-f]{4,64})$/;
/** The last part of a repository's path, whatever registry and tag stand around it. */
const REPOSITORY_NAME = /^(?:[\w.:-]+\/)*([a-z0-9._-]+)(?:[:@].*)?$/;

/** An image whose layers are all stored and held by a lease. */
export interface CompleteImage {
  config: StoredDocument & { parsed: ImageConfig };
  manifest: (StoredDocument & { mediaType: string; blobs: Digest[] }) | null;
  refs: string[];
  /** Bottom first. */
  layers: LayerRow[];
}

export class Images {
  private readonly context: StoreContext;
  private readonly chains: Chains;
  private readonly files: ImageFiles;

  constructor(context: StoreContext, parts: { chains: Chains; files: ImageFiles }) {
    this.context = context;
    this.chains = parts.chains;
    this.files = parts.files;
  }

  /**
   * Makes an image known. `leaseId` holds its layers, and the image itself where it has no name; `container` is what it was
   * committed from.
   */
  async add(image: CompleteImage, leaseId: string, container: string | null = null): Promise<void> {
    const { config, manifest, refs, layers } = image;
    const chain = await this.chains.ensure(layers);
    const renamed = this.namedBy(refs);
    await this.context.writer.run('addImage', {
      imageId: config.digest,
      config: config.bytes,
      platform: formatPlatform(config.parsed.platform),
      chainId: chain?.id ?? null,
      layerIds: layers.map((layer) => layer.id),
      manifest,
      created: config.parsed.created ?? 0,
      refs,
      leaseId,
      container,
    });
    await this.files.write([config.digest, ...renamed]);
  }

  /** By ref, id, unique prefix of an id, or manifest digest. Throws IMAGE_NOT_FOUND, AMBIGUOUS_ID. */
  find(text: string): ImageRow {
    const { reader } = this.context;
    const named = this.byName(text);
    if (named !== undefined) return named;
    const hex = HEX_PREFIX.exec(text)?.[1];
    const matches = hex === undefined ? [] : reader.imagesByPrefix(hex);
    const [first] = matches;
    if (first === undefined) {
      throw new LayerdError('IMAGE_NOT_FOUND', `no image has the name or id ${text}`, {
        details: { image: text },
        hint: this.similarHint(text),
      });
    }
    if (matches.length > 1) {
      throw new LayerdError('AMBIGUOUS_ID', `several images have ids that begin with ${text}`, {
        details: { image: text, matches: matches.map((row) => row.image_id) },
        hint: 'Give more digits, or a name.',
      });
    }
    return first;
  }

  /** Names of another registry or tag, which people leave out. */
  private similarHint(text: string): string {
    const name = REPOSITORY_NAME.exec(text)?.[1];
    const similar = name === undefined ? [] : this.context.reader.refsNamed(name);
    if (similar.length === 0) return '`layerctl images` lists the images; `layerctl load FILE` brings one.';
    return `There is ${similar.join(', ')}: \`layerctl images\` lists the images.`;
  }

  /** Newest first. */
  *list(): Generator<ImageSummary> {
    for (const row of this.context.reader.images()) yield this.summary(row);
  }

  detail(row: ImageRow): ImageDetail {
    const { reader, places } = this.context;
    const layers = reader.imageLayers(row.id);
    const stack = row.chain_id === null ? [] : reader.stack(reader.chain(row.chain_id)?.stack_id ?? 0);
    const chain = chainIds(layers.map((layer) => layer.diff_id));
    return {
      ...this.summary(row),
      config: JSON.parse(row.config.toString('utf8')) as unknown,
      manifestDigest: row.manifest_digest,
      manifestKept: this.manifestKept(row),
      layers: layers.map((layer, position) => ({
        diffId: layer.diff_id,
        chainId: chain[position] ?? layer.diff_id,
        size: layer.size,
        entries: layer.entries,
        driver: stack[position]?.driver ?? this.context.driver,
        path: stack[position] === undefined ? null : places.layer(stack[position].dir),
      })),
      containers: reader.containersOfImage(row.id).map((container) => container.id),
    };
  }

  history(row: ImageRow): HistoryRow[] {
    return historyRows(
      this.config(row),
      this.context.reader.imageLayers(row.id).map((layer) => layer.size),
    );
  }

  config(row: ImageRow): ImageConfig {
    return parseConfig(row.image_id, row.config);
  }

  async tag(source: string, target: string): Promise<ImageSummary> {
    const row = this.find(source);
    const name = normalizeReference(target);
    const renamed = this.namedBy([name]);
    await this.context.writer.run('tagImage', { imageId: row.image_id, name });
    await this.files.write([row.image_id, ...renamed]);
    return this.summary(row);
  }

  /** By name: that name goes, and the image with its last. By id: refused while it has several names, unless forced. */
  async remove(text: string, force: boolean, once?: Once): Promise<RemovedImage> {
    const row = this.find(text);
    const refs = this.context.reader.refs(row.id);
    const byName = this.byName(text) !== undefined && !isDigest(text);
    if (!byName && refs.length > 1 && !force) {
      throw new LayerdError('IMAGE_IN_USE', `image ${text} has ${refs.length} names: ${refs.join(', ')}`, {
        details: { image: row.image_id, refs },
        hint: 'Remove the names one by one, or force the removal.',
      });
    }
    const names = byName ? [normalizeReference(text)] : null;
    const removed = await this.context.writer.run('removeImage', { imageId: row.image_id, refs: names }, once);
    await this.files.tidy([row.image_id]);
    return removed;
  }

  /** The images that have these names now. */
  private namedBy(refs: readonly string[]): Digest[] {
    return refs.flatMap((name) => this.context.reader.imageByRef(name)?.image_id ?? []);
  }

  summary(row: ImageRow): ImageSummary {
    const { reader } = this.context;
    let size = 0;
    let unique = 0;
    const seen = new Set<number>();
    for (const layer of reader.imageLayers(row.id)) {
      if (seen.has(layer.id)) continue;
      seen.add(layer.id);
      size += layer.size;
      if (layer.shared === 0) unique += layer.size;
    }
    return {
      id: row.image_id,
      refs: reader.refs(row.id),
      created: row.created,
      size,
      unique,
      shared: size - unique,
      platform: row.platform,
    };
  }

  /** Every blob of the image's own manifest is kept, so that it can be given back byte for byte. */
  manifestKept(row: ImageRow): boolean {
    if (row.manifest === null) return false;
    const { reader } = this.context;
    const blobs = reader.imageBlobs(row.id);
    const plain = new Set(reader.imageLayers(row.id).map((layer) => layer.diff_id));
    return blobs.every((blob) => blob.kept === 1 || plain.has(blob.digest));
  }

  private byName(text: string): ImageRow | undefined {
    const { reader } = this.context;
    if (isDigest(text)) return reader.imageById(text) ?? reader.imageByManifest(text);
    try {
      return reader.imageByRef(normalizeReference(text));
    } catch (thrown) {
      if (thrown instanceof LayerdError && thrown.code === 'INVALID_REFERENCE') return undefined;
      throw thrown;
    }
  }
}
