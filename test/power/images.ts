/** Small images made from a seed, whose layers are shared and whose every file is known. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { bytesOf } from '../../src/core/bytes.js';
import { chainIds, sha256, type Digest } from '../../src/core/digest.js';
import { encodeEntry, endOfArchive, padding } from '../../src/tar/writer.js';
import { descriptor, layoutMembers, tarOf, testImage, type TestLayer } from '../unit/image-synthetic.js';
import { noise, Random } from './random.js';

/** What must be in a root, by path. */
export type Content = ReadonlyMap<string, Buffer>;

/** An OCI archive of one image. */
export interface Archive {
  path: string;
  ref: string;
  imageId: Digest;
  /** The chain ID of all its layers. */
  chainId: Digest;
  content: Content;
}

/** Images of one family lie on the same layer, pairs of them on the same two. */
const FAMILIES = 2;
const FILES = 8;

/** Writes `count` archives below `directory`. */
export function makeArchives(directory: string, count: number, seed: string): Archive[] {
  return Array.from({ length: count }, (_, index) => {
    const family = index % FAMILIES;
    const parts = [
      sampleFiles(`${seed} base ${family}`, 'usr'),
      sampleFiles(`${seed} middle ${family} ${Math.floor(index / FAMILIES / 2)}`, 'opt'),
      // its last layer replaces files of the first
      new Map([...sampleFiles(`${seed} top ${index}`, 'srv'), ['usr/file-0', noise(`${seed} over ${index}`, 5000)]]),
    ];
    const image = testImage(parts.map((files, layer) => layerOf(files, layer % 2 === 0)));
    const ref = `localhost/power-${index}:1`;
    const names = { 'io.containerd.image.name': ref, 'org.opencontainers.image.ref.name': ref };
    const path = join(directory, `image-${index}.tar`);
    writeFileSync(path, tarOf(layoutMembers([image], [descriptor(image.manifest, { annotations: names })])));
    const chainId = chainIds(image.layers.map(({ diffId }) => diffId)).at(-1) ?? image.id;
    const content = new Map<string, Buffer>();
    for (const files of parts) for (const [file, bytes] of files) content.set(file, bytes);
    return { path, ref, imageId: image.id, chainId, content };
  });
}

function sampleFiles(seed: string, directory: string): Content {
  const random = new Random(seed);
  const files = new Map<string, Buffer>();
  for (let file = 0; file < FILES; file += 1) {
    const size = file === 0 ? 300_000 + random.below(700_000) : random.below(40_000);
    files.set(`${directory}/file-${file}`, noise(`${seed} ${file}`, size));
  }
  return files;
}

function layerOf(files: Content, gzip: boolean): TestLayer {
  const directories = new Set([...files.keys()].map((path) => path.slice(0, path.indexOf('/'))));
  const tar = Buffer.concat([
    ...[...directories].map((path) => header(`${path}/`, null)),
    ...[...files].flatMap(([path, bytes]) => [header(path, bytes), bytes, Buffer.alloc(padding(bytes.length))]),
    endOfArchive(),
  ]);
  const blob = gzip ? gzipSync(tar, { level: 1 }) : tar;
  const mediaType = `application/vnd.oci.image.layer.v1.tar${gzip ? '+gzip' : ''}`;
  return { tar, diffId: sha256(tar), blob, digest: sha256(blob), mediaType };
}

function header(path: string, bytes: Buffer | null): Buffer {
  return encodeEntry({
    type: bytes === null ? 'directory' : 'file',
    path: bytesOf(path),
    linkPath: bytesOf(''),
    mode: bytes === null ? 0o755 : 0o644,
    uid: 0,
    gid: 0,
    size: bytes?.length ?? 0,
    mtime: { sec: 1_700_000_000, nsec: 0 },
    devMajor: 0,
    devMinor: 0,
    xattrs: null,
  });
}
