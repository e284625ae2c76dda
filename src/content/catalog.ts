/**
 * The catalog of a layer: its tar without the payloads, and what is known of it; enough to tell the tar again bit for bit
 * once the payloads are there, and to know a stored layer from its directory alone.
 *
 *   layerd catalog VERSION LENGTH sha256:HEX\n   the digest is of VERSION, LENGTH and the header
 *   header                                       LENGTH bytes of JSON: the facts, and size and digest of every block
 *   blocks                                       each deflated by itself: raw bytes of the tar, and where payloads stood
 *
 * Everything is checked before it is believed: the header by the first line, each block by the header, the end of the
 * file by the sum of both.
 */
import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { deflateRaw, deflateRawSync, inflateRawSync } from 'node:zlib';
import { isDigest, sha256, type Digest } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import type { DriverName } from '../core/words.js';

/** What a catalog says of its layer, beside the tar itself. */
export interface CatalogFacts {
  diffId: Digest;
  /** Bytes of the tar. */
  size: number;
  entries: number;
  /** The driver that keeps the layer. */
  driver: DriverName;
  opaqueRoot: boolean;
  /** How many directories the tar implies without listing them. */
  implied: number;
  /** When the layer was stored: milliseconds since the epoch. */
  created: number;
}

/** A piece of a tar: its own bytes, or that so many payload bytes stood there. */
export type CatalogRecord = { raw: Buffer } | { payload: number };

interface BlockEntry {
  /** Bytes in the file and when inflated. */
  stored: number;
  size: number;
  sha256: string;
}

export interface CatalogHeader {
  facts: CatalogFacts;
  blocks: BlockEntry[];
}

const VERSION = 1;
/** Bytes of the first line. */
export const PREFIX_BYTES = 'layerd catalog 1 0000000000 sha256:'.length + 64 + 1;
const PREFIX = /^layerd catalog (\d+) (\d{10}) sha256:([0-9a-f]{64})\n$/;

const BLOCK_BYTES = 1024 * 1024;
/** Of the first block: enough for a tiny layer as a whole. */
const FIRST_BLOCK_BYTES = 32 * 1024;
const RAW = 1;
const PAYLOAD = 2;
const RAW_PREFIX_BYTES = 5;
const PAYLOAD_BYTES = 9;
/** Blocks that may wait for the other thread before {@link CatalogBuilder.pressure} asks the producer to wait. */
const WAITING_BLOCKS = 3;

// Headers are mostly zeros and repetition: level 1 makes 1/27 of them at 630 MB/s, higher levels gain next to nothing.
const LEVEL = { level: 1 };
const deflate = promisify(deflateRaw) as (bytes: Buffer, options: typeof LEVEL) => Promise<Buffer>;
/** Less than this is deflated where it is: the way to another thread and back would take longer. */
const HERE_BYTES = 64 * 1024;

/** Takes a tar apart as it streams by. Blocks are deflated on another thread meanwhile. */
export class CatalogBuilder {
  /** Null while nothing is in it. */
  private block: Buffer | null = null;
  private filled = 0;
  /** Where the raw record that is still growing starts; -1: the last record is a payload. */
  private rawStart = -1;
  private readonly blocks: Promise<{ entry: BlockEntry; bytes: Buffer }>[] = [];
  private waiting = 0;
  private wake: (() => void) | null = null;

  /** Bytes of the tar that are no payload: headers, padding, the end. Copied. */
  raw(chunk: Buffer): void {
    for (let done = 0; done < chunk.length;) {
      const block = this.rawStart < 0 ? this.openRaw() : this.withRoom(1);
      const copied = chunk.copy(block, this.filled, done);
      this.filled += copied;
      done += copied;
      if (this.filled === block.length) this.flush();
    }
  }

  /** So many bytes of payload stand here. */
  payload(size: number): void {
    this.closeRaw();
    const block = this.withRoom(PAYLOAD_BYTES);
    block.writeUInt8(PAYLOAD, this.filled);
    block.writeBigUInt64LE(BigInt(size), this.filled + 1);
    this.filled += PAYLOAD_BYTES;
  }

  /** Wait for this before giving more, if it is not undefined. */
  pressure(): Promise<void> | undefined {
    if (this.waiting < WAITING_BLOCKS) return undefined;
    return new Promise((resolve) => (this.wake = resolve));
  }

  /** The file, in parts. */
  async finish(facts: CatalogFacts): Promise<Buffer[]> {
    this.flush();
    const blocks = await Promise.all(this.blocks);
    return [encodeHeader({ facts, blocks: blocks.map(({ entry }) => entry) }), ...blocks.map(({ bytes }) => bytes)];
  }

  private openRaw(): Buffer {
    const block = this.withRoom(RAW_PREFIX_BYTES + 1);
    this.rawStart = this.filled;
    block.writeUInt8(RAW, this.filled);
    this.filled += RAW_PREFIX_BYTES;
    return block;
  }

  private closeRaw(): void {
    if (this.rawStart >= 0 && this.block !== null) {
      this.block.writeUInt32LE(this.filled - this.rawStart - RAW_PREFIX_BYTES, this.rawStart + 1);
    }
    this.rawStart = -1;
  }

  private withRoom(bytes: number): Buffer {
    if (this.block !== null && this.filled + bytes > this.block.length) this.flush();
    this.block ??= Buffer.allocUnsafeSlow(this.blocks.length === 0 ? FIRST_BLOCK_BYTES : BLOCK_BYTES);
    return this.block;
  }

  private flush(): void {
    this.closeRaw();
    if (this.block === null) return;
    const packing = this.pack(this.block.subarray(0, this.filled));
    packing.catch(() => undefined); // finish() looks at all of them
    this.blocks.push(packing);
    this.block = null;
    this.filled = 0;
  }

  private async pack(full: Buffer): Promise<{ entry: BlockEntry; bytes: Buffer }> {
    this.waiting += 1;
    try {
      const bytes = full.length < HERE_BYTES ? deflateRawSync(full, LEVEL) : await deflate(full, LEVEL);
      return { entry: { stored: bytes.length, size: full.length, sha256: hexDigest(bytes) }, bytes };
    } finally {
      this.waiting -= 1;
      this.wake?.();
      this.wake = null;
    }
  }
}

/** The first line and the header. */
export function encodeHeader(header: CatalogHeader): Buffer {
  const json = Buffer.from(`${JSON.stringify(header)}\n`);
  const prefix = `layerd catalog ${VERSION} ${String(json.length).padStart(10, '0')}`;
  const digest = sha256(Buffer.concat([Buffer.from(prefix), json]));
  return Buffer.concat([Buffer.from(`${prefix} ${digest}\n`), json]);
}

/** Bytes of the header that follows this first line. Throws LAYER_DAMAGED. `path` is for the error. */
export function headerLength(prefix: Buffer, path: string): number {
  return readPrefix(prefix, path).length;
}

/** Checks and reads the header. Throws LAYER_DAMAGED, or STORE_NEWER for a version that a newer layerd wrote. */
export function decodeHeader(prefix: Buffer, json: Buffer, path: string): CatalogHeader {
  const { version, length, digest } = readPrefix(prefix, path);
  const signed = Buffer.concat([prefix.subarray(0, prefix.indexOf(' sha256:')), json]);
  if (json.length !== length || hexDigest(signed) !== digest)
    throw catalogDamaged(path, 'its header does not match its digest');
  if (version !== VERSION) {
    throw new LayerdError('STORE_NEWER', `the catalog ${path} is of version ${version}, this layerd reads ${VERSION}`, {
      details: { path, version },
      hint: 'Run the layerd that stored the layer, or a newer one.',
    });
  }
  return checkHeader(JSON.parse(json.toString()), path);
}

/** The records of one block. Throws LAYER_DAMAGED. */
export function decodeBlock(entry: BlockEntry, stored: Buffer, path: string): CatalogRecord[] {
  if (stored.length !== entry.stored || hexDigest(stored) !== entry.sha256) {
    throw catalogDamaged(path, 'a block does not match its digest');
  }
  const block = inflateRawSync(stored, { maxOutputLength: entry.size });
  const records: CatalogRecord[] = [];
  for (let at = 0; at < block.length;) {
    if (block[at] === PAYLOAD) {
      records.push({ payload: Number(block.readBigUInt64LE(at + 1)) });
      at += PAYLOAD_BYTES;
    } else {
      const start = at + RAW_PREFIX_BYTES;
      at = start + block.readUInt32LE(at + 1);
      records.push({ raw: block.subarray(start, at) });
    }
  }
  return records;
}

/** The error for a catalog that is not what was written; `check` reports it as CATALOG_CORRUPT. */
export function catalogDamaged(path: string, what: string, cause?: unknown): LayerdError {
  return new LayerdError('LAYER_DAMAGED', `the catalog ${path} is damaged: ${what}`, {
    details: { path, catalog: true },
    hint: 'Load the image again: what is damaged is replaced in place.',
    cause,
  });
}

function readPrefix(prefix: Buffer, path: string): { version: number; length: number; digest: string } {
  const [, version, length, digest] = PREFIX.exec(prefix.toString('latin1')) ?? [];
  if (version === undefined || length === undefined || digest === undefined) {
    throw catalogDamaged(path, 'its first line is not that of a catalog');
  }
  return { version: Number(version), length: Number(length), digest };
}

/** What has the right digest was written by layerd; this only tells a foreign or unfinished writer from that. */
function checkHeader(value: unknown, path: string): CatalogHeader {
  const header = value as Partial<CatalogHeader> | null;
  const { facts, blocks } = header ?? {};
  if (facts === undefined || blocks === undefined || !isDigest(facts.diffId)) {
    throw catalogDamaged(path, 'its header lacks facts');
  }
  return { facts, blocks };
}

function hexDigest(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
