/**
 * The members of an image archive by name, however it is read: a tar file walked by its headers, a directory, or a
 * stream that has gone by. Names are normalised paths inside the archive; they never become paths of a file system
 * except beneath the directory they belong to.
 */
import { type ByteString, bytesOf, displayBytes } from '../core/bytes.js';
import { type Digest, digestFromHex, digestHex } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import type { ArchiveHost, IngestedLayer, LayerExpectation, LayerSource } from './host.js';
import { type Descriptor, isNotDistributed } from './types.js';

/** What the archive says of a layer that an image needs. */
export interface WantedLayer extends LayerExpectation {
  diffId: Digest;
  /** Bytes of the blob, where a descriptor tells. */
  size?: number;
}

/** A layer that is stored now; `blobDigest` is null where nothing had to be read and nothing names the blob. */
export type ObtainedLayer = Omit<IngestedLayer, 'blobDigest'> & { blobDigest: Digest | null };

/** Where an archive comes from. */
export interface Origin {
  /** How errors call it. */
  readonly label: string;
  /** What a bare tag in an OCI layout is a tag of: the archive's own name; null where it has none. */
  readonly baseName: string | null;
}

export interface ArchiveMembers {
  readonly origin: Origin;
  /** The archive says itself that it is whole: a tar may have been cut off between two members. */
  readonly ended: boolean;
  /**
   * The bytes of a JSON document, or null if there is no such member. `descriptor`: what led to it, where something did.
   * Throws MANIFEST_INVALID if it is too large.
   */
  document(path: ByteString, descriptor?: Descriptor): Promise<Buffer | null>;
  /** Has the layer at `path` stored, verified against `wanted`. */
  layer(path: ByteString, wanted: WantedLayer, signal: AbortSignal): Promise<ObtainedLayer>;
  /** Some names, to tell what an archive holds that is no image. */
  sample(): Promise<ByteString[]>;
}

export const INDEX = bytesOf('index.json');
export const LAYOUT = bytesOf('oci-layout');
export const DOCKER_MANIFEST = bytesOf('manifest.json');

export function blobPath(digest: Digest): ByteString {
  return bytesOf(`blobs/sha256/${digestHex(digest)}`);
}

const BLOB_PATH = /^blobs\/sha256\/([0-9a-f]{64})$/;

/** The digest that a member's name promises, if it is named as a blob of an OCI layout. */
export function blobDigestOf(path: ByteString): Digest | null {
  const hex = BLOB_PATH.exec(path)?.[1];
  return hex === undefined ? null : digestFromHex(hex);
}

/** A member's name without `./`, doubled slashes and inner `..`; null if it is empty or leaves the archive. */
export function memberPath(name: ByteString): ByteString | null {
  const parts: string[] = [];
  for (const part of name.split('/')) {
    if (part === '' || part === '.') continue;
    if (part !== '..') parts.push(part);
    else if (parts.pop() === undefined) return null;
  }
  return parts.length === 0 ? null : (parts.join('/') as ByteString);
}

/** Where a symbolic link at `path` leads, inside the archive; null if it leaves it. */
export function linkTarget(path: ByteString, target: ByteString): ByteString | null {
  if (target.startsWith('/')) return null;
  return memberPath(`${path.slice(0, path.lastIndexOf('/') + 1)}${target}` as ByteString);
}

/** As the host's ingest; what is wrong with a layer is said with its name. */
export async function ingestNamed(
  host: ArchiveHost,
  source: LayerSource,
  expect: LayerExpectation,
  signal: AbortSignal,
): Promise<IngestedLayer> {
  try {
    return await host.ingest(source, expect, signal);
  } catch (error) {
    if (!(error instanceof LayerdError) || error.kind === 'cancelled') throw error;
    const { code, message, details, hint } = error;
    throw new LayerdError(code, `layer ${expect.name}: ${message}`, {
      details: { ...details, layer: expect.name },
      hint,
      cause: error,
    });
  }
}

/** Throws the reason of an aborted signal; CANCELLED where it is no error of ours. */
export function throwIfCancelled(signal: AbortSignal): void {
  if (!signal.aborted) return;
  const reason: unknown = signal.reason;
  if (reason instanceof LayerdError) throw reason;
  throw new LayerdError('CANCELLED', 'reading the archive was cancelled', { cause: reason });
}

/** Layers that are stored already need not be read: what counts is the diff ID that the image's config names. */
export async function obtain(
  host: ArchiveHost,
  wanted: WantedLayer,
  read: () => Promise<ObtainedLayer>,
): Promise<ObtainedLayer> {
  const { diffId, blobDigest } = wanted;
  const stored = await host.present({ diffId, ...(blobDigest === undefined ? {} : { blobDigest }) });
  if (stored?.diffId !== diffId) return await read();
  return { diffId, blobDigest: blobDigest ?? null, size: stored.size, present: true };
}

export function missingLayer(label: string, path: ByteString, wanted: WantedLayer): LayerdError {
  const what = `it is the layer ${wanted.diffId} of an image, and is not stored here either`;
  if (!isNotDistributed(wanted.mediaType ?? '')) return missingMember(label, path, what);
  return missingMember(
    label,
    path,
    what,
    'Its maker does not allow the layer to be handed on: archives lack it. Ask the maker.',
  );
}

export function missingMember(label: string, path: ByteString, what: string, hint?: string): LayerdError {
  const member = displayBytes(path);
  return new LayerdError('ARCHIVE_INCOMPLETE', `${label} lacks ${member}: ${what}`, {
    details: { archive: label, member },
    hint: hint ?? 'The archive is not whole: make or fetch it again.',
  });
}

export function blobMismatch(name: string, expected: Digest, found: Digest): LayerdError {
  return new LayerdError(
    'BLOB_DIGEST_MISMATCH',
    `the bytes of ${name} are not what its digest promises: expected ${expected}, found ${found}`,
    { details: { name, expected, found }, hint: 'The archive was damaged or changed: fetch it again.' },
  );
}

export function diffIdMismatch(name: string, expected: Digest, found: Digest): LayerdError {
  return new LayerdError(
    'DIFF_ID_MISMATCH',
    `layer ${name} is not the one that the image's config names: expected diff ID ${expected}, found ${found}`,
    { details: { name, expected, found }, hint: 'The archive was damaged or put together wrongly: make it again.' },
  );
}

export function archiveLimit(label: string, what: string): LayerdError {
  return new LayerdError('ARCHIVE_LIMIT', `${label} is refused: ${what}`, {
    details: { archive: label },
    hint: 'No tool makes such images: look at where the archive comes from.',
  });
}

/** Descriptors tell the size of what they lead to: a wrong one shows damage before a byte is read. */
export function checkSize(name: string, expected: number | undefined, found: number): void {
  if (expected === undefined || expected === found) return;
  throw new LayerdError(
    found < expected ? 'ARCHIVE_TRUNCATED' : 'ARCHIVE_INVALID',
    `${name} is ${found} bytes long, but its descriptor says ${expected}`,
    { details: { name, expected, found }, hint: 'The archive was damaged or changed: fetch it again.' },
  );
}
