/**
 * Images as a store has them after years: some bases that many images share, each image with layers of its own upon one of
 * them, 500 entries to a layer, no two layers alike, no path in two layers of an image.
 */
import type { ByteString } from '../src/core/bytes.js';
import { chainIds, sha256, type Digest } from '../src/core/digest.js';
import { encodeEntry, endOfArchive, padding } from '../src/tar/writer.js';

export const ENTRIES_PER_LAYER = 500;
export const LAYERS_PER_IMAGE = 12;
const BASE_LAYERS = 4;
const OWN_LAYERS = LAYERS_PER_IMAGE - BASE_LAYERS;
/** A base for so many layers of the store. */
const LAYERS_PER_BASE = 500;
/** Every fourth file holds something; the others are empty, as links and markers mostly are. */
const CONTENT = Buffer.alloc(300, 'layerd ');

/** How many images make a store of so many layers, and on how many bases they lie. */
export function shapeOf(layers: number): { images: number; bases: number; layers: number } {
  const bases = Math.max(1, Math.round(layers / LAYERS_PER_BASE));
  const images = Math.max(bases, Math.floor((layers - bases * BASE_LAYERS) / OWN_LAYERS));
  return { images, bases, layers: bases * BASE_LAYERS + images * OWN_LAYERS };
}

/** One image of a store; `name` keeps it apart from those of other stores. */
export interface FlatImage {
  ref: string;
  /** Of its layers, bottom first. */
  labels: string[];
}

export function imageOf(name: string, image: number, base: number): FlatImage {
  const labels = Array.from({ length: LAYERS_PER_IMAGE }, (_, position) =>
    position < BASE_LAYERS ? `base-${name}-${base}-${position}` : `image-${name}-${image}-${position}`,
  );
  return { ref: `bench/${name}-${image}:1`, labels };
}

/** What a file in each layer of the image says, by its path. */
export function witnesses({ labels }: FlatImage): Map<string, string> {
  return new Map(labels.map((label, position) => [`layer-${position}/own`, label]));
}

/** The image as a docker-archive; notes its chain IDs in `chains`. */
export async function* archiveOf(image: FlatImage, chains?: Map<string, Digest[]>): AsyncGenerator<Buffer> {
  const tars = image.labels.map((label, position) => Buffer.concat([common(position), witness(position, label)]));
  const diffIds = tars.map(sha256);
  chains?.set(image.ref, chainIds(diffIds));
  const config = Buffer.from(
    JSON.stringify({
      architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
      os: 'linux',
      config: {},
      rootfs: { type: 'layers', diff_ids: diffIds },
      history: tars.map((_, position) => ({ created_by: `bench: step ${position}` })),
    }),
  );
  const names = tars.map((_, position) => `${position}.tar`);
  const manifest = [{ Config: 'config.json', RepoTags: [image.ref], Layers: names }];
  yield member('manifest.json', Buffer.from(JSON.stringify(manifest)));
  yield member('config.json', config);
  for (const [position, tar] of tars.entries()) yield member(`${position}.tar`, tar);
  yield endOfArchive();
}

const commons = new Map<number, Buffer>();

/** All of a layer but the file that is its own. */
function common(position: number): Buffer {
  const known = commons.get(position);
  if (known !== undefined) return known;
  const files = Array.from({ length: ENTRIES_PER_LAYER - 2 }, (_, index) =>
    member(`layer-${position}/file-${index}`, index % 4 === 0 ? CONTENT : Buffer.alloc(0)),
  );
  const made = Buffer.concat([entry(`layer-${position}/`, 'directory', 0), ...files]);
  commons.set(position, made);
  return made;
}

function witness(position: number, label: string): Buffer {
  return Buffer.concat([member(`layer-${position}/own`, Buffer.from(label)), endOfArchive()]);
}

function member(path: string, content: Buffer): Buffer {
  return Buffer.concat([entry(path, 'file', content.length), content, Buffer.alloc(padding(content.length))]);
}

function entry(path: string, type: 'file' | 'directory', size: number): Buffer {
  return encodeEntry({
    type,
    path: path as ByteString,
    linkPath: '' as ByteString,
    mode: type === 'file' ? 0o644 : 0o755,
    uid: 0,
    gid: 0,
    size,
    mtime: { sec: 1_700_000_000, nsec: 0 },
    devMajor: 0,
    devMinor: 0,
    xattrs: null,
  });
}
