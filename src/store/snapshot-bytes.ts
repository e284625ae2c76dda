/** What snapshots hold, as streams out of worker threads. */
import type { Change } from '../core/words.js';
import type { LayerRow } from '../metadata/rows.js';
import { byteChannel, readBytes } from '../workers/byte-channel.js';
import type { SnapshotArgs } from '../workers/snapshot-jobs.js';
import type { StoreContext } from './context.js';
import { streamOf, type Layers } from './layers.js';

type StreamingJob = 'snapshot.changes' | 'snapshot.diff' | 'snapshot.export';

export class SnapshotBytes {
  private readonly context: StoreContext;
  private readonly layers: Layers;

  constructor(context: StoreContext, layers: Layers) {
    this.context = context;
    this.layers = layers;
  }

  async *changes(snapshot: SnapshotArgs, signal: AbortSignal): AsyncGenerator<Change[]> {
    const few = await this.context.pool.run('short', 'snapshot.fewChanges', snapshot, { signal });
    if (few !== null) {
      if (few.length > 0) yield few;
      return;
    }
    let rest = '';
    for await (const chunk of this.stream('snapshot.changes', snapshot, signal)) {
      const lines = (rest + chunk.toString('utf8')).split('\n');
      rest = lines.pop() ?? '';
      if (lines.length > 0) yield lines.map((line) => JSON.parse(line) as Change);
    }
  }

  diff(snapshot: SnapshotArgs, signal: AbortSignal): AsyncIterable<Buffer> {
    return this.stream('snapshot.diff', snapshot, signal);
  }

  /** The whole root. */
  export(snapshot: SnapshotArgs, signal: AbortSignal): AsyncIterable<Buffer> {
    return this.stream('snapshot.export', snapshot, signal);
  }

  /** A layer's own tar, bit for bit. */
  layer(layer: LayerRow, signal: AbortSignal): AsyncIterable<Buffer> {
    return this.layers.tar(layer, signal);
  }

  private stream(job: StreamingJob, snapshot: SnapshotArgs, signal: AbortSignal): AsyncGenerator<Buffer> {
    const { writer, reader } = byteChannel();
    return streamOf(this.context.pool.run('stream', job, snapshot, { ports: [writer], signal }), readBytes(reader));
  }
}
