/**
 * One pass over one layer: digest of the blob, inflating, digest of the tar, scanning, the layer's tree, its catalog, and
 * the driver's sink. Reading ahead, inflating, hashing, deflating of the catalog and the sink's own writing run on other
 * threads while this one scans.
 */
import type { Digest } from '../core/digest.js';
import { fromBuffer } from '../core/bytes.js';
import { LayerdError, toLayerdError, type ErrorCode } from '../core/errors.js';
import type { TarEntry, TarHandler } from '../tar/entry.js';
import { TarScanner } from '../tar/scanner.js';
import { CatalogBuilder } from './catalog.js';
import { inflate, openCompressed } from './compression.js';
import type { Compression } from './compression-magic.js';
import { newDigester } from './digesting.js';
import { LayerTree } from './layer-tree.js';
import type { LayerSink, RootAttributes, StoredFacts } from './sink.js';
import { abortable } from './source-abort.js';
import type { ByteSource } from './source.js';

/** What the bytes must turn out to be. */
export interface Expectation {
  /** Digest of the bytes as they come. */
  blobDigest?: Digest;
  /** Digest of the uncompressed tar. */
  diffId?: Digest;
  /** Most bytes that the uncompressed tar may have. */
  maxSize?: number;
  /** Most entries that the layer may have, directories that it implies included. */
  maxEntries?: number;
}

export interface IngestHooks {
  /** After every chunk: compressed bytes taken and uncompressed bytes done so far. */
  progress?: (bytesIn: number, bytesOut: number) => void;
  signal?: AbortSignal;
}

/** What a layer turned out to be. */
export interface Ingested {
  diffId: Digest;
  blobDigest: Digest;
  blobSize: number;
  compression: Compression;
  /** Bytes of the uncompressed tar. */
  size: number;
  entries: number;
  opaqueRoot: boolean;
  /** The tar implies directories without listing them: they take their attributes from below. */
  implied: boolean;
  /** Attributes of the root where the tar lists it. */
  root: RootAttributes | null;
  facts: StoredFacts;
}

/** For {@link Unsettled.settle}: the layer makes itself durable. */
export const NOT_SYNCED = Promise.resolve(false);

/** A layer that is verified and complete on disk, and durable when `settle` has returned: see {@link LayerSink.settle}. */
export interface Unsettled {
  settle(synced: Promise<boolean>): Promise<Ingested>;
}

/**
 * Stores the layer that `source` gives, plain or compressed, through `sink`; durable when this returns. The digests are
 * compared before the sink commits; whatever fails, the sink is aborted, and the error comes out: BLOB_DIGEST_MISMATCH,
 * DIFF_ID_MISMATCH, COMPRESSION_*, TAR_*, LAYER_LIMIT, CANCELLED, or what the source or the sink threw.
 */
export async function ingest(
  source: ByteSource,
  sink: LayerSink,
  expect: Expectation,
  hooks: IngestHooks = {},
): Promise<Ingested> {
  const layer = await takeIn(source, sink, expect, hooks);
  return layer.settle(NOT_SYNCED);
}

/** The same for one of several that are made durable together. */
export async function takeIn(
  source: ByteSource,
  sink: LayerSink,
  expect: Expectation,
  hooks: IngestHooks = {},
): Promise<Unsettled> {
  const stop = new AbortController();
  const signal = hooks.signal === undefined ? stop.signal : AbortSignal.any([hooks.signal, stop.signal]);
  const intake = new Intake(sink, hooks, expect.maxEntries);
  try {
    const blob = await openCompressed(abortable(source, signal));
    const tar = inflate(blob.source, blob.compression, {
      ...(expect.maxSize === undefined ? {} : { maxSize: expect.maxSize }),
      tap: (chunk) => intake.tap(chunk, blob.compression),
    });
    for await (const chunk of tar) {
      try {
        await intake.take(chunk);
      } catch (thrown) {
        // Leaving the loop waits for the source's next chunk, unless it is told that nobody wants it any more.
        stop.abort(thrown);
        throw thrown;
      }
    }
    const layer = await intake.finish(blob.compression, expect);
    return { settle: (synced) => orAborted(sink, async () => ({ ...layer, facts: await sink.settle(await synced) })) };
  } catch (thrown) {
    return orAborted(sink, () => Promise.reject(thrown as Error));
  }
}

/** Whatever `work` throws, the sink is aborted. */
async function orAborted<T>(sink: LayerSink, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (thrown) {
    // What abort() leaves behind has no row: recovery removes it. The error that is told is the one that came first.
    await sink.abort().catch(() => undefined);
    throw toLayerdError(thrown);
  }
}

class Intake implements TarHandler {
  private readonly sink: LayerSink;
  private readonly hooks: IngestHooks;
  private readonly blobDigester = newDigester();
  private readonly tarDigester = newDigester();
  private readonly scanner = new TarScanner(this);
  private readonly tree: LayerTree;
  private readonly catalog = new CatalogBuilder();
  private bytesIn = 0;
  private bytesOut = 0;
  private hasPayload = false;

  constructor(sink: LayerSink, hooks: IngestHooks, maxEntries: number | undefined) {
    this.sink = sink;
    this.hooks = hooks;
    this.tree = new LayerTree(maxEntries === undefined ? undefined : { maxEntries });
  }

  /** The bytes as they come. Of a plain tar one digest serves both. */
  tap(chunk: Buffer, compression: Compression): Promise<void> | undefined {
    this.bytesIn += chunk.length;
    return compression === 'none' ? undefined : this.blobDigester.update(chunk, true);
  }

  /** The bytes of the tar. */
  async take(chunk: Buffer): Promise<void> {
    // The chunk is theirs, on other threads, until both are done: also if the scanner refuses it meanwhile.
    const elsewhere = [this.sink.bytes(chunk), this.tarDigester.update(chunk, true)];
    let outcomes: PromiseSettledResult<unknown>[] = [];
    try {
      this.scanner.write(chunk);
    } finally {
      outcomes = await Promise.allSettled(elsewhere.filter((work) => work !== undefined));
    }
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    const pressure = this.catalog.pressure();
    if (pressure !== undefined) await pressure;
    this.bytesOut += chunk.length;
    this.hooks.progress?.(this.bytesIn, this.bytesOut);
  }

  raw(chunk: Buffer): void {
    this.catalog.raw(chunk);
  }

  entry(entry: TarEntry): void {
    this.hasPayload = entry.type === 'file';
    if (entry.storedSize > 0) this.catalog.payload(entry.storedSize);
    this.sink.step(this.tree.apply(entry), entry);
  }

  data(chunk: Buffer): void {
    this.sink.payload(chunk);
  }

  entryEnd(): void {
    if (this.hasPayload) this.sink.payloadEnd();
  }

  /** The source is at its end: is it what was expected? Then it is committed. */
  async finish(compression: Compression, expect: Expectation): Promise<Omit<Ingested, 'facts'>> {
    const { entries, bytes: size } = this.scanner.finish();
    const diffId = this.tarDigester.digest();
    const blobDigest = compression === 'none' ? diffId : this.blobDigester.digest();
    compare('BLOB_DIGEST_MISMATCH', 'the blob of the layer', expect.blobDigest, blobDigest);
    compare('DIFF_ID_MISMATCH', 'the uncompressed tar of the layer', expect.diffId, diffId);
    const { opaqueRoot } = this.tree;
    const implied = this.tree.implied().length;
    const catalog = await this.catalog.finish({
      diffId,
      size,
      entries,
      driver: this.sink.driver,
      opaqueRoot,
      implied,
      created: Date.now(),
    });
    await this.sink.commit(this.tree, catalog);
    return {
      diffId,
      blobDigest,
      blobSize: this.bytesIn,
      compression,
      size,
      entries,
      opaqueRoot,
      implied: implied > 0,
      root: rootOf(this.tree.root),
    };
  }
}

/** The attributes of a root that its tar lists. */
export function rootOf({ implied, mode, uid, gid, mtime, xattrs }: LayerTree['root']): RootAttributes | null {
  if (implied) return null;
  if (xattrs === null) return { mode, uid, gid, mtime };
  return { mode, uid, gid, mtime, xattrs: [...xattrs].map(([name, value]) => [name, fromBuffer(value)] as const) };
}

function compare(code: ErrorCode, what: string, expected: Digest | undefined, found: Digest): void {
  if (expected === undefined || expected === found) return;
  throw new LayerdError(code, `${what} is ${found}, expected ${expected}`, {
    details: { expected, found },
    hint: 'The bytes are not those that the image names: they were damaged on the way, or the image is wrong. Fetch it again.',
  });
}
