/** Giving images out as archives. */
import type { SaveOptions } from '../core/api.js';
import { digestHex, type Digest } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import { normalizeReference } from '../core/reference.js';
import { fileSource } from '../content/file-source.js';
import type { ByteSource } from '../content/source.js';
import type { ImageRow } from '../metadata/rows.js';
import type { StoreContext } from '../store/context.js';
import type { Layers } from '../store/layers.js';
import type { Leases } from '../store/leases.js';
import { writeArchive } from './archive-writer.js';
import type { Images } from './images.js';
import type { SavedBytes, SaveHost, SaveImage } from './save-manifest.js';

export class Saver {
  private readonly context: StoreContext;
  private readonly images: Images;
  private readonly layers: Layers;
  private readonly leases: Leases;

  constructor(context: StoreContext, parts: { images: Images; layers: Layers; leases: Leases }) {
    this.context = context;
    this.images = parts.images;
    this.layers = parts.layers;
    this.leases = parts.leases;
  }

  /** Plans the archive, which may fail, and gives its stream. The images are protected until the stream ends. */
  async save(options: SaveOptions, signal: AbortSignal): Promise<{ stream: AsyncIterable<Buffer>; notice: string }> {
    if (options.refs.length === 0) throw new LayerdError('INVALID_ARGUMENT', 'name at least one image to save');
    const chosen = this.choose(options.refs);
    const host = new StoreHost(this.context, this.layers, signal);
    const archive = await writeArchive(
      chosen.map(({ row, refs }) => this.imageOf(row, refs)),
      options.format,
      host,
    );
    const differs = archive.images.filter((image) => !image.original);
    return {
      stream: this.held(chosen, archive.stream),
      notice: differs.length === 0 ? '' : noticeOf(differs),
    };
  }

  /** Each image once, under all names it was asked for by. */
  private choose(names: readonly string[]): { row: ImageRow; refs: string[] }[] {
    const chosen = new Map<number, { row: ImageRow; refs: Set<string> }>();
    for (const name of names) {
      const row = this.images.find(name);
      const entry = chosen.get(row.id) ?? { row, refs: new Set<string>() };
      chosen.set(row.id, entry);
      const all = this.context.reader.refs(row.id);
      const given = all.find((ref) => ref === wholeName(name));
      if (given !== undefined) entry.refs.add(given);
    }
    return [...chosen.values()].map(({ row, refs }) => ({ row, refs: [...refs] }));
  }

  private imageOf(row: ImageRow, refs: string[]): SaveImage {
    const { manifest, manifest_digest: digest, manifest_type: mediaType } = row;
    return {
      config: { bytes: row.config, digest: row.image_id },
      manifest:
        manifest === null || digest === null || mediaType === null ? null : { bytes: manifest, digest, mediaType },
      refs,
      layers: this.context.reader.imageLayers(row.id).map((layer) => layer.diff_id),
    };
  }

  private async *held(chosen: { row: ImageRow }[], stream: ByteSource): AsyncGenerator<Buffer> {
    const lease = await this.leases.hold(
      'save',
      chosen.map(({ row }) => row.image_id),
    );
    try {
      yield* stream;
    } finally {
      await lease.release();
    }
    for (const { row } of chosen) {
      await this.context.writer.run('recordEvent', { type: 'image.save', subject: row.image_id, data: {} });
    }
  }
}

/** The name as refs are stored; a thing that is no name (an id) as it is. */
function wholeName(text: string): string {
  try {
    return normalizeReference(text);
  } catch (thrown) {
    if (thrown instanceof LayerdError && thrown.code === 'INVALID_REFERENCE') return text;
    throw thrown;
  }
}

function noticeOf(images: { imageId: Digest; manifestDigest: Digest }[]): string {
  const which = images.map((image) => `image ${digestHex(image.imageId).slice(0, 12)}: ${image.manifestDigest}`);
  return `layers are written uncompressed under a new manifest, whose digest differs from that of any earlier one (${which.join(', ')}); diff IDs and image ids are unchanged`;
}

/** Bytes of stored layers and kept blobs. */
export class StoreHost implements SaveHost {
  private readonly context: StoreContext;
  private readonly layers: Layers;
  private readonly signal: AbortSignal;

  constructor(context: StoreContext, layers: Layers, signal: AbortSignal) {
    this.context = context;
    this.layers = layers;
    this.signal = signal;
  }

  async layerTar(diffId: Digest): Promise<SavedBytes> {
    const layer = this.context.reader.layer(diffId);
    if (layer === undefined) {
      throw new LayerdError('LAYER_NOT_FOUND', `layer ${diffId} is not in the store`, {
        details: { diffId },
        hint: 'Load the image again.',
      });
    }
    this.layers.wholeCopy(layer);
    return { size: layer.size, open: (offset = 0) => from(offset, this.layers.tar(layer, this.signal)) };
  }

  async blob(digest: Digest): Promise<SavedBytes | null> {
    const { reader, places } = this.context;
    const blob = reader.blob(digest);
    const file = blob?.file ?? null;
    if (blob !== undefined && file !== null) {
      return fileBytes(places.blob(file), blob.size);
    }
    // A layer that came uncompressed is its own blob.
    return reader.layer(digest) === undefined ? null : this.layerTar(digest);
  }
}

/** A file of `size` bytes. */
export function fileBytes(path: string, size: number): SavedBytes {
  return { size, open: (offset = 0) => copied(fileSource(path, offset, size - offset)) };
}

/** What of the bytes lies behind `offset`. */
async function* from(offset: number, source: ByteSource): AsyncGenerator<Buffer> {
  let position = 0;
  for await (const chunk of source) {
    const skip = Math.max(0, offset - position);
    position += chunk.length;
    if (skip < chunk.length) yield chunk.subarray(skip);
  }
}

/** fileSource() uses its buffers again; what goes to a socket must stay. */
async function* copied(source: ByteSource): AsyncGenerator<Buffer> {
  for await (const chunk of source) yield Buffer.from(chunk);
}
