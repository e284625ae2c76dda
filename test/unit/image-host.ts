import { createHash } from 'node:crypto';
import { inflate, openCompressed } from '../../src/content/compression.js';
import { fileSource } from '../../src/content/file-source.js';
import type { ByteSource } from '../../src/content/source.js';
import { type Digest, digestFromHex, sha256 } from '../../src/core/digest.js';
import type { ArchiveHost, IngestedLayer, LayerExpectation, LayerSource } from '../../src/image/host.js';
import { blobMismatch, diffIdMismatch } from '../../src/image/members.js';
import type { SavedBytes, SaveHost } from '../../src/image/save-manifest.js';
import { TarScanner } from '../../src/tar/scanner.js';

/** A store of layers in memory: it hashes, inflates and scans what it is given, as the real one does. */
export class MemoryHost implements ArchiveHost, SaveHost {
  /** Uncompressed tars by diff ID. */
  readonly tars = new Map<Digest, Buffer>();
  /** Blobs as they came, by digest, with the diff ID of what is in them. */
  readonly blobs = new Map<Digest, { bytes: Buffer; diffId: Digest }>();
  readonly ingested: LayerExpectation[] = [];
  readonly notices: string[] = [];
  running = 0;

  present({ diffId, blobDigest }: { diffId?: Digest; blobDigest?: Digest }): ReturnType<ArchiveHost['present']> {
    const known = blobDigest === undefined ? undefined : this.blobs.get(blobDigest)?.diffId;
    const found = diffId !== undefined && this.tars.has(diffId) ? diffId : known;
    const tar = found === undefined ? undefined : this.tars.get(found);
    return Promise.resolve(found === undefined || tar === undefined ? null : { diffId: found, size: tar.length });
  }

  resembling(size: number, head: Buffer): ReturnType<ArchiveHost['resembling']> {
    const found = [...this.tars].find(([, tar]) => tar.length === size && tar.subarray(0, head.length).equals(head));
    if (found === undefined) return Promise.resolve(null);
    const [diffId, tar] = found;
    return Promise.resolve({ diffId, tar: () => this.read(tar) });
  }

  /** The bytes of a stored tar, in small pieces. */
  protected async *read(tar: Buffer): ByteSource {
    for (let at = 0; at < tar.length; at += 700) yield tar.subarray(at, at + 700);
  }

  async ingest(source: LayerSource, expect: LayerExpectation, signal: AbortSignal): Promise<IngestedLayer> {
    this.running++;
    try {
      signal.throwIfAborted();
      this.ingested.push(expect);
      return await this.#store(bytesOf(source), expect);
    } finally {
      this.running--;
    }
  }

  async #store(source: ByteSource, expect: LayerExpectation): Promise<IngestedLayer> {
    const blob: Buffer[] = [];
    const { compression, source: compressed } = await openCompressed(copied(source, blob));
    const hash = createHash('sha256');
    const tar: Buffer[] = [];
    const scanner = new TarScanner({ entry: () => undefined, data: () => undefined, entryEnd: () => undefined });
    for await (const chunk of inflate(compressed, compression)) {
      hash.update(chunk);
      scanner.write(chunk);
      tar.push(Buffer.from(chunk));
    }
    scanner.finish();
    const diffId = digestFromHex(hash.digest('hex'));
    const blobDigest = sha256(Buffer.concat(blob));
    const { name } = expect;
    if (expect.blobDigest !== undefined && expect.blobDigest !== blobDigest) {
      throw blobMismatch(name, expect.blobDigest, blobDigest);
    }
    if (expect.diffId !== undefined && expect.diffId !== diffId) throw diffIdMismatch(name, expect.diffId, diffId);
    const present = this.tars.has(diffId);
    const bytes = Buffer.concat(tar);
    this.tars.set(diffId, bytes);
    this.blobs.set(blobDigest, { bytes: Buffer.concat(blob), diffId });
    return { diffId, blobDigest, size: bytes.length, present };
  }

  notice(text: string): void {
    this.notices.push(text);
  }

  layerTar(diffId: Digest): Promise<SavedBytes> {
    const tar = this.tars.get(diffId);
    if (tar === undefined) throw new Error(`no layer ${diffId}`);
    return Promise.resolve(savedBytes(tar));
  }

  blob(digest: Digest): Promise<SavedBytes | null> {
    const blob = this.blobs.get(digest);
    return Promise.resolve(blob === undefined ? null : savedBytes(blob.bytes));
  }
}

function savedBytes(bytes: Buffer): SavedBytes {
  return { size: bytes.length, open: () => chunksOf(bytes, 64 * 1024) };
}

async function* copied(source: ByteSource, into: Buffer[]): AsyncGenerator<Buffer> {
  for await (const chunk of source) {
    into.push(Buffer.from(chunk));
    yield chunk;
  }
}

/** The bytes in pieces, each of which is overwritten when the next is asked for: as a ByteSource may do. */
export async function* chunksOf(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  const piece = Buffer.alloc(size);
  for (let at = 0; at < bytes.length; at += size) {
    const length = bytes.copy(piece, 0, at, at + size);
    await Promise.resolve();
    yield piece.subarray(0, length);
    piece.fill(0xa5);
  }
}

function bytesOf(source: LayerSource): ByteSource {
  if ('stream' in source) return source.stream;
  return 'fetch' in source ? source.fetch(0) : fileSource(source.path, source.offset, source.length);
}
