/** The manifest that an image is saved under: the one it came with where all of its blobs are kept, else a new one. */
import type { ByteSource } from '../content/source.js';
import { displayBytes } from '../core/bytes.js';
import { type Digest, sha256 } from '../core/digest.js';
import type { ArchiveFormat } from '../core/words.js';
import { parseManifest } from './documents.js';
import type { StoredDocument } from './host.js';
import { blobPath } from './members.js';
import { type ImageManifest, MEDIA_TYPES } from './types.js';

/** Bytes of known length that can be read when their turn comes. */
export interface SavedBytes {
  size: number;
  /** The bytes from `offset` (default: the first) to the end. */
  open(offset?: number): ByteSource;
}

/** What saving asks of the store. */
export interface SaveHost {
  /** The uncompressed tar of a stored layer, bit for bit. */
  layerTar(diffId: Digest): Promise<SavedBytes>;
  /** A blob kept as it came, or null. */
  blob(digest: Digest): Promise<SavedBytes | null>;
}

export interface SaveImage {
  config: StoredDocument;
  /** The manifest that it came with, if it came with one. */
  manifest: (StoredDocument & { mediaType: string }) | null;
  /** The names to save it under: whole references. */
  refs: string[];
  /** Diff IDs, bottom first. */
  layers: Digest[];
}

/** A manifest with the blobs that it names, but the config. */
export interface ManifestToSave {
  document: StoredDocument & { mediaType: string };
  /** It is the manifest that the image came with. */
  original: boolean;
  /** Bottom first. */
  layers: { digest: Digest; bytes: SavedBytes }[];
}

/** Docker-archives always get plain layers: every docker reads those. */
export async function manifestToSave(image: SaveImage, format: ArchiveFormat, host: SaveHost): Promise<ManifestToSave> {
  const original = image.manifest === null ? null : parseOriginal(image.manifest);
  const kept = original === null || format === 'docker' ? null : await originalToSave(image, original, host);
  return kept ?? (await plainToSave(image, original, host));
}

function parseOriginal({ bytes, digest, mediaType }: StoredDocument & { mediaType: string }): ImageManifest {
  return parseManifest(displayBytes(blobPath(digest)), bytes, mediaType);
}

async function originalToSave(
  image: SaveImage,
  original: ImageManifest,
  host: SaveHost,
): Promise<ManifestToSave | null> {
  const layers: ManifestToSave['layers'] = [];
  for (const { digest } of original.layers) {
    const plain = image.layers.includes(digest) ? await host.layerTar(digest) : null;
    const bytes = plain ?? (await host.blob(digest));
    if (bytes === null) return null;
    layers.push({ digest, bytes });
  }
  return image.manifest === null ? null : { document: image.manifest, original: true, layers };
}

/** A manifest over uncompressed layers. The annotations, which speak of the image and not of its blobs, stay. */
async function plainToSave(image: SaveImage, original: ImageManifest | null, host: SaveHost): Promise<ManifestToSave> {
  const layers: ManifestToSave['layers'] = [];
  for (const digest of image.layers) layers.push({ digest, bytes: await host.layerTar(digest) });
  const annotations = original?.annotations ?? {};
  const manifest = {
    schemaVersion: 2,
    mediaType: MEDIA_TYPES.ociManifest,
    config: { mediaType: MEDIA_TYPES.ociConfig, digest: image.config.digest, size: image.config.bytes.byteLength },
    layers: layers.map(({ digest, bytes }) => ({ mediaType: MEDIA_TYPES.ociLayerTar, digest, size: bytes.size })),
    ...(Object.keys(annotations).length === 0 ? {} : { annotations }),
  };
  const bytes = Buffer.from(JSON.stringify(manifest));
  const document = { bytes, digest: sha256(bytes), mediaType: MEDIA_TYPES.ociManifest };
  return { document, original: image.manifest?.digest === document.digest, layers };
}
