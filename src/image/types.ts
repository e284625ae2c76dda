/**
 * The documents that describe images, as the OCI image specification (image-spec v1.1: config.md, manifest.md,
 * image-index.md, descriptor.md) and Docker's schema 2 have them. documents.ts reads them from bytes.
 */
import type { Digest } from '../core/digest.js';
import type { Platform } from '../core/words.js';
import type { JsonObject } from './json.js';

export const MEDIA_TYPES = {
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociConfig: 'application/vnd.oci.image.config.v1+json',
  ociArtifact: 'application/vnd.oci.artifact.manifest.v1+json',
  ociLayerTar: 'application/vnd.oci.image.layer.v1.tar',
  dockerList: 'application/vnd.docker.distribution.manifest.list.v2+json',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerConfig: 'application/vnd.docker.container.image.v1+json',
} as const;

export const ANNOTATIONS = {
  /** The name of a manifest in an OCI layout: a whole reference or a tag alone. */
  refName: 'org.opencontainers.image.ref.name',
  /** The whole reference, as containerd and Docker write it. */
  containerdName: 'io.containerd.image.name',
  /** Set by BuildKit on manifests that describe other manifests. */
  dockerReferenceType: 'vnd.docker.reference.type',
} as const;

const INDEX_TYPES = new Set<string>([MEDIA_TYPES.ociIndex, MEDIA_TYPES.dockerList]);
const MANIFEST_TYPES = new Set<string>([MEDIA_TYPES.ociManifest, MEDIA_TYPES.dockerManifest]);
const CONFIG_TYPES = new Set<string>([MEDIA_TYPES.ociConfig, MEDIA_TYPES.dockerConfig]);
const OCI_LAYER = /^application\/vnd\.oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+gzip|\+zstd)?$/;
const DOCKER_LAYER = /^application\/vnd\.docker\.image\.rootfs\.(?:foreign\.)?diff\.tar(?:\.gzip|\.zstd)?$/;
const NOT_DISTRIBUTED = /nondistributable|rootfs\.foreign/;

export interface Descriptor {
  mediaType: string;
  digest: Digest;
  size: number;
  platform: Platform | null;
  annotations: Record<string, string>;
  artifactType: string | null;
}

export interface ImageIndex {
  manifests: Descriptor[];
}

export interface ImageManifest {
  mediaType: string;
  config: Descriptor;
  layers: Descriptor[];
  annotations: Record<string, string>;
}

/** One row of an image's history: an instruction of its making. */
export interface HistoryEntry {
  /** RFC 3339. */
  created?: string;
  created_by?: string;
  author?: string;
  comment?: string;
  empty_layer?: boolean;
}

/** How containers of the image are run (config.md, "config"). */
export interface RunConfig {
  User?: string;
  ExposedPorts?: Record<string, object>;
  Env?: string[];
  Entrypoint?: string[];
  Cmd?: string[];
  Volumes?: Record<string, object>;
  WorkingDir?: string;
  Labels?: Record<string, string>;
  StopSignal?: string;
  OnBuild?: string[];
  Shell?: string[];
}

/** An image's config, checked. `document` is all of it, with the fields that layerd does not know. */
export interface ImageConfig {
  document: JsonObject;
  platform: Platform;
  /** Milliseconds since the epoch; null where the config does not tell. */
  created: number | null;
  config: RunConfig;
  diffIds: Digest[];
  history: HistoryEntry[];
}

/** One image of a docker-archive's manifest.json. */
export interface DockerArchiveEntry {
  config: string;
  refs: string[];
  layers: string[];
  /** Descriptors of the layers by diff ID, where the archive has compressed ones. */
  layerSources: Map<string, Descriptor>;
}

export function isIndexType(mediaType: string): boolean {
  return INDEX_TYPES.has(mediaType);
}

export function isManifestType(mediaType: string): boolean {
  return MANIFEST_TYPES.has(mediaType);
}

export function isConfigType(mediaType: string): boolean {
  return CONFIG_TYPES.has(mediaType);
}

export function isLayerType(mediaType: string): boolean {
  return OCI_LAYER.test(mediaType) || DOCKER_LAYER.test(mediaType);
}

/** True for layers that their makers do not allow registries to hand on: archives often lack them. */
export function isNotDistributed(mediaType: string): boolean {
  return NOT_DISTRIBUTED.test(mediaType);
}

/** Signatures, provenance and other things that travel as manifests but are no image. */
export function isAttestation({ platform, annotations }: Descriptor): boolean {
  const unknown = platform?.os === 'unknown' && platform.architecture === 'unknown';
  return unknown || annotations[ANNOTATIONS.dockerReferenceType] !== undefined;
}
