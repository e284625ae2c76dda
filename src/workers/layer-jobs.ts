import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import type { Drivers } from '../../drivers/index.js';
import type { LayerFault, StoredLayer } from '../../drivers/driver.js';
import { toBuffer } from '../core/bytes.js';
import type { Digest } from '../core/digest.js';
import { LayerdError, toLayerdError, type ErrorBody } from '../core/errors.js';
import type { EngineConfig } from '../core/engine-config.js';
import type { Places } from '../core/places.js';
import type { DriverName } from '../core/words.js';
import { KeptBlob } from '../content/kept-blob.js';
import { catalogFile, catalogTree, readCatalogFacts } from '../content/catalog-file.js';
import { deflate, type DeflateCompression } from '../content/deflate.js';
import { newDigester } from '../content/digesting.js';
import { fileSource } from '../content/file-source.js';
import { NOT_SYNCED, rootOf, takeIn, type Expectation, type Ingested, type Unsettled } from '../content/ingest.js';
import { inheritedFile, readInherited } from '../content/inherited.js';
import { inheritedDirectories } from '../content/merge.js';
import type { InheritedDirectory, StoredFacts } from '../content/sink.js';
import type { ByteSource } from '../content/source.js';
import { WholeSync } from '../disk/sync.js';
import { measureTree } from '../disk/usage.js';
import { pumpBytes, readBytes } from './byte-channel.js';
import { portOf, type JobContext } from './job.js';

/** A region of a file. */
export interface FileRegion {
  path: string;
  offset: number;
  length: number;
}

/** Where the bytes of a layer come from: a file, or the job's port. */
export type BlobOrigin = FileRegion | 'port';

export interface IngestArgs {
  driver: DriverName;
  dir: string;
  origin: BlobOrigin;
  expect: Expectation;
  /** Keep the blob as it came below b/, too. */
  keepBlob: boolean;
  /** The blob's beginning below b/ that is there already, and is to stay if the rest does not come; null: no such. */
  part: { name: string; have: number } | null;
}

export type IngestResult = Ingested & { keptBytes: number | null };

/** One of several small layers that are taken in together. */
export type SmallLayer = Pick<IngestArgs, 'driver' | 'dir' | 'expect'> & { origin: FileRegion };

/** What became of one of them. */
export type SmallOutcome = Ingested | ErrorBody;

export interface CompressArgs {
  layer: StoredLayer;
  compression: DeflateCompression;
  /** The name of the file below b/. */
  file: string;
}

export interface CompressedBlob {
  digest: Digest;
  size: number;
}

/** A stored layer as its own files tell it. */
export interface DescribedLayer {
  layer: StoredLayer;
  entries: number;
  implied: boolean;
  /** JSON of the root's attributes where the tar lists its root. */
  root: string | null;
  /** The digest of what its implied directories inherited; null where that is not decided. */
  inherited: string | null;
  facts: StoredFacts;
}

export interface ByteProgress {
  bytesIn: number;
  bytesOut: number;
  /** The bytes that have come in were here since an earlier try. */
  resumed?: boolean;
}

/** Progress is told at most so often. */
const PROGRESS_MS = 100;

/** Calls on stored layers. */
export function layerJobs(drivers: Drivers, places: Places, limits: EngineConfig['limits']) {
  const keeper = (layer: StoredLayer) => drivers(layer.driver).layers;

  const begin = async (
    source: ByteSource,
    args: Pick<IngestArgs, 'driver' | 'dir' | 'expect'>,
    context: JobContext,
  ): Promise<Unsettled> => {
    let told = 0;
    const expect = { ...args.expect, maxSize: limits.layerBytes, maxEntries: limits.layerEntries };
    return takeIn(source, drivers(args.driver).layers.begin(args.dir), expect, {
      signal: context.signal,
      progress: (bytesIn, bytesOut) => {
        const now = performance.now();
        if (now - told < PROGRESS_MS) return;
        told = now;
        context.progress({ bytesIn, bytesOut } satisfies ByteProgress);
      },
    });
  };

  const runIngest = async (...of: Parameters<typeof begin>): Promise<Ingested> =>
    (await begin(...of)).settle(NOT_SYNCED);

  return {
    'layer.ingest': async (args: IngestArgs, context: JobContext): Promise<IngestResult> => {
      const { origin } = args;
      const source =
        origin === 'port' ? readBytes(portOf(context)) : fileSource(origin.path, origin.offset, origin.length);
      const { part, keepBlob } = args;
      if (!keepBlob && part === null) return { ...(await runIngest(source, args, context)), keptBytes: null };
      const kept = new KeptBlob(places.blob(part?.name ?? args.dir), part?.have);
      try {
        const ingested = await runIngest(kept.tee(source), args, context);
        if (!keepBlob || ingested.compression === 'none') {
          await kept.discard();
          return { ...ingested, keptBytes: null };
        }
        return { ...ingested, keptBytes: await kept.keep(places.blob(args.dir)) };
      } catch (thrown) {
        if (part !== null && isInterruption(thrown)) await kept.leave();
        else await kept.discard();
        throw thrown;
      }
    },

    /** Small layers, one after the other, that one sync of everything makes durable where that is cheap. */
    'layers.ingest': async (args: { layers: SmallLayer[] }, context: JobContext): Promise<SmallOutcome[]> => {
      const sync = new WholeSync(places.layers);
      try {
        const taken: (Unsettled | ErrorBody)[] = [];
        for (const { origin, ...layer } of args.layers) {
          const source = fileSource(origin.path, origin.offset, origin.length);
          taken.push(await orError(begin(source, layer, context)));
        }
        const synced = sync.run();
        synced.catch(() => undefined); // each of them tells it
        return await Promise.all(
          taken.map(async (layer) => ('settle' in layer ? orError(layer.settle(synced)) : layer)),
        );
      } finally {
        sync.close();
      }
    },

    /** The same layer once more: by another driver, or with other inherited attributes. */
    'layer.copy': (
      args: { from: StoredLayer; driver: DriverName; dir: string },
      context: JobContext,
    ): Promise<Ingested> =>
      runIngest(
        keeper(args.from).tar(args.from),
        { driver: args.driver, dir: args.dir, expect: { diffId: args.from.diffId } },
        context,
      ),

    /**
     * What the layer's implied directories take from the layers below, and a digest of it to tell copies apart. Of a
     * copy that is made again, what the copy `before` wrote down is taken first, if it proves to be that: the layers
     * below may be as damaged as it is.
     */
    'layer.inheritance': async (args: {
      layer: StoredLayer;
      below: StoredLayer[];
      before?: { dir: string; digest: string };
    }): Promise<{ directories: InheritedDirectory[]; digest: string }> => {
      const { before } = args;
      const noted = before === undefined ? null : notedInheritance(places.layer(before.dir));
      if (before !== undefined && noted !== null && inheritanceDigest(noted) === before.digest) {
        return { directories: noted, digest: before.digest };
      }
      const trees = [];
      for (const layer of args.below) {
        trees.push(await catalogTree(catalogFile(places.layer(layer.dir))));
        if (layer.opaqueRoot) break;
      }
      const directories = inheritedDirectories(await catalogTree(catalogFile(places.layer(args.layer.dir))), trees);
      return { directories, digest: inheritanceDigest(directories) };
    },

    /** What the copy occupies afterwards: what it inherits is written down beside it. */
    'layer.inherit': async (args: { layer: StoredLayer; directories: InheritedDirectory[] }): Promise<StoredFacts> => {
      await keeper(args.layer).inherit(args.layer, args.directories);
      return measureTree(places.layer(args.layer.dir));
    },

    /** Memory that layers in use hold twice. */
    'layers.settle': ({ layers }: { layers: readonly StoredLayer[] }): Promise<void> => {
      for (const layer of layers) keeper(layer).settle?.(layer);
      return Promise.resolve();
    },

    /** What a stored layer says of itself: for a database that is made anew. Throws LAYER_DAMAGED. */
    'layer.describe': async ({ dir }: { dir: string }): Promise<DescribedLayer> => {
      const directory = places.layer(dir);
      const { driver, diffId, size, opaqueRoot, entries, implied } = await readCatalogFacts(catalogFile(directory));
      const root = rootOf((await catalogTree(catalogFile(directory))).root);
      const inherited = readInherited(inheritedFile(directory));
      return {
        layer: { driver, dir, diffId, size, opaqueRoot },
        entries,
        implied: implied > 0,
        root: root === null ? null : JSON.stringify(root),
        inherited: inherited === null ? null : inheritanceDigest(inherited.directories),
        facts: measureTree(directory),
      };
    },

    /** Streams the tar to the port. */
    'layer.tar': async (args: { layer: StoredLayer }, context: JobContext): Promise<void> =>
      pumpBytes(keeper(args.layer).tar(args.layer), portOf(context)),

    /** Writes the layer compressed into a new file below b/; the tar is verified on its way. */
    'layer.compress': async (args: CompressArgs, context: JobContext): Promise<CompressedBlob> => {
      const handle = await open(places.blob(args.file), 'wx', 0o600);
      try {
        const tar = checkedTar(keeper(args.layer).tar(args.layer), args.layer.diffId, context);
        const hash = newDigester();
        let size = 0;
        for await (const chunk of deflate(tar, args.compression)) {
          void hash.update(chunk, false);
          await handle.writeFile(chunk);
          size += chunk.length;
        }
        return { digest: hash.digest(), size };
      } finally {
        await handle.close();
      }
    },

    'layer.release': async (args: { layers: StoredLayer[] }): Promise<void> => {
      for (const layer of args.layers) keeper(layer).release(layer);
    },

    'layer.verify': async (args: { layer: StoredLayer; quick: boolean }): Promise<LayerFault[]> =>
      keeper(args.layer).verify(args.layer, { quick: args.quick }),

    /** For each layer, whether a look at its files finds them whole. */
    'layers.look': async (args: { layers: StoredLayer[] }): Promise<boolean[]> =>
      args.layers.map((layer) => keeper(layer).looksWhole(layer)),

    'layer.repair': async (args: { layer: StoredLayer }): Promise<LayerFault[]> =>
      keeper(args.layer).repair(args.layer),
  };
}

async function orError<T>(work: Promise<T>): Promise<T | ErrorBody> {
  try {
    return await work;
  } catch (thrown) {
    return toLayerdError(thrown).toBody();
  }
}

/** The bytes stopped coming; those that came may be right. */
function isInterruption(thrown: unknown): boolean {
  if (!(thrown instanceof LayerdError)) return false;
  return thrown.kind === 'cancelled' || thrown.code.startsWith('REGISTRY_');
}

/** The bytes of a tar, once more held against its diff ID: what goes out under a name must be that. */
async function* checkedTar(tar: ByteSource, diffId: Digest, context: JobContext): AsyncGenerator<Buffer> {
  const hash = newDigester();
  let bytesOut = 0;
  let told = 0;
  for await (const chunk of tar) {
    if (context.signal.aborted) throw new LayerdError('CANCELLED', 'the compressing was given up');
    void hash.update(chunk, false);
    yield chunk;
    bytesOut += chunk.length;
    const now = performance.now();
    if (now - told < PROGRESS_MS) continue;
    told = now;
    context.progress({ bytesIn: 0, bytesOut } satisfies ByteProgress);
  }
  const found = hash.digest();
  if (found === diffId) return;
  throw new LayerdError('LAYER_DAMAGED', `layer ${diffId} is damaged on disk: its tar is ${found}`, {
    details: { diffId, found },
    hint: 'Load the image again: what is damaged is replaced in place.',
  });
}

/** What a copy wrote down of what it inherited; null where that is lost. */
function notedInheritance(directory: string): InheritedDirectory[] | null {
  try {
    return readInherited(inheritedFile(directory))?.directories ?? [];
  } catch (thrown) {
    if (thrown instanceof LayerdError && thrown.code === 'LAYER_DAMAGED') return null;
    throw thrown;
  }
}

/** Tells copies of a layer apart whose implied directories have other attributes. */
function inheritanceDigest(directories: readonly InheritedDirectory[]): Digest {
  const hash = createHash('sha256');
  for (const directory of directories) {
    const xattrs = [...(directory.xattrs ?? [])].sort(([a], [b]) => (a < b ? -1 : 1));
    hash.update(toBuffer(directory.path));
    hash.update(
      JSON.stringify([
        directory.mode,
        directory.uid,
        directory.gid,
        directory.mtime,
        xattrs.map(([name, value]) => [name, value.toString('base64')]),
      ]),
    );
  }
  return `sha256:${hash.digest('hex')}`;
}
