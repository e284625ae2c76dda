/**
 * Images as one tar stream. Both formats are OCI layouts; the docker format has manifest.json and `repositories`
 * beside it, as docker save writes since 25, and is read by older ones too. The same images give the same bytes: all
 * times are the epoch, all owners root. Documents come first, so that a reader of the stream knows what follows.
 */
import { bytesSource } from '../content/bytes-source.js';
import type { ByteSource } from '../content/source.js';
import { type ByteString, bytesOf } from '../core/bytes.js';
import { type Digest, digestHex } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import { familiarName, parseReference } from '../core/reference.js';
import type { ArchiveFormat } from '../core/words.js';
import { encodeEntry, endOfArchive, padding } from '../tar/writer.js';
import { parseConfig } from './documents.js';
import { blobPath, DOCKER_MANIFEST, INDEX, LAYOUT } from './members.js';
import {
  type ManifestToSave,
  manifestToSave,
  type SavedBytes,
  type SaveHost,
  type SaveImage,
} from './save-manifest.js';
import { ANNOTATIONS, MEDIA_TYPES } from './types.js';

export interface SavedArchive {
  stream: ByteSource;
  /** In the order of the images that were given. */
  images: {
    imageId: Digest;
    manifestDigest: Digest;
    /** It is the manifest that the image came with. */ original: boolean;
  }[];
}

/** Plans the archive (which may fail before the first byte), and gives the stream of it. */
export async function writeArchive(
  images: readonly SaveImage[],
  format: ArchiveFormat,
  host: SaveHost,
): Promise<SavedArchive> {
  const saved: SavedImage[] = [];
  for (const image of images) saved.push({ image, manifest: await manifestToSave(image, format, host) });
  const files = new Map<ByteString, SavedBytes>([
    [LAYOUT, jsonFile({ imageLayoutVersion: '1.0.0' })],
    [INDEX, jsonFile(indexOf(saved, format))],
    ...(format === 'docker' ? dockerFiles(saved) : []),
  ]);
  for (const { image, manifest } of saved) {
    files.set(blobPath(manifest.document.digest), inMemory(manifest.document.bytes));
    files.set(blobPath(image.config.digest), inMemory(image.config.bytes));
  }
  for (const layer of saved.flatMap(({ manifest }) => manifest.layers)) files.set(blobPath(layer.digest), layer.bytes);
  return {
    stream: tarOf(files),
    images: saved.map(({ image, manifest }) => ({
      imageId: image.config.digest,
      manifestDigest: manifest.document.digest,
      original: manifest.original,
    })),
  };
}

interface SavedImage {
  image: SaveImage;
  manifest: ManifestToSave;
}

/** One descriptor for each name, as Docker and containerd write it; one without names for an image that has none. */
function indexOf(saved: readonly SavedImage[], format: ArchiveFormat): object {
  const manifests = saved.flatMap(({ image, manifest }) => {
    const { bytes, digest, mediaType } = manifest.document;
    const { os, architecture, variant } = parseConfig(digest, image.config.bytes).platform;
    const platform = { architecture, os, ...(variant === undefined ? {} : { variant }) };
    const descriptor = { mediaType, digest, size: bytes.byteLength, platform };
    if (image.refs.length === 0) return [descriptor];
    return image.refs.map((ref) => ({ ...descriptor, annotations: nameAnnotations(ref, format) }));
  });
  return { schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests };
}

/** Docker puts the tag alone into the specification's annotation; podman takes the whole name from there. */
function nameAnnotations(ref: string, format: ArchiveFormat): Record<string, string> {
  const { tag } = parseReference(ref);
  const refName = format === 'docker' && tag !== null ? tag : ref;
  return { [ANNOTATIONS.containerdName]: ref, [ANNOTATIONS.refName]: refName };
}

function dockerFiles(saved: readonly SavedImage[]): [ByteString, SavedBytes][] {
  const entries = saved.map(({ image }) => ({
    Config: blobPath(image.config.digest),
    RepoTags: tagged(image),
    Layers: image.layers.map(blobPath),
  }));
  return [
    [DOCKER_MANIFEST, jsonFile(entries)],
    [bytesOf('repositories'), jsonFile(repositoriesOf(saved))],
  ];
}

/** The index of docker before 1.10: repository, tag, and the id of the top layer. */
function repositoriesOf(saved: readonly SavedImage[]): Record<string, Record<string, string>> {
  const repositories: Record<string, Record<string, string>> = {};
  for (const { image } of saved) {
    const top = image.layers.at(-1);
    for (const ref of top === undefined ? [] : tagged(image)) {
      const reference = parseReference(ref);
      const name = familiarName(reference);
      repositories[name] = { ...repositories[name], [reference.tag ?? '']: digestHex(top as Digest) };
    }
  }
  return repositories;
}

/** Docker-archives cannot say names by digest. Whole names, since podman takes short ones for its own. */
function tagged(image: SaveImage): string[] {
  return image.refs.filter((ref) => {
    const { tag, digest } = parseReference(ref);
    return tag !== null && digest === null;
  });
}

export function jsonFile(document: unknown): SavedBytes {
  return inMemory(Buffer.from(JSON.stringify(document)));
}

export function inMemory(bytes: Buffer): SavedBytes {
  return { size: bytes.byteLength, open: () => bytesSource(bytes) };
}

/** A tar of files with these contents, in this order. */
export async function* tarOf(files: ReadonlyMap<ByteString, SavedBytes>): AsyncGenerator<Buffer> {
  for (const directory of ['blobs/', 'blobs/sha256/']) yield header('directory', bytesOf(directory), 0);
  for (const [path, file] of files) {
    const { size } = file;
    yield header('file', path, size);
    yield* exactly(size, file.open(), path);
    yield Buffer.alloc(padding(size));
  }
  yield endOfArchive();
}

function header(type: 'file' | 'directory', path: ByteString, size: number): Buffer {
  return encodeEntry({
    type,
    path,
    linkPath: bytesOf(''),
    mode: type === 'file' ? 0o644 : 0o755,
    uid: 0,
    gid: 0,
    size,
    mtime: { sec: 0, nsec: 0 },
    devMajor: 0,
    devMinor: 0,
    xattrs: null,
  });
}

/** The header has promised a length: a source that breaks it would shift all that follows. */
async function* exactly(size: number, source: ByteSource, path: ByteString): AsyncGenerator<Buffer> {
  let given = 0;
  for await (const chunk of source) {
    given += chunk.byteLength;
    if (given > size) break;
    yield chunk;
  }
  if (given === size) return;
  throw new LayerdError(
    'LAYER_DAMAGED',
    `${path} is ${given > size ? 'longer than' : 'only'} ${Math.min(given, size)} bytes, not ${size}`,
    {
      details: { member: path, expected: size, found: given },
      hint: 'The stored layer is not what was stored: run `layerctl check`.',
    },
  );
}
