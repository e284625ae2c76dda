/**
 * What an archive holds, from its documents alone: the images to load, their names, and where their layers lie.
 * An archive may describe the same images twice, as an OCI layout and as a docker-archive (docker save since 25,
 * containerd): the layout tells manifests and platforms, and both tell names.
 */
import { type ByteString, bytesOf, displayBytes } from '../core/bytes.js';
import { type Digest, digestFromHex, sha256 } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import { platformRank } from '../core/platform.js';
import { normalizeReference } from '../core/reference.js';
import type { LoadOptions } from '../core/api.js';
import { ArchiveDocuments } from './archive-documents.js';
import { checkLayoutVersion, parseConfig, parseDockerArchive } from './documents.js';
import type { ParsedImage } from './host.js';
import { manifestInvalid } from './json.js';
import {
  type ArchiveMembers,
  blobMismatch,
  blobPath,
  DOCKER_MANIFEST,
  INDEX,
  LAYOUT,
  memberPath,
  missingMember,
} from './members.js';
import { type Notice, refOfBareTag, wholeRefs } from './names.js';
import { type OciImage, type OciImages, ociImages, platformNotFound } from './oci-images.js';
import type { Descriptor, DockerArchiveEntry } from './types.js';

export interface PlannedLayer {
  diffId: Digest;
  /** Where the archive has its bytes, if it has them. */
  member: ByteString;
  descriptor: Descriptor | null;
}

export type PlannedImage = Pick<ParsedImage, 'config' | 'manifest' | 'refs'> & { layers: PlannedLayer[] };

/** The images that `options` ask for, each config once. Throws ARCHIVE_INVALID if the archive is no image archive. */
export async function planImages(
  members: ArchiveMembers,
  options: LoadOptions,
  notice: Notice,
): Promise<PlannedImage[]> {
  const documents = new ArchiveDocuments(members);
  const layout = await documents.at(LAYOUT);
  const index = await documents.at(INDEX);
  const dockerManifest = await documents.at(DOCKER_MANIFEST);
  if (layout !== null) checkLayoutVersion(displayBytes(LAYOUT), layout);
  if (index === null && dockerManifest === null) {
    if (layout !== null) throw missingMember(members.origin.label, INDEX, 'an OCI layout starts there');
    throw await noImageArchive(members);
  }
  const oci = index === null ? NO_OCI_IMAGES : await ociImages(documents, index, options, notice);
  const entries = dockerManifest === null ? [] : parseDockerArchive(displayBytes(DOCKER_MANIFEST), dockerManifest);
  const plans = new Plans(members, documents, notice);
  for (const image of oci.chosen) await plans.addOci(image);
  for (const entry of entries) await plans.addDocker(entry, oci, options);
  const images = plans.finish();
  if (images.length === 0) throw await noImageArchive(members);
  return options.ref === undefined ? images : renamed(images, options.ref, members.origin.label);
}

const NO_OCI_IMAGES: OciImages = { chosen: [], configs: new Set() };

/** Gathers planned images by config digest, so that one told twice is planned once, with all its names. */
class Plans {
  readonly #images = new Map<Digest, { image: PlannedImage; bareTags: Set<string> }>();
  readonly #members: ArchiveMembers;
  readonly #documents: ArchiveDocuments;
  readonly #notice: Notice;

  constructor(members: ArchiveMembers, documents: ArchiveDocuments, notice: Notice) {
    this.#members = members;
    this.#documents = documents;
    this.#notice = notice;
  }

  async addOci({ names, manifest }: OciImage): Promise<void> {
    const { parsed } = manifest;
    if (!this.#images.has(parsed.config.digest)) {
      const bytes = await this.#documents.config(parsed.config);
      const config = { bytes, digest: parsed.config.digest, name: displayBytes(blobPath(parsed.config.digest)) };
      const layers = parsed.layers.map((descriptor) => ({ member: blobPath(descriptor.digest), descriptor }));
      const { bytes: manifestBytes, digest } = manifest;
      this.#plan(config, layers, { bytes: manifestBytes, digest, mediaType: parsed.mediaType });
    }
    this.#name(parsed.config.digest, names.refs, names.bareTag);
  }

  async addDocker(entry: DockerArchiveEntry, oci: OciImages, options: LoadOptions): Promise<void> {
    const config = await this.#dockerConfig(entry);
    const refs = wholeRefs(entry.refs, this.#notice);
    if (!this.#images.has(config.digest)) {
      // The layout has this image for a platform that was not chosen.
      if (oci.configs.has(config.digest)) return;
      const image = this.#plan(config, dockerLayers(entry), null);
      this.#expectPlatform(image, refs, options);
    }
    this.#name(config.digest, refs, null);
  }

  finish(): PlannedImage[] {
    const planned = [...this.#images.values()];
    for (const { image, bareTags } of planned) {
      if (image.refs.length > 0) continue;
      image.refs = [...bareTags].flatMap((tag) => refOfBareTag(this.#members.origin.baseName, tag) ?? []);
    }
    return planned.map(({ image }) => image);
  }

  #plan(
    { name, bytes, digest }: NamedConfig,
    found: Omit<PlannedLayer, 'diffId'>[],
    manifest: PlannedImage['manifest'],
  ): PlannedImage {
    const parsed = parseConfig(name, bytes);
    const { diffIds } = parsed;
    if (diffIds.length !== found.length) {
      const expected = `one diff ID for each of the image's ${found.length} layers`;
      throw manifestInvalid(name, 'rootfs.diff_ids', expected, String(diffIds.length));
    }
    const layers = found.map((layer, i) => ({ ...layer, diffId: diffIds[i] as Digest }));
    const image: PlannedImage = { config: { bytes, digest, parsed }, manifest, refs: [], layers };
    this.#images.set(digest, { image, bareTags: new Set() });
    return image;
  }

  #name(config: Digest, refs: readonly string[], bareTag: string | null): void {
    const planned = this.#images.get(config);
    if (planned === undefined) return;
    planned.image.refs = [...new Set([...planned.image.refs, ...refs])];
    if (bareTag !== null) planned.bareTags.add(bareTag);
  }

  async #dockerConfig(entry: DockerArchiveEntry): Promise<NamedConfig> {
    const path = dockerMember(entry.config, 'Config');
    const bytes = await this.#documents.at(path);
    const name = displayBytes(path);
    if (bytes === null) throw missingMember(this.#members.origin.label, path, 'it is the config of an image');
    const digest = sha256(bytes);
    const promised = CONFIG_NAME.exec(path)?.[1];
    if (promised !== undefined && digestFromHex(promised) !== digest) {
      throw blobMismatch(name, digestFromHex(promised), digest);
    }
    return { name, bytes, digest };
  }

  #expectPlatform({ config }: PlannedImage, refs: string[], { platform, allPlatforms }: LoadOptions): void {
    if (platform === undefined || allPlatforms === true) return;
    const found = config.parsed;
    if (platformRank(platform, found.platform) !== null) return;
    throw platformNotFound(this.#members.origin.label, refs, platform, [found]);
  }
}

interface NamedConfig {
  name: string;
  bytes: Buffer;
  digest: Digest;
}

/** How tools name configs by their digest: `HEX.json` (docker), `sha256:HEX` (Google's), `blobs/sha256/HEX`. */
const CONFIG_NAME = /^(?:blobs\/sha256\/|sha256:)?([0-9a-f]{64})(?:\.json)?$/;

function dockerLayers(entry: DockerArchiveEntry): Omit<PlannedLayer, 'diffId'>[] {
  const sources = new Map([...entry.layerSources.values()].map((source) => [blobPath(source.digest), source]));
  return entry.layers.map((layer) => {
    const member = dockerMember(layer, 'Layers');
    return { member, descriptor: sources.get(member) ?? null };
  });
}

function dockerMember(path: string, field: string): ByteString {
  const member = memberPath(bytesOf(path));
  if (member !== null) return member;
  throw manifestInvalid(
    displayBytes(DOCKER_MANIFEST),
    field,
    'the path of a member',
    JSON.stringify(path.slice(0, 300)),
  );
}

function renamed(images: PlannedImage[], ref: string, label: string): PlannedImage[] {
  const [image, ...others] = images;
  if (image === undefined || others.length > 0) {
    const refs = images.flatMap((each) => each.refs);
    throw new LayerdError('INVALID_ARGUMENT', `${label} holds ${images.length} images: one name cannot name them all`, {
      details: { archive: label, refs },
      hint: 'Load it without a name, then tag the image that you mean.',
    });
  }
  return [{ ...image, refs: [normalizeReference(ref)] }];
}

/** Tells what the archive is instead, as far as its names show. */
async function noImageArchive(members: ArchiveMembers): Promise<LayerdError> {
  const sample = await members.sample();
  const inside = sample.find((name) => /^[^/]+\/(?:oci-layout|index\.json|manifest\.json)$/.test(name));
  const names = sample.slice(0, 5).map((name) => displayBytes(name));
  const holds = names.length === 0 ? 'nothing' : names.join(', ');
  return new LayerdError('ARCHIVE_INVALID', `${members.origin.label} holds no image: it holds ${holds}`, {
    details: { archive: members.origin.label, members: names },
    hint: inside === undefined ? HINT_KINDS : `The image lies in a directory of the archive: pack what is inside it.`,
  });
}

const HINT_KINDS =
  'layerd loads docker-archives (docker save) and OCI layouts, as directory or tar; docker export writes a root file system, which is no image.';
