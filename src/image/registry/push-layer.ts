/** One layer on its way to a registry, by the cheapest way that there is. */
import type { OnProgress } from '../../core/api.js';
import type { RegistryConfig } from '../../core/engine-config.js';
import type { Digest } from '../../core/digest.js';
import type { Reference } from '../../core/reference.js';
import type { PushCompression, PushResult } from '../../core/words.js';
import type { LayerRow } from '../../metadata/rows.js';
import type { StoreContext } from '../../store/context.js';
import type { Layers } from '../../store/layers.js';
import { fileBytes, type StoreHost } from '../save.js';
import type { SavedBytes } from '../save-manifest.js';
import type { Descriptor } from '../types.js';
import type { TransferWatch } from './endpoint.js';
import type { Repository, UploadPlace } from './repository.js';
import { upload } from './upload.js';

/** One push: where to, and how it is watched. */
export interface Target {
  reference: Reference;
  repository: Repository;
  watch: TransferWatch;
  progress: OnProgress;
  compression: PushCompression | null;
  /** Blobs that came plain are sent plain. */
  asItCame: boolean;
}

export interface SentLayer {
  diffId: Digest;
  digest: Digest;
  size: number;
  compression: 'none' | PushCompression;
  how: PushResult['layers'][number]['how'];
}

interface Blob {
  digest: Digest;
  size: number;
  compression: SentLayer['compression'];
}

export class LayerPush {
  private readonly context: StoreContext;
  private readonly layers: Layers;
  private readonly host: StoreHost;
  private readonly config: RegistryConfig;
  private readonly target: Target;
  private readonly row: LayerRow;
  private readonly original: Blob | null;
  /** An upload that the registry began where a blob could not be taken over. */
  private place: UploadPlace | null = null;

  /** `original`: the blob that the image's own manifest names for the layer. */
  constructor(
    parts: { context: StoreContext; layers: Layers; host: StoreHost; config: RegistryConfig },
    target: Target,
    row: LayerRow,
    original: Descriptor | null,
  ) {
    this.context = parts.context;
    this.layers = parts.layers;
    this.host = parts.host;
    this.config = parts.config;
    this.target = target;
    this.row = row;
    this.original = original === null ? null : { ...original, compression: compressionOf(original) };
  }

  /**
   * The blob that the image came with, if it is there, can be taken over, or is kept here; else one that was sent to the
   * registry before; else one that is made now.
   */
  async send(): Promise<SentLayer> {
    const { compression } = this.target;
    const { original } = this;
    if (original !== null && (compression === null || compression === original.compression)) {
      const found = (await this.found(original)) ?? (await this.kept(original));
      if (found !== null) return found;
    }
    const wanted = compression ?? 'gzip';
    const { reader } = this.context;
    const remembered = reader.remoteBlobs(this.target.reference.domain, this.row.diff_id);
    for (const { digest, size } of remembered.filter((blob) => blob.compression === wanted)) {
      const found = await this.found({ digest, size, compression: wanted });
      if (found !== null) return found;
    }
    return this.made(wanted);
  }

  /** Where the repository has it, or gets it from another one. */
  private async found(blob: Blob): Promise<SentLayer | null> {
    const { repository, reference, watch } = this.target;
    if (await repository.hasBlob(blob.digest, watch)) return this.done(blob, 'present');
    const others = this.context.reader.repositoriesOf(reference.domain, blob.digest);
    const from = others.find((path) => path !== reference.path);
    if (from === undefined || this.place !== null) return null;
    this.place = await repository.beginUpload(watch, { digest: blob.digest, from });
    return this.place === null ? this.done(blob, 'mounted') : null;
  }

  /** The blob as it came. One that came plain goes plain only where blobs are to go as they came. */
  private async kept(blob: Blob): Promise<SentLayer | null> {
    if (blob.compression === 'none' && !this.target.asItCame) return null;
    const bytes = await this.host.blob(blob.digest);
    return bytes === null ? null : this.upload(blob, bytes);
  }

  private made(compression: PushCompression): Promise<SentLayer> {
    const { progress, watch } = this.target;
    const { diff_id: subject, size: total } = this.row;
    const options = {
      signal: watch.signal,
      progress: ({ bytesOut }: { bytesOut: number }) => progress({ phase: 'compress', subject, done: bytesOut, total }),
    };
    return this.layers.compressed(this.row, compression, options, async ({ path, digest, size }) => {
      progress({ phase: 'compress', subject, done: total, total });
      const blob: Blob = { digest, size, compression };
      // it may be there though nobody here remembers it
      return (await this.found(blob)) ?? this.upload(blob, fileBytes(path, size));
    });
  }

  private async upload(blob: Blob, bytes: SavedBytes): Promise<SentLayer> {
    const { repository, watch, progress } = this.target;
    const subject = this.row.diff_id;
    const onBytes = (done: number): void => progress({ phase: 'push', subject, done, total: blob.size });
    onBytes(0);
    const options = { watch, chunkBytes: this.config.chunkBytes, onBytes };
    await upload(repository, { digest: blob.digest, bytes }, this.place, options);
    return this.done(blob, 'uploaded');
  }

  private async done(blob: Blob, how: SentLayer['how']): Promise<SentLayer> {
    const { reference, progress } = this.target;
    const { diff_id: diffId } = this.row;
    if (how !== 'uploaded') progress({ phase: 'present', subject: diffId, done: blob.size, total: blob.size });
    if (this.isProved(blob)) {
      await this.context.writer.run('noteRemoteBlobs', {
        registry: reference.domain,
        repository: reference.path,
        blobs: [{ ...blob, diffId }],
      });
    }
    const { digest, size, compression } = blob;
    return { diffId, digest, size, compression, how };
  }

  /** That the blob holds the layer was seen here, not only said by a manifest. */
  private isProved({ digest }: Blob): boolean {
    if (digest !== this.original?.digest || digest === this.row.diff_id) return true;
    return this.context.reader.blob(digest)?.diff_id === this.row.diff_id;
  }
}

/** What compression a descriptor says that its blob has. */
function compressionOf({ mediaType }: Descriptor): 'none' | PushCompression {
  if (/[+.]gzip$/.test(mediaType)) return 'gzip';
  return /[+.]zstd$/.test(mediaType) ? 'zstd' : 'none';
}
