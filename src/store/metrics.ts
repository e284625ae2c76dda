import { Gauge, Registry, collectDefaultMetrics } from 'prom-client';
import type { StoreContext } from './context.js';

/** The store in Prometheus' text format; read when asked for, nothing is counted on hot paths. */
export class StoreMetrics {
  private readonly registry = new Registry();
  private loopDelaySeconds = 0;

  constructor(context: StoreContext) {
    const { reader, pool } = context;
    collectDefaultMetrics({ register: this.registry });
    this.gauge('layerd_images', 'Images in the store.', () => reader.counts().images);
    this.gauge('layerd_layers', 'Layers in the store.', () => reader.counts().layers);
    this.gauge('layerd_containers', 'Containers.', () => reader.counts().containers);
    this.gauge('layerd_leases', 'Leases, those of running operations included.', () => reader.counts().leases);
    this.gauge('layerd_gc_candidates', 'Rows that the next collection looks at.', () => reader.counts().candidates);
    this.gauge(
      'layerd_event_loop_delay_p99_seconds',
      'How late the main thread is, 99th percentile since the start.',
      () => this.loopDelaySeconds,
    );
    const registry = this.registry;
    new Gauge({
      name: 'layerd_jobs',
      help: 'Jobs waiting and running, by lane of the worker pool.',
      labelNames: ['lane'],
      registers: [registry],
      collect() {
        for (const [lane, depth] of Object.entries(pool.depth())) this.set({ lane }, depth);
      },
    });
  }

  /** `loopDelaySeconds`: the delay of the event loop now. */
  text(loopDelaySeconds: number): Promise<string> {
    this.loopDelaySeconds = loopDelaySeconds;
    return this.registry.metrics();
  }

  private gauge(name: string, help: string, value: () => number): void {
    new Gauge({
      name,
      help,
      registers: [this.registry],
      collect() {
        this.set(value());
      },
    });
  }
}
