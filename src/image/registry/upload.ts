/** Blobs going up: in chunks, continued where the registry says that it has got to. */
import type { Digest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import type { ByteSource } from '../../content/source.js';
import type { SavedBytes } from '../save-manifest.js';
import type { Answer } from './answer.js';
import { bufferBody } from './authorizer.js';
import { locationOf, type TransferWatch } from './endpoint.js';
import { protocolError } from './problems.js';
import type { Repository, UploadPlace } from './repository.js';

/** Blobs up to this size go in one request: they are sent again sooner than asked after. */
const AT_ONCE_BYTES = 1024 * 1024;
/** An upload that the registry has lost is begun anew so often. */
const MAX_RESTARTS = 3;

export interface UploadBlob {
  digest: Digest;
  bytes: SavedBytes;
}

export interface UploadOptions {
  watch: TransferWatch;
  chunkBytes: number;
  /** Bytes that the registry has taken so far. */
  onBytes: (done: number) => void;
}

/**
 * Sends a blob. `place`: an upload that has been begun; null: one is begun. The registry verifies the digest when it has
 * all. Throws REGISTRY_*, CANCELLED, and what the source throws.
 */
export async function upload(
  repository: Repository,
  blob: UploadBlob,
  place: UploadPlace | null,
  options: UploadOptions,
): Promise<void> {
  const sending = new Upload(repository, blob, options);
  await sending.run(place);
}

class Upload {
  private readonly repository: Repository;
  private readonly blob: UploadBlob;
  private readonly options: UploadOptions;
  private place: UploadPlace | null = null;
  /** Bytes that the registry has. */
  private at = 0;
  private restarts = 0;

  constructor(repository: Repository, blob: UploadBlob, options: UploadOptions) {
    this.repository = repository;
    this.blob = blob;
    this.options = options;
  }

  async run(place: UploadPlace | null): Promise<void> {
    const { watch } = this.options;
    const backoff = this.repository.endpoint.backoff(watch);
    this.place = place;
    for (;;) {
      const from = this.at;
      try {
        await this.rest();
        return;
      } catch (error) {
        if (this.at > from) backoff.reset();
        // out of step: what it has is asked below, and no pause makes that better
        if (!isOutOfStep(error)) await backoff.pause(error);
        if (await this.isThere(error)) return;
        await this.findStep(error);
      }
    }
  }

  /** Sends what is missing, and finishes. */
  private async rest(): Promise<void> {
    const { size } = this.blob.bytes;
    let place = this.place ?? (await this.begin());
    this.place = place;
    const inChunks = size > AT_ONCE_BYTES ? size : 0;
    while (this.at < inChunks) place = await this.chunk(place);
    const from = this.at;
    const body = from < size ? { length: size - from, open: () => this.blob.bytes.open(from) } : NO_BODY;
    const answer = await this.repository.upload(
      {
        method: 'PUT',
        at: withDigest(place.at, this.blob.digest),
        headers: { 'content-type': 'application/octet-stream' },
        body,
        expect: [201, 204],
        once: true,
      },
      this.options.watch,
    );
    await answer.discard();
    this.options.onBytes(size);
  }

  /** Returns where the upload goes on. */
  private async chunk(place: UploadPlace): Promise<UploadPlace> {
    const { bytes } = this.blob;
    const from = this.at;
    const length = Math.min(bytes.size - from, Math.max(this.options.chunkBytes, place.leastChunk));
    const answer = await this.repository.upload(
      {
        method: 'PATCH',
        at: place.at,
        headers: { 'content-type': 'application/octet-stream', 'content-range': `${from}-${from + length - 1}` },
        body: { length, open: () => this.counted(first(length, bytes.open(from)), from) },
        expect: [202],
        once: true,
      },
      this.options.watch,
    );
    await answer.discard();
    const next = this.moveTo(place, answer, takenBy(answer) ?? from + length);
    if (this.at <= from) throw protocolError(this.repository.endpoint.host, `an upload stays at byte ${from}`);
    return next;
  }

  /** Whether the registry has taken the whole, and only its answer was lost. */
  private async isThere(failure: unknown): Promise<boolean> {
    const { size } = this.blob.bytes;
    const isWhole = this.at >= size || size <= AT_ONCE_BYTES;
    if (!isWhole && !isOutOfStep(failure, 404)) return false;
    if (!(await this.repository.hasBlob(this.blob.digest, this.options.watch))) return false;
    this.options.onBytes(size);
    return true;
  }

  /** Where the upload goes on after a failure. */
  private async findStep(failure: unknown): Promise<void> {
    const { watch } = this.options;
    if (this.place === null) return;
    const place = this.place;
    if (!isOutOfStep(failure, 404)) {
      const answer = await this.repository.upload({ method: 'GET', at: place.at, expect: [200, 204, 404, 405] }, watch);
      await answer.discard();
      const taken = answer.status < 300 ? takenBy(answer) : null;
      // one that is out of step where we think it is would be so again
      if (taken !== null && !(isOutOfStep(failure) && taken === this.at)) {
        this.moveTo(place, answer, taken);
        return;
      }
    }
    this.restarts += 1;
    if (this.restarts > MAX_RESTARTS) throw failure;
    this.place = null;
    this.at = 0;
    this.options.onBytes(0);
  }

  private moveTo(place: UploadPlace, answer: Answer, at: number): UploadPlace {
    const next = answer.header('location') === '' ? place : { ...place, at: locationOf(answer) };
    this.place = next;
    this.at = Math.min(at, this.blob.bytes.size);
    this.options.onBytes(this.at);
    return next;
  }

  private async begin(): Promise<UploadPlace> {
    const place = await this.repository.beginUpload(this.options.watch);
    if (place !== null) return place;
    throw protocolError(this.repository.endpoint.host, 'an upload that is done before it has begun');
  }

  private async *counted(source: ByteSource, from: number): AsyncGenerator<Buffer> {
    let done = from;
    for await (const chunk of source) {
      yield chunk;
      done += chunk.length;
      this.options.onBytes(done);
    }
  }
}

const NO_BODY = bufferBody(Buffer.alloc(0));

/** The registry has another idea of how far the upload is, or has forgotten it. */
function isOutOfStep(error: unknown, ...statuses: number[]): boolean {
  const status = error instanceof LayerdError ? error.details['status'] : undefined;
  return (statuses.length === 0 ? [416, 404] : statuses).some((one) => one === status);
}

/** Bytes that the registry has, by its `Range: 0-LAST`; `0-0` is what most say who have none. */
function takenBy(answer: Answer): number | null {
  const last = /^(?:bytes=)?0-(\d+)$/.exec(answer.header('range'))?.[1];
  if (last === undefined) return null;
  return last === '0' ? 0 : Number(last) + 1;
}

/** A Location as it was given, and the digest behind what it has of a query. */
function withDigest(place: URL, digest: Digest): URL {
  const url = new URL(place);
  url.search = `${url.search}${url.search === '' ? '?' : '&'}digest=${encodeURIComponent(digest)}`;
  return url;
}

async function* first(length: number, source: ByteSource): AsyncGenerator<Buffer> {
  let left = length;
  for await (const chunk of source) {
    yield chunk.subarray(0, left);
    left -= Math.min(left, chunk.length);
    if (left === 0) return;
  }
}
