/** What the doors tell of themselves in Prometheus' text format. The engine's numbers are its own affair. */
import { createRequire } from 'node:module';
import type * as Prometheus from 'prom-client';

const require = createRequire(import.meta.url);

/** What is told of a door when it is asked. */
export interface DoorState {
  /** Requests that are being answered. */
  requests: number;
  connections: number;
  /** Connections that were refused since the start. */
  refused: number;
}

/** Notes an answered request: what it was and how it ended, by the door's labels. */
export type Meter<Label extends string> = (labels: Record<Label, string | number>, elapsedMs: number) => void;

const BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

/** Requests of a door that are noted before the library is needed. */
const NOTED_AT_MOST = 1000;

/**
 * Numbers of all doors of a daemon; each adds itself under its name when it opens. Loading the library takes as long as
 * many requests: a daemon whose metrics nobody reads does without for as long as the list of its requests is short.
 */
export class DoorMetrics {
  /** Put into the registry when the library is there. */
  private readonly added: ((metrics: Metrics) => void)[] = [];
  private loaded: Metrics | null = null;

  /** `labels` tell the kinds of requests, and how they end. */
  add<Label extends string>(door: string, labels: readonly Label[], now: () => DoorState): Meter<Label> {
    const noted: { values: Record<Label, string | number>; seconds: number }[] = [];
    let durations: Prometheus.Histogram | null = null;
    this.added.push((metrics) => {
      durations = metrics.add(door, labels, now);
      for (const { values, seconds } of noted.splice(0)) durations.observe(values, seconds);
    });
    this.loaded?.put(this.added.splice(0));
    return (values, elapsedMs) => {
      const seconds = elapsedMs / 1000;
      if (durations === null) noted.push({ values, seconds });
      else durations.observe(values, seconds);
      if (noted.length > NOTED_AT_MOST) this.metrics();
    };
  }

  /** Prometheus text format. */
  text(): Promise<string> {
    return this.metrics().text();
  }

  private metrics(): Metrics {
    this.loaded ??= new Metrics(require('prom-client') as typeof Prometheus);
    this.loaded.put(this.added.splice(0));
    return this.loaded;
  }
}

class Metrics {
  private readonly library: typeof Prometheus;
  private readonly registry: Prometheus.Registry;

  constructor(library: typeof Prometheus) {
    this.library = library;
    this.registry = new library.Registry();
  }

  put(doors: readonly ((metrics: Metrics) => void)[]): void {
    for (const add of doors) add(this);
  }

  add(door: string, labels: readonly string[], now: () => DoorState): Prometheus.Histogram {
    const { Counter, Gauge, Histogram } = this.library;
    const registers = [this.registry];
    const gauge = (name: string, help: string, read: () => number): Prometheus.Gauge =>
      new Gauge({
        name: `layerd_${door}_${name}`,
        help,
        registers,
        collect(): void {
          this.set(read());
        },
      });
    gauge('requests_running', 'Requests that are being answered.', () => now().requests);
    gauge('connections', 'Open connections.', () => now().connections);
    let counted = 0;
    const refused = new Counter({
      name: `layerd_${door}_connections_refused_total`,
      help: 'Connections of peers that may not connect, or beyond the limit.',
      registers,
      collect(): void {
        refused.inc(now().refused - counted);
        counted = now().refused;
      },
    });
    return new Histogram({
      name: `layerd_${door}_request_duration_seconds`,
      help: 'Time from the head of a request to the end of its answer.',
      labelNames: labels,
      buckets: BUCKETS,
      registers,
    });
  }

  text(): Promise<string> {
    return this.registry.metrics();
  }
}
