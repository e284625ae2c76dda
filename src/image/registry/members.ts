/**
 * What a reference leads to at a registry, read as if it were an archive with an OCI layout: the index of the layout has
 * the one manifest (or index) that the reference names, so that images, platforms and names are understood by the same
 * code as those of archives. Of an index only what the choice of a platform needs is fetched.
 */
import type { ByteString } from '../../core/bytes.js';
import type { Digest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import { machinePlatform } from '../../core/platform.js';
import { formatReference, type Reference } from '../../core/reference.js';
import { parseImageDocument } from '../documents.js';
import type { ArchiveHost } from '../host.js';
import {
  type ArchiveMembers,
  blobPath,
  INDEX,
  ingestNamed,
  LAYOUT,
  missingLayer,
  obtain,
  type ObtainedLayer,
  type Origin,
  type WantedLayer,
} from '../members.js';
import { bestOf, platformNotFound, type PlatformChoice } from '../oci-images.js';
import { ANNOTATIONS, type Descriptor, isAttestation, isIndexType, isManifestType, MEDIA_TYPES } from '../types.js';
import { download, downloadDocument, mayBeElsewhere } from './download.js';
import type { TransferWatch } from './endpoint.js';
import type { RemoteManifest, Repository } from './repository.js';
import type { Transfers } from './transfers.js';

/** A reference, and where to look for it. */
export interface Remote {
  reference: Reference;
  /** Mirrors first. */
  places: readonly Repository[];
  watch: TransferWatch;
}

/** What a reference led to, and from which place on that was found. */
export interface Resolved {
  manifest: RemoteManifest;
  places: readonly Repository[];
}

/** Asks one place after the other. Throws REGISTRY_NOT_FOUND, or what the last place that was asked threw. */
export async function resolve({ reference, places, watch }: Remote): Promise<Resolved> {
  for (const [index, place] of places.entries()) {
    try {
      const manifest = await place.manifest(reference.digest ?? reference.tag ?? '', watch);
      if (manifest !== null) return { manifest, places: places.slice(index) };
    } catch (error) {
      if (index === places.length - 1 || !mayBeElsewhere(error)) throw error;
    }
  }
  const ref = formatReference(reference);
  const hosts = places.map(({ endpoint }) => endpoint.host);
  throw new LayerdError('REGISTRY_NOT_FOUND', `${hosts.join(' and ')} ${hosts.length > 1 ? 'have' : 'has'} no ${ref}`, {
    details: { ref, registries: hosts },
    hint: '`layerctl tags NAME` lists the tags of a repository.',
  });
}

export class RegistryMembers implements ArchiveMembers {
  readonly origin: Origin;
  readonly ended = true;
  private readonly host: ArchiveHost;
  private readonly transfers: Transfers;
  private readonly places: readonly Repository[];
  private readonly watch: TransferWatch;
  private readonly documents: ReadonlyMap<ByteString, Buffer>;

  constructor(
    remote: Remote,
    { manifest, places }: Resolved,
    choice: PlatformChoice,
    parts: { host: ArchiveHost; transfers: Transfers },
  ) {
    const label = formatReference(remote.reference);
    this.origin = { label, baseName: null };
    this.host = parts.host;
    this.transfers = parts.transfers;
    this.places = places;
    this.watch = remote.watch;
    const top = { ...chosen(label, manifest, choice), annotations: { [ANNOTATIONS.containerdName]: label } };
    this.documents = new Map([
      [LAYOUT, Buffer.from(JSON.stringify({ imageLayoutVersion: '1.0.0' }))],
      [INDEX, Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: [top] }))],
      [blobPath(manifest.digest), manifest.bytes],
    ]);
  }

  async document(path: ByteString, descriptor?: Descriptor): Promise<Buffer | null> {
    const known = this.documents.get(path);
    if (known !== undefined) return known;
    if (descriptor === undefined) return null;
    if (!isManifest(descriptor.mediaType)) return downloadDocument(this.places, descriptor, this.watch);
    for (const place of this.places) {
      const manifest = await place.manifest(descriptor.digest, this.watch);
      if (manifest !== null) return manifest.bytes;
    }
    return null;
  }

  layer(path: ByteString, wanted: WantedLayer, signal: AbortSignal): Promise<ObtainedLayer> {
    return obtain(this.host, wanted, () => {
      const { blobDigest: digest, size } = wanted;
      if (digest === undefined || size === undefined) throw missingLayer(this.origin.label, path, wanted);
      const fetch = (offset: number): AsyncGenerator<Buffer> =>
        download(this.places, { digest, size }, offset, { ...this.watch, signal });
      const ingest = (): Promise<ObtainedLayer> => ingestNamed(this.host, { fetch, length: size }, wanted, signal);
      return this.transfers.run(ingest, () => this.watch.onQueue(wanted.diffId, size));
    });
  }

  sample(): Promise<ByteString[]> {
    return Promise.resolve([]);
  }
}

/** The digest of what serves a platform: of a manifest itself, or of one that an index lists. */
export function chosenOf(label: string, manifest: RemoteManifest, choice: PlatformChoice): Digest {
  return chosen(label, manifest, choice).digest;
}

/** What the layout's index is to list: the manifest, or that of an index which serves the platform. */
function chosen(
  label: string,
  manifest: RemoteManifest,
  choice: PlatformChoice,
): Pick<Descriptor, 'mediaType' | 'digest' | 'size'> {
  const { bytes, digest, mediaType } = manifest;
  const all = { mediaType, digest, size: bytes.length };
  const document = parseImageDocument(label, bytes, mediaType);
  if (document.kind !== 'index' || choice.allPlatforms === true) return all;
  const images = document.index.manifests.filter((descriptor) => !isAttestation(descriptor));
  const told = images.flatMap((descriptor) =>
    descriptor.platform === null ? [] : [{ descriptor, platform: descriptor.platform }],
  );
  // where an index does not tell the platforms, the configs do
  if (told.length < images.length || images.length === 0) return all;
  const [first] = told;
  if (told.length === 1 && choice.platform === undefined && first !== undefined) return first.descriptor;
  const wanted = choice.platform ?? machinePlatform();
  const [best] = bestOf(told, wanted, choice.platform === undefined);
  if (best === undefined) throw platformNotFound(label, [], wanted, told);
  return best.descriptor;
}

function isManifest(mediaType: string): boolean {
  return isManifestType(mediaType) || isIndexType(mediaType) || mediaType === MEDIA_TYPES.ociArtifact;
}
