/** How many threads each lane of work may have, and how many of them stay when there is nothing to do. */
import type { EngineConfig } from '../core/engine-config.js';
import type { WorkerPool } from './pool.js';

/**
 * Streams wait for their readers, so one thread has many of them. One load often follows another; a stream, or a sweep, does
 * not follow so soon.
 */
export function laneSizes({ workers, registry }: EngineConfig): ConstructorParameters<typeof WorkerPool>[1] {
  // a thread more than there are processors would only have to warm up, too
  const fetching = Math.min(registry.transfers, workers.bulk);
  return {
    short: { threads: workers.short, callsPerThread: 1, keep: 1, idleMs: 5_000 },
    unmount: { threads: workers.unmount, callsPerThread: 1, keep: 1, idleMs: 5_000 },
    bulk: { threads: workers.bulk, callsPerThread: 1, keep: 0, idleMs: 10_000 },
    fetch: { threads: fetching, callsPerThread: Math.ceil(registry.transfers / fetching), keep: 0, idleMs: 10_000 },
    stream: { threads: 2, callsPerThread: 64, keep: 0, idleMs: 2_000 },
    sweep: { threads: workers.sweep, callsPerThread: 1, keep: 0, idleMs: 500 },
  };
}
