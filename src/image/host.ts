/** What reading an archive asks of the store, and what it gives back. The engine connects the two. */
import type { ByteSource } from '../content/source.js';
import type { Digest } from '../core/digest.js';
import type { Platform } from '../core/words.js';
import type { Twin } from './twin.js';
import type { ImageConfig } from './types.js';

/**
 * Where the bytes of a layer are, compressed or not; `length` counts them. A range of a file may be opened by any thread
 * of this process and read in parallel with others; a stream comes once, as the archive is read; what is fetched comes
 * from the byte that is asked for, and only if it is asked for.
 */
export type LayerSource =
  | { path: string; offset: number; length: number }
  | { stream: ByteSource; length: number }
  | { fetch: (offset: number) => ByteSource; length: number };

/** What is known of a layer before it is read; all of it is to be verified. */
export interface LayerExpectation {
  blobDigest?: Digest;
  diffId?: Digest;
  /** What the manifest calls it. The bytes decide: layers are told apart by their magic. */
  mediaType?: string;
  /** How errors and progress call the layer: its path in the archive. */
  name: string;
}

export interface IngestedLayer {
  diffId: Digest;
  blobDigest: Digest;
  /** Bytes of the uncompressed tar. */
  size: number;
  /** It was stored already: nothing was written. */
  present: boolean;
}

export interface ArchiveHost {
  /** The stored layer with this diff ID, or whose verified blob has this digest; then its bytes need not be read. */
  present(candidate: { diffId?: Digest; blobDigest?: Digest }): Promise<{ diffId: Digest; size: number } | null>;
  /** A stored layer whose tar is so long and begins so: for a layer in a stream whose digest nothing tells. */
  resembling(size: number, head: Buffer, signal: AbortSignal): Promise<Twin | null>;
  /**
   * Stores one layer; resolves when it is verified, durable and held by the load's lease. Many may be asked for at once:
   * the host limits how many run. A stream that is not read to its end is drained by the reader.
   */
  ingest(source: LayerSource, expect: LayerExpectation, signal: AbortSignal): Promise<IngestedLayer>;
  /** Something a person should know that is no error: a part of the archive that was left out. */
  notice(text: string): void;
}

/** A document with the digest of its bytes. */
export interface StoredDocument {
  bytes: Buffer;
  digest: Digest;
}

export interface ParsedLayer {
  diffId: Digest;
  /** Null where the layer was not read and the archive does not name its blob. */
  blobDigest: Digest | null;
  mediaType: string | null;
  present: boolean;
  /** Bytes of the uncompressed tar. */
  size: number;
}

/** An image of an archive whose layers are all stored. The image id is the digest of its config. */
export interface ParsedImage {
  config: StoredDocument & { parsed: ImageConfig };
  /** The manifest byte for byte; null for a docker-archive without one. */
  manifest: (StoredDocument & { mediaType: string }) | null;
  /** Whole references (core/reference.ts); none if the archive does not name the image. */
  refs: string[];
  platform: Platform;
  /** Bottom first. */
  layers: ParsedLayer[];
}
