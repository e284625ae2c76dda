/** Blobs coming down: continued by Range where a transfer breaks off, from the next place where one has them. */
import { sha256, type Digest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import { LIMITS } from '../../core/limits.js';
import { blobMismatch } from '../members.js';
import type { Answer } from './answer.js';
import type { TransferWatch } from './endpoint.js';
import { protocolError, unreachable } from './problems.js';
import type { Repository } from './repository.js';

export interface RemoteBlob {
  digest: Digest;
  /** Bytes, as a descriptor has it. */
  size: number;
}

/**
 * The bytes of a blob from `offset` to its end. What breaks off is continued after a pause, from where it broke; as long
 * as bytes come, there is no end to that. Places are tried in their order. Throws REGISTRY_*, CANCELLED, and
 * BLOB_DIGEST_MISMATCH for a blob that is longer than it should be; whether the bytes are right is the reader's to see.
 */
export async function* download(
  places: readonly Repository[],
  blob: RemoteBlob,
  offset: number,
  watch: TransferWatch,
): AsyncGenerator<Buffer> {
  let at = offset;
  for (const [index, place] of places.entries()) {
    try {
      for await (const chunk of fromOne(place, blob, at, watch)) {
        at += chunk.length;
        yield chunk;
      }
      return;
    } catch (error) {
      if (index === places.length - 1 || !mayBeElsewhere(error)) throw error;
    }
  }
}

/** A whole blob that must be small, verified. */
export async function downloadDocument(
  places: readonly Repository[],
  blob: RemoteBlob,
  watch: TransferWatch,
): Promise<Buffer> {
  if (blob.size > LIMITS.jsonDocument) {
    throw protocolError(places[0]?.endpoint.host ?? '', `a document of ${blob.size} bytes`, { digest: blob.digest });
  }
  const chunks: Buffer[] = [];
  for await (const chunk of download(places, blob, 0, watch)) chunks.push(chunk);
  const bytes = Buffer.concat(chunks);
  const found = sha256(bytes);
  if (found !== blob.digest) throw blobMismatch(`the blob of ${places[0]?.label ?? ''}`, blob.digest, found);
  return bytes;
}

export function mayBeElsewhere(error: unknown): boolean {
  return error instanceof LayerdError && error.code.startsWith('REGISTRY_');
}

async function* fromOne(
  place: Repository,
  blob: RemoteBlob,
  offset: number,
  watch: TransferWatch,
): AsyncGenerator<Buffer> {
  const backoff = place.endpoint.backoff(watch);
  let at = offset;
  let ranges = true;
  while (at < blob.size) {
    const from = at;
    try {
      const answer = await place.blob(blob.digest, ranges ? at : 0, watch);
      for await (const chunk of behind(answer, at, blob, place)) {
        at += chunk.length;
        yield chunk;
      }
      if (at < blob.size) throw endedEarly(place, at, blob);
    } catch (error) {
      // a registry that cannot find the range may still give the whole
      if (ranges && at === from && at > 0 && error instanceof LayerdError && error.details['status'] === 416) {
        ranges = false;
        continue;
      }
      if (at > from) backoff.reset();
      await backoff.pause(error);
    }
  }
}

/** What of the answer lies behind `at`: some registries send more than the range that was asked for. */
async function* behind(answer: Answer, at: number, blob: RemoteBlob, place: Repository): AsyncGenerator<Buffer> {
  let position = startOf(answer);
  if (position > at) {
    await answer.discard();
    throw protocolError(place.endpoint.host, `asked for byte ${at} on, it sends byte ${position} on`);
  }
  for await (const chunk of answer.stream()) {
    const skip = Math.max(0, at - position);
    position += chunk.length;
    if (position > blob.size) throw tooLong(place, blob);
    if (skip < chunk.length) yield chunk.subarray(skip);
  }
}

/** The first byte of a body: that of its Content-Range (RFC 9110, 14.4), else the blob's first. */
function startOf(answer: Answer): number {
  if (answer.status !== 206) return 0;
  const match = /^bytes (\d+)-/.exec(answer.header('content-range'));
  // without a usable header it may be anything
  return match === null ? Number.POSITIVE_INFINITY : Number(match[1]);
}

function endedEarly(place: Repository, at: number, { size, digest }: RemoteBlob): LayerdError {
  return unreachable(place.endpoint.host, `it sent ${at} of the ${size} bytes of ${digest}`, {
    expected: size,
    found: at,
  });
}

function tooLong(place: Repository, { size, digest }: RemoteBlob): LayerdError {
  return new LayerdError('BLOB_DIGEST_MISMATCH', `${place.label} sends more than the ${size} bytes of ${digest}`, {
    details: { expected: size, digest },
    hint: 'The registry has something else under this name, or the manifest is wrong.',
  });
}
