/** The images of an OCI layout (image-layout.md): from index.json through nested indexes to manifests, by platform. */
import { displayBytes } from '../core/bytes.js';
import type { Digest } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import { LIMITS } from '../core/limits.js';
import { formatPlatform, machinePlatform, platformRank } from '../core/platform.js';
import { formatReference, parseReference } from '../core/reference.js';
import type { Platform } from '../core/words.js';
import type { ArchiveDocuments } from './archive-documents.js';
import { type ImageDocument, parseConfig, parseImageDocument, parseIndex } from './documents.js';
import type { StoredDocument } from './host.js';
import { archiveLimit, blobPath, INDEX, missingMember } from './members.js';
import { type ImageNames, NO_NAMES, namesOfAnnotations, type Notice } from './names.js';
import { type Descriptor, type ImageManifest, isAttestation } from './types.js';

export interface PlatformChoice {
  platform?: Platform;
  allPlatforms?: boolean;
}

/** A manifest that the archive holds, with what chooses between it and its siblings. */
export interface OciImage {
  names: ImageNames;
  manifest: StoredDocument & { parsed: ImageManifest };
  platform: Platform;
}

export interface OciImages {
  chosen: OciImage[];
  /** Configs of all image manifests in the archive, of those not chosen too. */
  configs: Set<Digest>;
}

/** Reads index.json and all it leads to, and chooses. */
export async function ociImages(
  documents: ArchiveDocuments,
  index: Buffer,
  choice: PlatformChoice,
  notice: Notice,
): Promise<OciImages> {
  const walk = new Walk(documents, notice);
  await walk.follow(parseIndex(displayBytes(INDEX), index).manifests, NO_NAMES, 1);
  const chosen = groupByNames(walk).flatMap((group) => choose(group, documents.label, choice));
  return { chosen, configs: new Set(walk.found.map((image) => image.manifest.parsed.config.digest)) };
}

/** A manifest that an index lists but the archive lacks, as in exports of one platform only. */
interface AbsentImage {
  names: ImageNames;
  descriptor: Descriptor;
}

/** Follows descriptors to manifests. */
class Walk {
  readonly found: OciImage[] = [];
  readonly absent: AbsentImage[] = [];
  readonly #documents: ArchiveDocuments;
  readonly #notice: Notice;
  /** What has been parsed: an archive may name the same manifest many times. */
  readonly #parsed = new Map<Digest, { bytes: Buffer; document: ImageDocument }>();
  readonly #platforms = new Map<Digest, Platform>();
  #descriptors = 0;

  constructor(documents: ArchiveDocuments, notice: Notice) {
    this.#documents = documents;
    this.#notice = notice;
  }

  async follow(descriptors: readonly Descriptor[], inherited: ImageNames, depth: number): Promise<void> {
    if (depth > LIMITS.indexDepth) throw this.#tooMuch(`indexes nest deeper than ${LIMITS.indexDepth}`);
    this.#descriptors += descriptors.length;
    if (this.#descriptors > LIMITS.descriptors) {
      throw this.#tooMuch(`its indexes list more than ${LIMITS.descriptors} manifests`);
    }
    for (const descriptor of descriptors) {
      if (!isAttestation(descriptor)) await this.#visit(descriptor, inherited, depth);
    }
  }

  async #visit(descriptor: Descriptor, inherited: ImageNames, depth: number): Promise<void> {
    const own = namesOfAnnotations(descriptor.annotations, this.#notice);
    const names = own.refs.length > 0 || own.bareTag !== null ? own : inherited;
    const loaded = await this.#load(descriptor);
    if (loaded === null) {
      this.absent.push({ names, descriptor });
      return;
    }
    const { bytes, document } = loaded;
    if (document.kind === 'index') await this.follow(document.index.manifests, names, depth + 1);
    else if (document.kind === 'manifest') await this.#add(descriptor, names, bytes, document.manifest);
    else this.#notice(`${descriptor.digest} is not an image (${describeOther(document.kind, descriptor)}): left out`);
  }

  async #load(descriptor: Descriptor): Promise<{ bytes: Buffer; document: ImageDocument } | null> {
    const known = this.#parsed.get(descriptor.digest);
    if (known !== undefined) return known;
    const bytes = await this.#documents.blob(descriptor);
    if (bytes === null) return null;
    const document = parseImageDocument(displayBytes(blobPath(descriptor.digest)), bytes, descriptor.mediaType);
    const loaded = { bytes, document };
    this.#parsed.set(descriptor.digest, loaded);
    return loaded;
  }

  async #add(descriptor: Descriptor, names: ImageNames, bytes: Buffer, parsed: ImageManifest): Promise<void> {
    const platform = descriptor.platform ?? (await this.#platformOfConfig(parsed.config));
    this.found.push({ names, platform, manifest: { bytes, digest: descriptor.digest, parsed } });
  }

  async #platformOfConfig(config: Descriptor): Promise<Platform> {
    const known = this.#platforms.get(config.digest);
    if (known !== undefined) return known;
    const bytes = await this.#documents.config(config);
    const { platform } = parseConfig(displayBytes(blobPath(config.digest)), bytes);
    this.#platforms.set(config.digest, platform);
    return platform;
  }

  #tooMuch(what: string): LayerdError {
    return archiveLimit(this.#documents.label, what);
  }
}

/** Manifests with the same names are one image for several platforms; so are those without any. */
interface Group {
  names: ImageNames;
  found: OciImage[];
  absent: AbsentImage[];
}

function groupByNames({ found, absent }: { found: OciImage[]; absent: AbsentImage[] }): Group[] {
  const groups = new Map<string, Group>();
  const groupOf = (names: ImageNames): Group => {
    const key = JSON.stringify([names.refs, names.bareTag]);
    const group = groups.get(key) ?? { names, found: [], absent: [] };
    groups.set(key, group);
    return group;
  };
  for (const image of found) {
    const group = groupOf(image.names);
    if (!group.found.some((other) => other.manifest.digest === image.manifest.digest)) group.found.push(image);
  }
  for (const image of absent) groupOf(image.names).absent.push(image);
  return [...groups.values()];
}

function choose(group: Group, label: string, choice: PlatformChoice): OciImage[] {
  const [first, ...others] = group.found;
  if (first === undefined) throw allAbsent(group.absent, label);
  const wanted = choice.platform ?? machinePlatform();
  const named = group.names.refs.length > 0 || group.names.bareTag !== null;
  if (choice.allPlatforms === true) return named ? namedByPlatform(group.found, wanted) : group.found;
  // An image for one platform is loaded whatever it is for, unless another was asked for.
  if (others.length === 0 && choice.platform === undefined) return [first];
  const best = bestOf(group.found, wanted, choice.platform === undefined);
  if (best.length === 0) throw platformNotFound(label, group.names.refs, wanted, group.found);
  return named ? best.slice(0, 1) : best;
}

/** Those that serve `wanted` best: several only where there are several for the same platform. */
export function bestOf<T extends { platform: Platform }>(
  images: readonly T[],
  wanted: Platform,
  compatible: boolean,
): T[] {
  const ranked = images.flatMap((image) => {
    const rank = platformRank(wanted, image.platform, compatible);
    return rank === null ? [] : [{ image, rank }];
  });
  const best = Math.min(...ranked.map(({ rank }) => rank));
  return ranked.filter(({ rank }) => rank === best).map(({ image }) => image);
}

/** A ref names one image: that of this machine (else the first). The others keep the repository, with their digest. */
function namedByPlatform(images: readonly OciImage[], wanted: Platform): OciImage[] {
  const heir = bestOf(images, wanted, true)[0] ?? images[0];
  return images.map((image) => (image === heir ? image : { ...image, names: digestNames(image) }));
}

function digestNames({ names, manifest }: OciImage): ImageNames {
  const refs = names.refs.map((ref) => {
    const { domain, path } = parseReference(ref);
    return formatReference({ domain, path, tag: null, digest: manifest.digest });
  });
  return { refs: [...new Set(refs)], bareTag: null };
}

/** The archive has images, none for the platform. */
export function platformNotFound(
  label: string,
  refs: readonly string[],
  wanted: Platform,
  found: readonly { platform: Platform }[],
): LayerdError {
  const platforms = [...new Set(found.map(({ platform }) => formatPlatform(platform)))];
  const image = refs[0] === undefined ? 'image' : `image ${refs[0]}`;
  return new LayerdError(
    'PLATFORM_NOT_FOUND',
    `${label} holds no ${image} for ${formatPlatform(wanted)}, only for ${platforms.join(', ')}`,
    {
      details: { archive: label, wanted: formatPlatform(wanted), present: platforms },
      hint: 'Ask for one of those that are there (--platform), or for all of them (--all-platforms).',
    },
  );
}

function allAbsent(absent: readonly AbsentImage[], label: string): LayerdError {
  const paths = absent.map(({ descriptor }) => blobPath(descriptor.digest));
  const what = 'an index lists it as an image, and the archive holds none that it lists';
  return missingMember(label, paths[0] ?? INDEX, what);
}

function describeOther(kind: 'artifact' | 'schema1', descriptor: Descriptor): string {
  if (kind === 'schema1') return 'the image format before 2016';
  return descriptor.artifactType === null ? 'an artifact' : `an artifact of type ${descriptor.artifactType}`;
}
