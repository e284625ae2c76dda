/** Reads the documents of images from bytes that come from outside. Every `parse…` throws MANIFEST_INVALID with document and field. */
import { LIMITS } from '../core/limits.js';
import { machinePlatform, normalizePlatform } from '../core/platform.js';
import type { Platform } from '../core/words.js';
import { type Field, parseJson } from './json.js';
import {
  type Descriptor,
  type DockerArchiveEntry,
  type HistoryEntry,
  type ImageConfig,
  type ImageIndex,
  type ImageManifest,
  type RunConfig,
  isConfigType,
  isIndexType,
  isLayerType,
  isManifestType,
  MEDIA_TYPES,
} from './types.js';

export function parseIndex(name: string, bytes: Uint8Array): ImageIndex {
  return indexOf(parseJson(name, bytes));
}

/** Parses the manifest that an image was stored with. */
export function parseManifest(name: string, bytes: Uint8Array, mediaType: string): ImageManifest {
  return manifestOf(parseJson(name, bytes), mediaType);
}

/** What a descriptor of an index leads to. */
export type ImageDocument =
  | { kind: 'index'; index: ImageIndex }
  | { kind: 'manifest'; manifest: ImageManifest }
  /** Something else that travels as a manifest (a chart, a signature, …); or the image format before 2016. */
  | { kind: 'artifact' | 'schema1' };

/** Parses what a descriptor with `mediaType` leads to; the document's own media type and shape decide what it is. */
export function parseImageDocument(name: string, bytes: Uint8Array, mediaType: string): ImageDocument {
  const root = parseJson(name, bytes);
  const kind = documentKind(root, mediaType);
  if (kind === 'index') return { kind, index: indexOf(root) };
  if (kind === 'manifest') return { kind, manifest: manifestOf(root, mediaType) };
  return { kind };
}

function documentKind(root: Field, said: string): ImageDocument['kind'] {
  const own = root.at('mediaType').optionalText() ?? said;
  if (own === MEDIA_TYPES.ociArtifact) return 'artifact';
  if (root.at('schemaVersion').value === 1) return 'schema1';
  if (isIndexType(own) || (!isManifestType(own) && root.at('manifests').present)) return 'index';
  const config = root.at('config');
  const configType = config.present ? config.at('mediaType').optionalText() : undefined;
  return configType === undefined || isConfigType(configType) ? 'manifest' : 'artifact';
}

function indexOf(root: Field): ImageIndex {
  expectSchema2(root);
  forbid(root, ['config', 'layers'], 'an index');
  const manifests = root.at('manifests');
  if (!manifests.present) throw manifests.wrong('a list of manifests');
  return { manifests: manifests.items().map(parseDescriptor) };
}

function manifestOf(root: Field, said: string): ImageManifest {
  expectSchema2(root);
  forbid(root, ['manifests'], 'an image manifest');
  const layers = root.at('layers').items(LIMITS.layersPerImage);
  return {
    mediaType: root.at('mediaType').optionalText() ?? (isManifestType(said) ? said : MEDIA_TYPES.ociManifest),
    config: parseDescriptor(root.at('config')),
    layers: layers.map(parseLayerDescriptor),
    annotations: root.at('annotations').textMap(),
  };
}

export function parseConfig(name: string, bytes: Uint8Array): ImageConfig {
  const root = parseJson(name, bytes);
  const rootfs = root.at('rootfs');
  if (rootfs.at('type').text() !== 'layers') throw rootfs.at('type').wrong('"layers"');
  const diffIds = rootfs.at('diff_ids').items(LIMITS.layersPerImage);
  const created = Date.parse(root.at('created').optionalText() ?? '');
  return {
    document: root.object(),
    platform: parseConfigPlatform(root),
    created: Number.isNaN(created) ? null : created,
    config: parseRunConfig(root.at('config')),
    diffIds: diffIds.map((item) => item.digest()),
    history: root.at('history').items().map(parseHistoryEntry),
  };
}

/** manifest.json of a docker-archive (moby's image spec v1.2, "Combined Image JSON + Filesystem Changeset Format"). */
export function parseDockerArchive(name: string, bytes: Uint8Array): DockerArchiveEntry[] {
  return parseJson(name, bytes)
    .items()
    .map((entry) => ({
      config: entry.at('Config').text(),
      refs: entry.at('RepoTags').texts(),
      layers: entry
        .at('Layers')
        .items(LIMITS.layersPerImage)
        .map((layer) => layer.text()),
      layerSources: new Map(
        entry
          .at('LayerSources')
          .entries()
          .map(([diffId, field]) => [diffId, parseDescriptor(field)]),
      ),
    }));
}

/** The marker file of an OCI layout (image-layout.md). */
export function checkLayoutVersion(name: string, bytes: Uint8Array): void {
  const version = parseJson(name, bytes).at('imageLayoutVersion');
  if (!version.text().startsWith('1.')) throw version.wrong('a version 1.x');
}

function parseDescriptor(field: Field): Descriptor {
  const platform = field.at('platform');
  return {
    mediaType: field.at('mediaType').optionalText() ?? '',
    digest: field.at('digest').digest(),
    size: field.at('size').size(),
    platform: platform.present ? parsePlatformField(platform) : null,
    annotations: field.at('annotations').textMap(),
    artifactType: field.at('artifactType').optionalText() ?? null,
  };
}

function parseLayerDescriptor(field: Field): Descriptor {
  const descriptor = parseDescriptor(field);
  if (!isLayerType(descriptor.mediaType)) throw field.at('mediaType').wrong('the media type of a layer tar');
  return descriptor;
}

function parsePlatformField(field: Field): Platform {
  const variant = field.at('variant').optionalText() ?? '';
  return normalizePlatform({
    os: field.at('os').optionalText() ?? '',
    architecture: field.at('architecture').optionalText() ?? '',
    ...(variant === '' ? {} : { variant }),
  });
}

/** Old builders left os and architecture out: such images are taken as made for this machine, as Docker takes them. */
function parseConfigPlatform(root: Field): Platform {
  const said = parsePlatformField(root);
  const machine = machinePlatform();
  return { ...said, os: said.os || machine.os, architecture: said.architecture || machine.architecture };
}

function parseRunConfig(field: Field): RunConfig {
  if (!field.present) return {};
  return withoutUndefined({
    User: field.at('User').optionalText(),
    ExposedPorts: optionalObjects(field.at('ExposedPorts')),
    Env: field.at('Env').optionalTexts(),
    Entrypoint: field.at('Entrypoint').optionalTexts(),
    Cmd: field.at('Cmd').optionalTexts(),
    Volumes: optionalObjects(field.at('Volumes')),
    WorkingDir: field.at('WorkingDir').optionalText(),
    Labels: field.at('Labels').present ? field.at('Labels').textMap() : undefined,
    StopSignal: field.at('StopSignal').optionalText(),
    OnBuild: field.at('OnBuild').optionalTexts(),
    Shell: field.at('Shell').optionalTexts(),
  });
}

function parseHistoryEntry(field: Field): HistoryEntry {
  const empty = field.at('empty_layer').optionalFlag();
  return withoutUndefined({
    created: field.at('created').optionalText(),
    created_by: field.at('created_by').optionalText(),
    author: field.at('author').optionalText(),
    comment: field.at('comment').optionalText(),
    empty_layer: empty ? true : undefined,
  });
}

/** Go's sets: an object whose values say nothing. */
function optionalObjects(field: Field): Record<string, object> | undefined {
  return field.present ? Object.fromEntries(field.entries().map(([name]) => [name, {}])) : undefined;
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

function withoutUndefined<T extends object>(object: T): Defined<T> {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as Defined<T>;
}

function expectSchema2(root: Field): void {
  const version = root.at('schemaVersion');
  if (version.value !== 2) throw version.wrong('2');
}

/** A document that reads as both index and manifest would mean different images to different readers (CVE-2021-41190). */
function forbid(root: Field, names: string[], what: string): void {
  for (const name of names) {
    if (root.at(name).present) throw root.at(name).wrong(`nothing, in ${what}`);
  }
}
