/** Layers coming in and going out. */
import { once } from 'node:events';
import type { MessagePort } from 'node:worker_threads';
import type { StoredLayer } from '../../drivers/driver.js';
import type { Digest } from '../core/digest.js';
import { KeyedLock } from '../core/keyed-lock.js';
import { LayerdError, toLayerdError } from '../core/errors.js';
import { Gathered } from '../core/gathered.js';
import type { DriverName } from '../core/words.js';
import type { StoredFacts } from '../content/sink.js';
import type { LayerRow, StackedRow } from '../metadata/rows.js';
import type { NewStoredLayer } from '../metadata/operations/layers.js';
import { byteChannel, pumpBytes, readBytes } from '../workers/byte-channel.js';
import { EMPTY_LAYER_SIZE } from '../content/empty-layer.js';
import type { Expectation, Ingested } from '../content/ingest.js';
import type { DeflateCompression } from '../content/deflate.js';
import type { BlobOrigin, ByteProgress, CompressedBlob, IngestResult } from '../workers/layer-jobs.js';
import type { Lane } from '../workers/pool.js';
import { newDir, storedLayer, type StoreContext } from './context.js';
import { moveToTrash } from './leftovers.js';
import { FileLayers } from './file-layers.js';
import { Partials, type PartialBlob } from './partials.js';

/**
 * Bytes of a layer: a region of a file that a worker opens; a stream that ends on the main thread; or bytes that are
 * fetched from some place on if nobody else brings the layer, of which a part may be here since an earlier try.
 */
export type LayerSource =
  | { path: string; offset: number; length: number }
  | { stream: AsyncIterable<Buffer> }
  | { fetch: (offset: number) => AsyncIterable<Buffer>; length: number };

export interface LayerRequest {
  source: LayerSource;
  expect: Expectation;
  leaseId: string;
  signal: AbortSignal;
  progress: (progress: ByteProgress) => void;
  /** Whether the compressed blob is kept; as configured where it is left out. */
  keepBlob?: boolean;
}

/** How the copying of a layer is watched. */
export interface CopyOptions {
  signal?: AbortSignal;
  progress?: (progress: ByteProgress) => void;
}

export interface LayerArrival {
  layer: LayerRow;
  blobDigest: Digest;
  /** True where nothing was stored: it was here, or another load brought it meanwhile. */
  present: boolean;
}

/** Layers of one size that are looked at: small ones often have the same. */
const RESEMBLING = 4;

export class Layers {
  private readonly context: StoreContext;
  /** What is on its way in, by diff ID and by blob digest: two loads of one layer do the work once. */
  private readonly arriving = new Map<Digest, Promise<void>>();
  private readonly partials: Partials;
  private readonly files: FileLayers;
  /** What is damaged is replaced by one at a time. */
  private readonly mending = new KeyedLock();
  /** Looks at the files of layers, each at the copies of one. */
  private readonly looks: Gathered<readonly StoredLayer[], boolean[]>;

  constructor(context: StoreContext) {
    this.context = context;
    this.partials = new Partials(context);
    this.files = new FileLayers(context);
    this.looks = new Gathered((layers) => this.look(layers));
  }

  /**
   * Finds a layer that is here whole, and puts it under the lease. A copy that a look at its files shows to be
   * damaged does not count: it is marked, and loading the layer heals it; where another copy is whole, from that one.
   * Nor does one whose compressed blob should be kept and is not.
   */
  async present(
    candidate: { diffId?: Digest | undefined; blobDigest?: Digest | undefined },
    leaseId: string,
    keepBlob = this.context.keepBlobs,
  ): Promise<LayerRow | null> {
    const { reader, writer } = this.context;
    const { diffId, blobDigest } = candidate;
    const known = diffId ?? (blobDigest && (reader.blob(blobDigest)?.diff_id ?? blobDigest));
    const layer = known === undefined ? undefined : reader.layer(known);
    if (layer === undefined) return null;
    // A blob that was never seen compressed, but has the digest of a layer's tar, is that tar.
    const copies = reader.storedLayers(layer.id).filter((row) => row.damaged === 0);
    const whole = await this.looks.run(copies.map(storedLayer));
    for (const { dir } of copies.filter((_row, index) => whole[index] === false)) {
      await writer.run('markDamaged', { dir, damaged: true });
    }
    const keptBlob = keepBlob && blobDigest !== layer.diff_id ? (blobDigest ?? null) : null;
    const held = await writer.run('holdPresentLayer', { leaseId, diffId: layer.diff_id, keptBlob });
    return held && (await this.mend(layer)) ? layer : null;
  }

  /**
   * Damaged copies are made anew, in place, from one that is whole. The layer is held by a lease. False where none turns
   * out to be whole.
   */
  private mend(layer: LayerRow): Promise<boolean> {
    const { reader, log } = this.context;
    const copies = (damaged: 0 | 1): StackedRow[] =>
      reader.storedLayers(layer.id).filter((row) => row.damaged === damaged);
    if (copies(1).length === 0) return Promise.resolve(true);
    return this.mending.run(layer.diff_id, async () => {
      for (const damaged of copies(1)) {
        const [whole] = copies(0);
        if (whole === undefined) return false;
        try {
          await this.replaceByCopy(damaged, whole);
        } catch (thrown) {
          // the whole copy serves the layer all the same
          const error = toLayerdError(thrown).toBody();
          log.warn({ layer: layer.diff_id, dir: damaged.dir, error }, 'a damaged copy of a layer stays as it is');
        }
      }
      return copies(0).length > 0;
    });
  }

  /** One hop for all that are asked for at a time. */
  private look(layers: readonly (readonly StoredLayer[])[]): Promise<boolean[]>[] {
    const looked = this.context.pool.run('short', 'layers.look', { layers: layers.flat() });
    let end = 0;
    return layers.map(async ({ length }) => {
      const from = end;
      end += length;
      return (await looked).slice(from, from + length);
    });
  }

  /** A whole layer, put under the lease, whose tar has this size and begins so. */
  async resembling(
    size: number,
    head: Buffer,
    { leaseId, signal }: Pick<LayerRequest, 'leaseId' | 'signal'>,
  ): Promise<LayerRow | null> {
    for (const { diff_id: diffId } of this.context.reader.layersOfSize(size, RESEMBLING)) {
      const layer = await this.present({ diffId }, leaseId);
      if (layer !== null && (await beginsWith(this.tar(layer, signal), head))) return layer;
    }
    return null;
  }

  /** Stores one layer, verified against what is expected of it, durable and known under the lease when this returns. */
  async ingest(request: LayerRequest): Promise<LayerArrival> {
    const { diffId, blobDigest } = request.expect;
    const keys = [diffId, blobDigest].filter((key) => key !== undefined);
    const stored = await this.awaitOthers(keys, request);
    if (stored !== null) {
      await drain(request.source);
      return { layer: stored, blobDigest: blobDigest ?? stored.diff_id, present: true };
    }
    const { promise: arrival, settle: arrived } = settleable();
    for (const key of keys) this.arriving.set(key, arrival);
    try {
      return await this.store(request);
    } finally {
      for (const key of keys) if (this.arriving.get(key) === arrival) this.arriving.delete(key);
      arrived();
    }
  }

  /**
   * Waits for other loads of the same layer, and returns what they brought. Where they fail, one of those who waited
   * takes over: when null is returned, nobody else is at it, and nobody has been since the caller last looked.
   */
  private async awaitOthers(
    keys: readonly Digest[],
    { expect, leaseId, signal, keepBlob }: LayerRequest,
  ): Promise<LayerRow | null> {
    let looked = false;
    for (;;) {
      const arriving = keys.map((key) => this.arriving.get(key)).find((arrival) => arrival !== undefined);
      if (arriving !== undefined) await unlessAborted(arriving, signal);
      else if (looked || !this.isKnown(expect)) return null;
      const layer = await this.present(expect, leaseId, keepBlob);
      if (layer !== null) return layer;
      looked = arriving === undefined;
    }
  }

  private isKnown({ diffId, blobDigest }: Expectation): boolean {
    const { reader } = this.context;
    if (diffId !== undefined && reader.layer(diffId) !== undefined) return true;
    return blobDigest !== undefined && reader.blob(blobDigest) !== undefined;
  }

  /** The uncompressed tar, bit for bit, from the best copy. */
  tar(layer: LayerRow, signal: AbortSignal): AsyncIterable<Buffer> {
    const copy = this.wholeCopy(layer);
    const { writer: port, reader } = byteChannel();
    const job = this.context.pool.run('stream', 'layer.tar', { layer: storedLayer(copy) }, { ports: [port], signal });
    return streamOf(job, readBytes(reader));
  }

  /** Compresses a layer into a file, which is gone when `use` is done with it. */
  async compressed<T>(
    layer: LayerRow,
    compression: DeflateCompression,
    options: CopyOptions,
    use: (blob: CompressedBlob & { path: string }) => Promise<T>,
  ): Promise<T> {
    const { pool, places } = this.context;
    const copy = this.wholeCopy(layer);
    return this.inStaging(async (file) => {
      try {
        const made = await pool.run('bulk', 'layer.compress', { layer: storedLayer(copy), compression, file }, options);
        return await use({ ...made, path: places.blob(file) });
      } finally {
        await pool.run('short', 'trash.move', { layers: [], snapshots: [], trees: [], blobs: [file] });
      }
    });
  }

  /** A copy that is not known to be damaged. */
  wholeCopy(layer: LayerRow): StackedRow {
    const copy = this.context.reader.storedLayers(layer.id).find((row) => row.damaged === 0);
    if (copy !== undefined) return copy;
    throw new LayerdError('LAYER_DAMAGED', `layer ${layer.diff_id} is damaged on disk`, {
      details: { diffId: layer.diff_id },
      hint: 'Load the image again: what is damaged is replaced in place.',
    });
  }

  /** Adopts what `produce` makes of a snapshot in a fresh directory; null where that is an empty layer: none is made. */
  async adoptChanges(
    leaseId: string,
    driver: DriverName,
    produce: (dir: string) => Promise<Ingested>,
  ): Promise<LayerArrival | null> {
    return this.inStaging(async (dir) => {
      const ingested = await produce(dir);
      if (ingested.size > EMPTY_LAYER_SIZE) return this.adopt(leaseId, driver, dir, ingested);
      await this.discard(dir);
      return null;
    });
  }

  /** Runs `work` with a new name below l/: what it makes there is not garbage before it has a row. */
  async inStaging<T>(work: (dir: string) => Promise<T>): Promise<T> {
    const dir = newDir();
    this.context.staging.add(dir);
    try {
      return await work(dir);
    } catch (thrown) {
      this.context.leftovers.add(dir);
      throw thrown;
    } finally {
      this.context.staging.delete(dir);
    }
  }

  private async adopt(
    leaseId: string,
    driver: DriverName,
    dir: string,
    ingested: Ingested & { keptBytes?: number | null },
  ): Promise<LayerArrival> {
    const { writer, reader } = this.context;
    const { outcome, blobSpare } = await writer.run('addStoredLayer', rowOf(leaseId, driver, dir, ingested));
    const layer = reader.layer(ingested.diffId);
    if (layer === undefined) throw new LayerdError('INTERNAL', `layer ${ingested.diffId} vanished under its lease`);
    if (outcome === 'heals') await this.mending.run(layer.diff_id, () => this.heal(layer, driver, dir, ingested.facts));
    if (outcome !== 'added' || blobSpare) {
      const [layers, blobs] = [outcome === 'added' ? [] : [dir], blobSpare ? [dir] : []];
      await moveToTrash(this.context, { layers, snapshots: [], trees: [], blobs });
    }
    return { layer, blobDigest: ingested.blobDigest, present: outcome === 'present' };
  }

  private async store(request: LayerRequest): Promise<LayerArrival> {
    const { source, expect, leaseId } = request;
    const part = 'fetch' in source ? await this.partials.claim(expect.blobDigest, source.length, leaseId) : null;
    try {
      return await this.storeOnce(request, part);
    } catch (thrown) {
      // what an earlier try left may be what is wrong: it is gone now, and all of it is fetched again, once
      if (part === null || part.have === 0 || !isWrongContent(thrown)) throw thrown;
      return this.storeOnce(request, { ...part, have: 0 });
    }
  }

  private storeOnce(request: LayerRequest, part: PartialBlob | null): Promise<LayerArrival> {
    const { driver } = this.context;
    return this.inStaging(async (dir) =>
      this.adopt(request.leaseId, driver, dir, await this.take(request, driver, dir, part)),
    );
  }

  private take(
    { source, expect, ...request }: LayerRequest,
    driver: DriverName,
    dir: string,
    part: PartialBlob | null,
  ): Promise<IngestResult> {
    const { pool } = this.context;
    const keepBlob = request.keepBlob ?? this.context.keepBlobs;
    const run = (lane: Lane, origin: BlobOrigin, ports: MessagePort[] = []): Promise<IngestResult> =>
      pool.run(
        lane,
        'layer.ingest',
        { driver, dir, origin, expect, keepBlob, part },
        { ports, signal: request.signal, progress: request.progress },
      );
    if ('path' in source) {
      return this.files.ingest({ args: { driver, dir, origin: source, expect, keepBlob, part }, ...request });
    }
    const { writer: ours, reader: theirs } = byteChannel();
    if ('stream' in source) return withPump(run('bulk', 'port', [theirs]), pumpBytes(source.stream, ours));
    if (part !== null && part.have > 0) request.progress({ bytesIn: part.have, bytesOut: 0, resumed: true });
    return withPump(run('fetch', 'port', [theirs]), pumpBytes(source.fetch(part?.have ?? 0), ours));
  }

  /**
   * A fresh whole copy lies in `dir` while the driver's copies are damaged: it takes the place of the first of them, by
   * exchanging the two directories, so that every stack and recipe that names it is whole again; the others are made
   * anew from that one.
   */
  private async heal(layer: LayerRow, driver: DriverName, dir: string, facts: StoredFacts): Promise<void> {
    const { reader } = this.context;
    const [first, ...others] = reader
      .storedLayers(layer.id)
      .filter((row) => row.driver === driver && row.damaged === 1);
    if (first === undefined) return;
    await this.replace(first, dir, facts);
    for (const other of others) await this.replaceByCopy(other, first);
  }

  private async replaceByCopy(damaged: StackedRow, whole: StackedRow): Promise<void> {
    await this.inStaging(async (dir) => {
      const { facts } = await this.copy(storedLayer(whole), damaged.driver, dir);
      await this.replace(damaged, dir, facts);
      await this.discard(dir);
    });
  }

  /** Puts the whole bytes of `dir` in the place of a damaged copy; `dir` then holds the damaged ones. */
  private async replace(damaged: StackedRow, dir: string, facts: StoredFacts): Promise<void> {
    const { pool, writer, overlays } = this.context;
    const fresh = { ...storedLayer(damaged), dir };
    // Trees of whole chains settle there what is inherited: the layers below need not be whole for one of theirs.
    const inherits = overlays.has(damaged.driver) && damaged.inherited !== '' && damaged.inherited !== 'open';
    const { disk, inodes } = inherits ? await this.inheritAsBefore(damaged, fresh) : facts;
    await pool.run('short', 'layer.exchange', { fresh, damaged: storedLayer(damaged) });
    await writer.run('healStoredLayer', { dir: damaged.dir, disk, inodes });
  }

  private async inheritAsBefore(damaged: StackedRow, fresh: StoredLayer): Promise<StoredFacts> {
    const { reader, pool } = this.context;
    const below = reader.stackBelow(damaged.id).map(storedLayer).toReversed();
    const before = { dir: damaged.dir, digest: damaged.inherited };
    const { directories } = await pool.run('bulk', 'layer.inheritance', { layer: fresh, below, before });
    return pool.run('bulk', 'layer.inherit', { layer: fresh, directories });
  }

  /** A whole copy of the layer by this driver; made from another where there is none. */
  async copyBy(driver: DriverName, layer: LayerRow, leaseId: string, options: CopyOptions): Promise<StackedRow> {
    const { reader } = this.context;
    const find = (): StackedRow | undefined =>
      reader.storedLayers(layer.id).find((row) => row.damaged === 0 && row.driver === driver);
    const there = find();
    if (there !== undefined) return there;
    const from = storedLayer(this.wholeCopy(layer));
    await this.inStaging(async (dir) => this.adopt(leaseId, driver, dir, await this.copy(from, driver, dir, options)));
    const made = find();
    if (made === undefined) throw new LayerdError('INTERNAL', `layer ${layer.diff_id} was copied and is not there`);
    return made;
  }

  /** The same layer once more, in a fresh directory. A copy that turns out to be another layer is marked as damaged. */
  async copy(from: StoredLayer, driver: DriverName, dir: string, options: CopyOptions = {}): Promise<Ingested> {
    const { pool, writer } = this.context;
    try {
      return await pool.run('bulk', 'layer.copy', { from, driver, dir }, options);
    } catch (thrown) {
      const error = toLayerdError(thrown);
      if (error.code !== 'DIFF_ID_MISMATCH' && error.code !== 'LAYER_DAMAGED') throw thrown;
      await writer.run('markDamaged', { dir: from.dir, damaged: true });
      throw new LayerdError('LAYER_DAMAGED', `layer ${from.diffId} is damaged on disk: ${error.message}`, {
        details: { diffId: from.diffId },
        hint: 'Load the image again: what is damaged is replaced in place.',
        cause: error,
      });
    }
  }

  private async discard(dir: string): Promise<void> {
    await moveToTrash(this.context, { layers: [dir], snapshots: [], trees: [], blobs: [] });
  }
}

function rowOf(
  leaseId: string,
  driver: DriverName,
  dir: string,
  ingested: Ingested & { keptBytes?: number | null },
): NewStoredLayer {
  const kept = ingested.keptBytes ?? null;
  const blob =
    ingested.compression === 'none'
      ? null
      : {
          digest: ingested.blobDigest,
          size: ingested.blobSize,
          compression: ingested.compression,
          file: kept === null ? null : dir,
          disk: kept ?? 0,
        };
  const { diffId, size, entries, opaqueRoot, implied, facts } = ingested;
  const root = ingested.root === null ? null : JSON.stringify(ingested.root);
  return { leaseId, driver, dir, diffId, size, entries, opaqueRoot, implied, root, ...facts, blob };
}

/** The bytes are not those of the layer; fetching the same again would not help, unless they came from elsewhere. */
function isWrongContent(thrown: unknown): boolean {
  return thrown instanceof LayerdError && /^(?:BLOB_DIGEST|DIFF_ID|COMPRESSION|TAR|LAYER_LIMIT)/.test(thrown.code);
}

/** Waits for both sides of a stream; the side that failed first tells why. */
async function withPump<T>(job: Promise<T>, pump: Promise<void>): Promise<T> {
  const [done, sent] = await Promise.allSettled([job, pump]);
  // The job's error is the cause unless it only saw the stream break.
  if (done.status === 'rejected') {
    const streamBroke =
      sent.status === 'rejected' && done.reason instanceof LayerdError && done.reason.code === 'CANCELLED';
    throw streamBroke ? sent.reason : done.reason;
  }
  return done.value;
}

async function beginsWith(tar: AsyncIterable<Buffer>, head: Buffer): Promise<boolean> {
  let at = 0;
  for await (const chunk of tar) {
    const length = Math.min(chunk.length, head.length - at);
    if (chunk.compare(head, at, at + length, 0, length) !== 0) return false;
    at += length;
    if (at === head.length) return true;
  }
  return at === head.length;
}

/** The chunks of a job's stream; throws what the job throws. */
export async function* streamOf(job: Promise<void>, chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const outcome = job.then(
    () => null,
    (error: unknown) => error as Error,
  );
  try {
    yield* chunks;
  } catch (thrown) {
    // The stream broke because the job failed: what the job says is the reason.
    throw (await outcome) ?? thrown;
  }
  const error = await outcome;
  if (error !== null) throw error;
}

/** A promise, and the function that fulfils it. */
function settleable(): { promise: Promise<void>; settle: () => void } {
  let settle = nothing;
  const promise = new Promise<void>((resolve) => (settle = resolve));
  return { promise, settle };
}

function nothing(): void {
  // Replaced before it is called: a promise's executor runs at once.
}

/** Waits for `promise`, or throws when the signal comes first. */
async function unlessAborted(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  const ended = new AbortController();
  const aborted = once(signal, 'abort', { signal: ended.signal }).catch(() => undefined);
  signal.throwIfAborted();
  await Promise.race([promise, aborted]);
  ended.abort();
  signal.throwIfAborted();
}

async function drain(source: LayerSource): Promise<void> {
  if (!('stream' in source)) return;
  for await (const chunk of source.stream) void chunk;
}
