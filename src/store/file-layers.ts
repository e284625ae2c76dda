/**
 * Layers that lie in files, on their way to workers. Of those that are asked for in one turn the largest goes first, since
 * the last to end is what a load waits for; small ones go many to a call, which makes them durable together. Where a worker
 * only directs others (inflating, hashing, writing), one takes several layers at a time: its code is loaded and optimised once.
 */
import { Gathered } from '../core/gathered.js';
import { LayerdError } from '../core/errors.js';
import type {
  ByteProgress,
  FileRegion,
  IngestArgs,
  IngestResult,
  SmallLayer,
  SmallOutcome,
} from '../workers/layer-jobs.js';
import type { StoreContext } from './context.js';

/** One layer that is to come in. */
export interface FileLayer {
  args: IngestArgs & { origin: FileRegion };
  signal: AbortSignal;
  progress: (progress: ByteProgress) => void;
}

/** A layer of at most so many bytes, as it comes, is small. */
const SMALL_BYTES = 256 * 1024;
/** Small layers in one call, at most: a crash, or a row that waits, concerns all of them. */
const TOGETHER = 64;

export class FileLayers {
  private readonly context: StoreContext;
  private readonly asked = new Gathered<FileLayer, IngestResult>((layers) => this.take(layers));

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** Has a worker take the layer in; what it says. */
  ingest(layer: FileLayer): Promise<IngestResult> {
    return this.asked.run(layer);
  }

  private take(layers: readonly FileLayer[]): Promise<IngestResult>[] {
    const { pool, keepingTars } = this.context;
    const results = new Map<FileLayer, Promise<IngestResult>>();
    for (const layer of layers.filter((each) => !isSmall(each)).sort((a, b) => lengthOf(b) - lengthOf(a))) {
      const { args, signal, progress } = layer;
      const shares = keepingTars.has(args.driver);
      results.set(layer, pool.run('bulk', 'layer.ingest', args, { signal, progress, shares }));
    }
    for (const [signal, small] of bySignal(layers.filter(isSmall))) {
      const share = Math.min(TOGETHER, Math.ceil(small.length / pool.threads('bulk')));
      for (let at = 0; at < small.length; at += share) {
        const group = small.slice(at, at + share);
        const outcomes = pool.run('bulk', 'layers.ingest', { layers: group.map(smallLayer) }, { signal });
        for (const [index, layer] of group.entries()) results.set(layer, outcomeOf(outcomes, index));
      }
    }
    return layers.map((layer) => results.get(layer) ?? Promise.reject(new Error('a layer was left out')));
  }
}

function lengthOf({ args }: FileLayer): number {
  return args.origin.length;
}

/** Kept blobs, and beginnings of them, are files of their own. */
function isSmall(layer: FileLayer): boolean {
  return lengthOf(layer) <= SMALL_BYTES && !layer.args.keepBlob && layer.args.part === null;
}

function smallLayer({ args: { driver, dir, expect, origin } }: FileLayer): SmallLayer {
  return { driver, dir, expect, origin };
}

/** Those that end together: of one load. */
function bySignal(layers: readonly FileLayer[]): Map<AbortSignal, FileLayer[]> {
  const groups = new Map<AbortSignal, FileLayer[]>();
  for (const layer of layers) groups.set(layer.signal, [...(groups.get(layer.signal) ?? []), layer]);
  return groups;
}

async function outcomeOf(outcomes: Promise<SmallOutcome[]>, index: number): Promise<IngestResult> {
  const outcome = (await outcomes)[index];
  if (outcome === undefined) throw new LayerdError('INTERNAL', 'a worker forgot a layer');
  if ('code' in outcome) throw LayerdError.fromBody(outcome);
  return { ...outcome, keptBytes: null };
}
