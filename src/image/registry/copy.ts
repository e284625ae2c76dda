/** Images from registry to registry, and between registries and archives, byte for byte: nothing is unpacked on the way. */
import type { ArchiveInput, CopyOptions, ImportOptions, OnProgress, RemoteOptions } from '../../core/api.js';
import { newDigester } from '../../content/digesting.js';
import type { ByteSource } from '../../content/source.js';
import { sha256, type Digest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import { formatReference, normalizeReference, parseReference, type Reference } from '../../core/reference.js';
import type { CopyResult, PushResult } from '../../core/words.js';
import { readArchive } from '../archive-reader.js';
import { jsonFile, inMemory, tarOf } from '../archive-writer.js';
import { parseJson } from '../json.js';
import type { Loader } from '../load.js';
import { blobMismatch, blobPath, INDEX, LAYOUT } from '../members.js';
import type { SavedBytes } from '../save-manifest.js';
import type { Leases } from '../../store/leases.js';
import { ANNOTATIONS, MEDIA_TYPES } from '../types.js';
import { download, type RemoteBlob } from './download.js';
import { transferWatch, type TransferWatch } from './endpoint.js';
import { graphOf, type ImageGraph } from './graph.js';
import { chosenOf, resolve } from './members.js';
import type { Pusher } from './push.js';
import type { Registries } from './registries.js';
import { referrersTag, type RemoteManifest, type Repository } from './repository.js';
import { upload } from './upload.js';

interface Source {
  repository: Repository;
  reference: Reference;
  top: RemoteManifest;
  graph: ImageGraph;
}

export class Copier {
  private readonly parts: { registries: Registries; leases: Leases; loader: Loader };
  private readonly pusher: Pusher;

  constructor(parts: { registries: Registries; leases: Leases; loader: Loader }, pusher: Pusher) {
    this.parts = parts;
    this.pusher = pusher;
  }

  /** Registry to registry: what the target has is not sent, and within a registry nothing is. */
  async copy(
    from: string,
    to: string,
    options: CopyOptions,
    progress: OnProgress,
    signal: AbortSignal,
  ): Promise<CopyResult> {
    const stop = new AbortController();
    const watch = transferWatch(progress, AbortSignal.any([signal, stop.signal]));
    const source = await this.source(from, options, watch);
    const reference = parseReference(normalizeReference(to));
    const target = this.parts.registries.repository(reference, options.targetCredentials ?? null);
    const { graph, top } = source;
    const result: CopyResult = {
      source: formatReference(source.reference),
      target: formatReference(reference),
      digest: top.digest,
      manifests: graph.manifests.length,
      copied: 0,
      mounted: 0,
      present: 0,
      bytesCopied: 0,
    };
    const send = async (blob: RemoteBlob): Promise<void> => {
      const how = await this.copyBlob(source.repository, target, blob, watch, progress);
      result[how] += 1;
      if (how === 'copied') result.bytesCopied += blob.size;
    };
    const sending = graph.blobs.map((blob) =>
      this.parts.registries.transfers.run(
        () => send(blob),
        () => watch.onQueue(blob.digest, blob.size),
      ),
    );
    for (const one of sending) one.catch((error: unknown) => stop.abort(error));
    await Promise.allSettled(sending);
    if (stop.signal.aborted) throw stop.signal.reason;
    for (const manifest of graph.manifests) {
      const refers = graph.referrers.find((referrer) => referrer.manifest.digest === manifest.digest);
      const { subject } = await target.putManifest(manifest.digest, manifest, watch);
      if (refers !== undefined && !subject) await addReferrer(target, refers.subject, manifest, watch);
    }
    if (reference.tag !== null && reference.digest === null) await target.putManifest(reference.tag, top, watch);
    return result;
  }

  /** Registry to archive: an OCI layout as a tar. What fails on the way breaks the stream off. */
  async archive(from: string, options: RemoteOptions, signal: AbortSignal): Promise<ByteSource> {
    const watch = transferWatch(() => undefined, signal);
    const { repository, reference, top, graph } = await this.source(from, options, watch);
    const named = {
      [ANNOTATIONS.containerdName]: formatReference(reference),
      [ANNOTATIONS.refName]: formatReference(reference),
    };
    const manifests = [
      { ...descriptorOf(top), annotations: named },
      ...graph.referrers.map(({ manifest }) => descriptorOf(manifest)),
    ];
    return tarOf(
      new Map<ReturnType<typeof blobPath>, SavedBytes>([
        [LAYOUT, jsonFile({ imageLayoutVersion: '1.0.0' })],
        [INDEX, jsonFile({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests })],
        ...graph.manifests.map((manifest) => [blobPath(manifest.digest), inMemory(manifest.bytes)] as const),
        ...graph.blobs.map((blob) => [blobPath(blob.digest), verified(repository, blob, watch)] as const),
      ]),
    );
  }

  /**
   * Archive to registry: the image of an archive, with the blobs and the manifest that it has there. It is stored on the
   * way, under a lease and without a name.
   */
  async import(
    input: ArchiveInput,
    options: ImportOptions,
    progress: OnProgress,
    signal: AbortSignal,
  ): Promise<PushResult> {
    const { leases, loader } = this.parts;
    const { target, credentials, compression, platform } = options;
    return leases.during('import', async (leaseId) => {
      const choice = platform === undefined ? {} : { platform };
      const { images } = await loader.bring({ leaseId, progress, keepBlobs: true }, async (host) => {
        const parsed = await readArchive(input, host, choice, signal);
        for (const image of parsed) image.refs = [];
        return parsed;
      });
      const [image, ...others] = images;
      if (image === undefined || others.length > 0) throw severalImages(images.length);
      const pushing = {
        target,
        ...(credentials === undefined ? {} : { credentials }),
        ...(compression === undefined ? {} : { compression }),
      };
      return this.pusher.push(image.imageId, pushing, progress, signal, { asItCame: true });
    });
  }

  private async source(ref: string, options: RemoteOptions, watch: TransferWatch): Promise<Source> {
    const reference = parseReference(normalizeReference(ref));
    const repository = this.parts.registries.repository(reference, options.credentials ?? null);
    const { manifest } = await resolve({ reference, places: [repository], watch });
    const digest =
      options.platform === undefined ? manifest.digest : chosenOf(ref, manifest, { platform: options.platform });
    const top = digest === manifest.digest ? manifest : await repository.manifest(digest, watch);
    if (top === null) throw new LayerdError('REGISTRY_NOT_FOUND', `${repository.label} lacks the manifest ${digest}`);
    const graph = await graphOf(repository, top, { referrers: options.referrers ?? false }, watch);
    return { repository, reference, top, graph };
  }

  private async copyBlob(
    from: Repository,
    to: Repository,
    blob: RemoteBlob,
    watch: TransferWatch,
    progress: OnProgress,
  ): Promise<'copied' | 'mounted' | 'present'> {
    const { digest: subject, size: total } = blob;
    const there = (): void => progress({ phase: 'present', subject, done: total, total });
    if (await to.hasBlob(blob.digest, watch)) {
      there();
      return 'present';
    }
    const mount = from.endpoint.host === to.endpoint.host ? { digest: blob.digest, from: from.path } : undefined;
    const place = await to.beginUpload(watch, mount);
    if (place === null) {
      there();
      return 'mounted';
    }
    const bytes: SavedBytes = { size: total, open: (offset = 0) => download([from], blob, offset, watch) };
    const onBytes = (done: number): void => progress({ phase: 'copy', subject, done, total });
    const { chunkBytes } = this.parts.registries.config;
    await upload(to, { digest: blob.digest, bytes }, place, { watch, chunkBytes, onBytes });
    return 'copied';
  }
}

/** Registries that keep no track of referrers have an index of them under a tag (distribution specification, "Referrers Tag Schema"). */
async function addReferrer(
  target: Repository,
  subject: Digest,
  manifest: RemoteManifest,
  watch: TransferWatch,
): Promise<void> {
  const tag = referrersTag(subject);
  const present = await target.manifest(tag, watch);
  const listed =
    present === null ? [] : parseJson(`the referrers of ${subject}`, present.bytes).at('manifests').items();
  if (listed.some((field) => field.at('digest').value === manifest.digest)) return;
  const root = parseJson(`the manifest ${manifest.digest}`, manifest.bytes);
  const artifactType = root.at('artifactType').optionalText();
  const added = { ...descriptorOf(manifest), ...(artifactType === undefined ? {} : { artifactType }) };
  const manifests = [...listed.map((field) => field.value), added];
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests }));
  await target.putManifest(tag, { bytes, digest: sha256(bytes), mediaType: MEDIA_TYPES.ociIndex }, watch);
}

function descriptorOf({ mediaType, digest, bytes }: RemoteManifest): {
  mediaType: string;
  digest: Digest;
  size: number;
} {
  return { mediaType, digest, size: bytes.length };
}

/** A blob of a repository; it ends with an error where its bytes are not those of its digest. */
function verified(repository: Repository, blob: RemoteBlob, watch: TransferWatch): SavedBytes {
  const open = async function* (): AsyncGenerator<Buffer> {
    const hash = newDigester();
    for await (const chunk of download([repository], blob, 0, watch)) {
      void hash.update(chunk, false);
      yield chunk;
    }
    const found = hash.digest();
    if (found !== blob.digest) throw blobMismatch(`the blob of ${repository.label}`, blob.digest, found);
  };
  return { size: blob.size, open };
}

function severalImages(count: number): LayerdError {
  return new LayerdError('INVALID_ARGUMENT', `the archive holds ${count} images: which of them is meant?`, {
    hint: 'Load it, and push the image that you mean.',
  });
}
