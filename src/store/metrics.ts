import { createRequire } from 'node:module';
import type * as Prometheus from 'prom-client';
import type { MetadataReader } from '../metadata/reader.js';
import type { StoreContext } from './context.js';

const require = createRequire(import.meta.url);

/** The store in Prometheus' text format; read when asked for, nothing is counted on hot paths. */
export class StoreMetrics {
  private readonly context: StoreContext;
  private metrics: Metrics | null = null;

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** `loopDelaySeconds`: the delay of the event loop now. */
  text(loopDelaySeconds: number): Promise<string> {
    // Loaded when somebody asks: it would be a good part of the daemon's start and memory.
    this.metrics ??= new Metrics(require('prom-client') as typeof Prometheus, this.context);
    return this.metrics.text(loopDelaySeconds);
  }
}

class Metrics {
  private readonly library: typeof Prometheus;
  private readonly registry: Prometheus.Registry;
  private readonly reader: MetadataReader;
  /** Counting takes longer the more there is: once for all gauges. */
  private counts: ReturnType<MetadataReader['counts']>;
  private loopDelaySeconds = 0;

  constructor(library: typeof Prometheus, { reader, pool }: StoreContext) {
    this.library = library;
    this.reader = reader;
    this.counts = reader.counts();
    this.registry = new library.Registry();
    library.collectDefaultMetrics({ register: this.registry });
    this.gauge('layerd_images', 'Images in the store.', () => this.counts.images);
    this.gauge('layerd_layers', 'Layers in the store.', () => this.counts.layers);
    this.gauge('layerd_containers', 'Containers.', () => this.counts.containers);
    this.gauge('layerd_leases', 'Leases, those of running operations included.', () => this.counts.leases);
    this.gauge('layerd_build_cache_entries', 'Steps of builds that are remembered.', () => reader.buildCache().length);
    this.gauge('layerd_gc_candidates', 'Rows that the next collection looks at.', () => this.counts.candidates);
    this.gauge(
      'layerd_event_loop_delay_p99_seconds',
      'How late the main thread is, 99th percentile since the start.',
      () => this.loopDelaySeconds,
    );
    this.registry.registerMetric(
      new library.Gauge({
        name: 'layerd_jobs',
        help: 'Jobs waiting and running, by lane of the worker pool.',
        labelNames: ['lane'],
        registers: [],
        collect() {
          for (const [lane, depth] of Object.entries(pool.depth())) this.set({ lane }, depth);
        },
      }),
    );
  }

  text(loopDelaySeconds: number): Promise<string> {
    this.loopDelaySeconds = loopDelaySeconds;
    this.counts = this.reader.counts();
    return this.registry.metrics();
  }

  private gauge(name: string, help: string, value: () => number): void {
    this.registry.registerMetric(
      new this.library.Gauge({
        name,
        help,
        registers: [],
        collect() {
          this.set(value());
        },
      }),
    );
  }
}
