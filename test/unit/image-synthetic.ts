/** Image archives put together member by member, so that every member can be left out, moved, doubled or broken. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { bytesOf } from '../../src/core/bytes.js';
import { type Digest, digestHex, sha256 } from '../../src/core/digest.js';
import { encodeEntry, endOfArchive, padding } from '../../src/tar/writer.js';

const OCI = 'application/vnd.oci.image';

export type Member =
  { path: string; bytes: Buffer } | { path: string; symlink: string } | { path: string; hardlink: string };

/** A layer: a tar with one file, and the blob it travels as. */
export interface TestLayer {
  tar: Buffer;
  diffId: Digest;
  blob: Buffer;
  digest: Digest;
  mediaType: string;
}

export interface TestImage {
  config: Buffer;
  id: Digest;
  layers: TestLayer[];
  manifest: Buffer;
  digest: Digest;
}

export function testLayer(content: string, gzip = false): TestLayer {
  const tar = tarOf([{ path: content.slice(0, 20), bytes: Buffer.from(content) }]);
  const blob = gzip ? gzipSync(tar) : tar;
  const mediaType = `${OCI}.layer.v1.tar${gzip ? '+gzip' : ''}`;
  return { tar, diffId: sha256(tar), blob, digest: sha256(blob), mediaType };
}

/** A layer that travels as the tar it is. */
export function plainLayer(tar: Buffer): TestLayer {
  const digest = sha256(tar);
  return { tar, diffId: digest, blob: tar, digest, mediaType: `${OCI}.layer.v1.tar` };
}

export function testImage(layers: TestLayer[], architecture = 'amd64', extra: object = {}): TestImage {
  const config = json({
    os: 'linux',
    architecture,
    config: { Cmd: ['sh'] },
    rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.diffId) },
    ...extra,
  });
  const manifest = json({
    schemaVersion: 2,
    mediaType: `${OCI}.manifest.v1+json`,
    config: { mediaType: `${OCI}.config.v1+json`, digest: sha256(config), size: config.length },
    layers: layers.map(({ mediaType, digest, blob }) => ({ mediaType, digest, size: blob.length })),
  });
  return { config, id: sha256(config), layers, manifest, digest: sha256(manifest) };
}

export function json(document: unknown): Buffer {
  return Buffer.from(JSON.stringify(document));
}

export function blobMember(bytes: Buffer): Member {
  return { path: `blobs/sha256/${digestHex(sha256(bytes))}`, bytes };
}

/** An entry of an index. */
export function descriptor(bytes: Buffer, extra: object = {}, kind = 'manifest'): object {
  return { mediaType: `${OCI}.${kind}.v1+json`, digest: sha256(bytes), size: bytes.length, ...extra };
}

export function named(ref: string): object {
  return { annotations: { 'org.opencontainers.image.ref.name': ref } };
}

export function indexOf(manifests: object[]): Buffer {
  return json({ schemaVersion: 2, manifests });
}

/** The members of an OCI layout with these images, each once. */
export function layoutMembers(images: TestImage[], manifests: object[]): Member[] {
  const blobs = images.flatMap((image) => [
    blobMember(image.manifest),
    blobMember(image.config),
    ...image.layers.map((layer) => blobMember(layer.blob)),
  ]);
  return [
    { path: 'oci-layout', bytes: json({ imageLayoutVersion: '1.0.0' }) },
    { path: 'index.json', bytes: indexOf(manifests) },
    ...new Map(blobs.map((member) => [member.path, member])).values(),
  ];
}

/** The members of a docker-archive in the old form: a directory for each layer of each image, doubles as links. */
export function dockerMembers(images: { image: TestImage; tags: string[] }[]): Member[] {
  const seen = new Map<Digest, string>();
  const members: Member[] = [];
  const entries = images.map(({ image, tags }, i) => {
    members.push({ path: `${digestHex(image.id)}.json`, bytes: image.config });
    const layers = image.layers.map((layer, j) => {
      const path = `${digestHex(sha256(`v1 ${i} ${j}`))}/layer.tar`;
      const first = seen.get(layer.diffId);
      members.push({ path: path.replace('layer.tar', 'VERSION'), bytes: Buffer.from('1.0') });
      members.push(first === undefined ? { path, bytes: layer.tar } : { path, symlink: `../${first}` });
      seen.set(layer.diffId, first ?? path);
      return path;
    });
    return { Config: `${digestHex(image.id)}.json`, RepoTags: tags, Layers: layers };
  });
  return [...members, { path: 'manifest.json', bytes: json(entries) }];
}

export function tarOf(members: readonly Member[]): Buffer {
  return Buffer.concat([...members.flatMap(encodeMember), endOfArchive()]);
}

function encodeMember(member: Member): Buffer[] {
  const bytes = 'bytes' in member ? member.bytes : Buffer.alloc(0);
  const type = 'bytes' in member ? 'file' : 'symlink' in member ? 'symlink' : 'hardlink';
  const link = 'symlink' in member ? member.symlink : 'hardlink' in member ? member.hardlink : '';
  const header = encodeEntry({
    type,
    path: bytesOf(member.path),
    linkPath: bytesOf(link),
    mode: 0o644,
    uid: 0,
    gid: 0,
    size: bytes.length,
    mtime: { sec: 0, nsec: 0 },
    devMajor: 0,
    devMinor: 0,
    xattrs: null,
  });
  return [header, bytes, Buffer.alloc(padding(bytes.length))];
}

/** The members as files below a directory. */
export function writeMembers(directory: string, members: readonly Member[]): string {
  for (const member of members) {
    if (!('bytes' in member)) throw new Error('links are for tars');
    mkdirSync(dirname(join(directory, member.path)), { recursive: true });
    writeFileSync(join(directory, member.path), member.bytes);
  }
  return directory;
}
