import { Counter, Gauge, Histogram, Registry } from 'prom-client';

/** The door's own numbers. The engine's are its own affair; GET /metrics answers both. */
export class DoorMetrics {
  private readonly registry = new Registry();
  private readonly durations: Histogram<'method' | 'route' | 'status'>;

  constructor(now: () => { requests: number; connections: number; refused: number }) {
    const registers = [this.registry];
    this.durations = new Histogram({
      name: 'layerd_http_request_duration_seconds',
      help: 'Time from the head of a request to the end of its answer.',
      labelNames: ['method', 'route', 'status'],
      buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300],
      registers,
    });
    const gauge = (name: string, help: string, read: () => number): Gauge =>
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

  observe(method: string, route: string, status: number, elapsedMs: number): void {
    this.durations.observe({ method, route, status }, elapsedMs / 1000);
  }

  /** Prometheus text format. */
  text(): Promise<string> {
    return this.registry.metrics();
  }
}
