import { createRequire } from 'node:module';
import type * as Prometheus from 'prom-client';

const require = createRequire(import.meta.url);

interface Measured {
  method: string;
  route: string;
  status: number;
  elapsedMs: number;
}

const NOTED_AT_MOST = 1000;

/** What is told of the door when it is asked. */
export interface DoorState {
  requests: number;
  connections: number;
  refused: number;
}

/** The door's own numbers. The engine's are its own affair; GET /metrics answers both. */
export class DoorMetrics {
  private readonly now: () => DoorState;
  private metrics: Metrics | null = null;
  /** What was measured before the library was there. */
  private readonly noted: Measured[] = [];

  constructor(now: () => DoorState) {
    this.now = now;
  }

  /**
   * Loading the library takes as long as many requests: a daemon whose metrics nobody reads can do without for as long as
   * a list of what was measured is short.
   */
  observe(measured: Measured): void {
    if (this.metrics === null && this.noted.length < NOTED_AT_MOST) this.noted.push(measured);
    else this.loaded().observe(measured);
  }

  /** Prometheus text format. */
  text(): Promise<string> {
    return this.loaded().text();
  }

  private loaded(): Metrics {
    if (this.metrics !== null) return this.metrics;
    this.metrics = new Metrics(require('prom-client') as typeof Prometheus, this.now);
    for (const measured of this.noted.splice(0)) this.metrics.observe(measured);
    return this.metrics;
  }
}

class Metrics {
  private readonly registry: Prometheus.Registry;
  private readonly durations: Prometheus.Histogram<'method' | 'route' | 'status'>;

  constructor({ Counter, Gauge, Histogram, Registry }: typeof Prometheus, now: () => DoorState) {
    this.registry = new Registry();
    const registers = [this.registry];
    this.durations = new Histogram({
      name: 'layerd_http_request_duration_seconds',
      help: 'Time from the head of a request to the end of its answer.',
      labelNames: ['method', 'route', 'status'],
      buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300],
      registers,
    });
    const gauge = (name: string, help: string, read: () => number): Prometheus.Gauge =>
      new Gauge({
        name,
        help,
        registers,
        collect(): void {
          this.set(read());
        },
      });
    gauge('layerd_http_requests_running', 'Requests that are being answered.', () => now().requests);
    gauge('layerd_http_connections', 'Open connections to the native API.', () => now().connections);
    let counted = 0;
    const refused = new Counter({
      name: 'layerd_http_connections_refused_total',
      help: 'Connections of peers that may not connect, or beyond the limit.',
      registers,
      collect(): void {
        refused.inc(now().refused - counted);
        counted = now().refused;
      },
    });
  }

  observe({ method, route, status, elapsedMs }: Measured): void {
    this.durations.observe({ method, route, status }, elapsedMs / 1000);
  }

  text(): Promise<string> {
    return this.registry.metrics();
  }
}
