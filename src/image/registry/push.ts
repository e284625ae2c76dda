/** Images going to registries: what is there is not sent, what another repository there has is taken over. */
import { bytesSource } from '../../content/bytes-source.js';
import type { OnProgress, PushOptions } from '../../core/api.js';
import { displayBytes } from '../../core/bytes.js';
import { sha256, type Digest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import { KeyedLock } from '../../core/keyed-lock.js';
import { normalizeReference, parseReference, type Reference } from '../../core/reference.js';
import type { PushResult } from '../../core/words.js';
import type { ImageRow } from '../../metadata/rows.js';
import type { StoreContext } from '../../store/context.js';
import type { Layers } from '../../store/layers.js';
import type { Leases } from '../../store/leases.js';
import { parseManifest } from '../documents.js';
import type { Images } from '../images.js';
import { blobPath } from '../members.js';
import { StoreHost } from '../save.js';
import { type ImageManifest, MEDIA_TYPES } from '../types.js';
import { transferWatch } from './endpoint.js';
import { LayerPush, type SentLayer, type Target } from './push-layer.js';
import type { Registries } from './registries.js';
import type { RemoteManifest } from './repository.js';
import { upload } from './upload.js';

export interface PushParts {
  registries: Registries;
  leases: Leases;
  layers: Layers;
  images: Images;
}

export class Pusher {
  private readonly context: StoreContext;
  private readonly parts: PushParts;
  /** Two pushes of one layer to one repository do the work once. */
  private readonly locks = new KeyedLock();

  constructor(context: StoreContext, parts: PushParts) {
    this.context = context;
    this.parts = parts;
  }

  /** `asItCame`: kept blobs are sent as they are, plain ones too. */
  async push(
    name: string,
    options: PushOptions,
    progress: OnProgress,
    signal: AbortSignal,
    { asItCame }: { asItCame: boolean } = { asItCame: this.context.keepBlobs },
  ): Promise<PushResult> {
    const image = this.parts.images.find(name);
    const reference = parseReference(normalizeReference(options.target ?? name));
    const stop = new AbortController();
    const target: Target = {
      reference,
      repository: this.parts.registries.repository(reference, options.credentials ?? null),
      watch: transferWatch(progress, AbortSignal.any([signal, stop.signal])),
      progress,
      compression: options.compression ?? null,
      asItCame,
    };
    const lease = await this.parts.leases.hold('push', [image.image_id]);
    try {
      return await this.send(image, target, stop);
    } finally {
      await lease.release();
    }
  }

  private async send(image: ImageRow, target: Target, stop: AbortController): Promise<PushResult> {
    const { reference, repository, watch } = target;
    const original = originalOf(image);
    const place = reference.digest ?? reference.tag ?? '';
    // asked first: nothing is compressed for a registry that does not answer
    const present = await repository.manifestHead(place, watch);
    const layers = await this.sendLayers(image, original, target, stop);
    const configSent = await this.sendConfig(image, target);
    const manifest = manifestOf(image, original, layers);
    if (reference.digest !== null && reference.digest !== manifest.digest)
      throw otherDigest(reference.digest, manifest);
    if (present?.digest !== manifest.digest) await repository.putManifest(place, manifest, watch);
    const ref = normalizeReference(`${repositoryName(reference)}${reference.digest === null ? ':' : '@'}${place}`);
    await this.context.writer.run('recordEvent', {
      type: 'image.push',
      subject: image.image_id,
      data: { ref, digest: manifest.digest },
    });
    const unique = [...new Map(layers.map((layer) => [layer.diffId, layer])).values()];
    const uploaded = unique.filter(({ how }) => how === 'uploaded').reduce((sum, { size }) => sum + size, 0);
    return {
      ref,
      digest: manifest.digest,
      original: manifest.digest === image.manifest_digest,
      layers: unique.map(({ diffId, digest, size, how }) => ({ diffId, digest, size, how })),
      bytesSent: uploaded + configSent,
    };
  }

  /** Several at once; the first failure stops the others. Bottom first, as the image has them. */
  private async sendLayers(
    image: ImageRow,
    original: ImageManifest | null,
    target: Target,
    stop: AbortController,
  ): Promise<SentLayer[]> {
    const { registries } = this.parts;
    const rows = this.context.reader.imageLayers(image.id);
    const host = new StoreHost(this.context, this.parts.layers, target.watch.signal);
    const sent = new Map<Digest, Promise<SentLayer>>();
    for (const [position, row] of rows.entries()) {
      if (sent.has(row.diff_id)) continue;
      const parts = { context: this.context, layers: this.parts.layers, host, config: registries.config };
      const one = new LayerPush(parts, target, row, original?.layers[position] ?? null);
      const key = `${target.repository.label} ${row.diff_id}`;
      const onQueue = (): void => target.watch.onQueue(row.diff_id, row.size);
      const sending = this.locks.run(key, () => registries.transfers.run(() => one.send(), onQueue));
      sending.catch((error: unknown) => stop.abort(error));
      sent.set(row.diff_id, sending);
    }
    await Promise.allSettled(sent.values());
    if (stop.signal.aborted) throw stop.signal.reason;
    return Promise.all(rows.flatMap((row) => sent.get(row.diff_id) ?? []));
  }

  /** Returns the bytes that were sent. */
  private async sendConfig(image: ImageRow, { repository, watch }: Target): Promise<number> {
    if (await repository.hasBlob(image.image_id, watch)) return 0;
    const { config } = image;
    const open = (offset = 0): AsyncIterable<Buffer> => bytesSource(config.subarray(offset));
    const { chunkBytes } = this.parts.registries.config;
    const bytes = { size: config.length, open };
    await upload(repository, { digest: image.image_id, bytes }, null, { watch, chunkBytes, onBytes: () => undefined });
    return config.length;
  }
}

/** The manifest that the image came with, if it came with one. */
function originalOf({ manifest, manifest_digest: digest, manifest_type: mediaType }: ImageRow): ImageManifest | null {
  if (manifest === null || digest === null || mediaType === null) return null;
  return parseManifest(displayBytes(blobPath(digest)), manifest, mediaType);
}

/** The original one, byte for byte, where every blob is the one that it names; else a new one over the blobs that are there. */
function manifestOf(image: ImageRow, original: ImageManifest | null, layers: readonly SentLayer[]): RemoteManifest {
  const { manifest, manifest_digest: digest, manifest_type: mediaType } = image;
  const same =
    original?.layers.every((descriptor, position) => descriptor.digest === layers[position]?.digest) ?? false;
  if (same && manifest !== null && digest !== null && mediaType !== null) return { bytes: manifest, digest, mediaType };
  const annotations = original?.annotations ?? {};
  const document = {
    schemaVersion: 2,
    mediaType: MEDIA_TYPES.ociManifest,
    config: { mediaType: MEDIA_TYPES.ociConfig, digest: image.image_id, size: image.config.length },
    layers: layers.map((layer) => ({ mediaType: layerType(layer), digest: layer.digest, size: layer.size })),
    ...(Object.keys(annotations).length === 0 ? {} : { annotations }),
  };
  const bytes = Buffer.from(JSON.stringify(document));
  return { bytes, digest: sha256(bytes), mediaType: MEDIA_TYPES.ociManifest };
}

function layerType({ compression }: SentLayer): string {
  return compression === 'none' ? MEDIA_TYPES.ociLayerTar : `${MEDIA_TYPES.ociLayerTar}+${compression}`;
}

function repositoryName({ domain, path }: Reference): string {
  return `${domain}/${path}`;
}

function otherDigest(asked: Digest, manifest: RemoteManifest): LayerdError {
  return new LayerdError('INVALID_ARGUMENT', `the image would have the digest ${manifest.digest} there, not ${asked}`, {
    details: { asked, found: manifest.digest },
    hint: 'Push it by a tag. An image keeps its digest where its blobs are kept (keep_blobs), or are at the registry.',
  });
}
