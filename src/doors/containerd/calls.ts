/** Calls of the door: a line in the log and a measurement for each. */
import type { Logger } from 'pino';
import type { ErrorKind, LayerdError } from '../../core/errors.js';
import { elapsedMs } from '../../core/units.js';
import type { DoorMetrics, DoorState, Meter } from '../metrics.js';
import type { Watch } from './grpc.js';

interface CallsOptions {
  log: Logger;
  metrics: DoorMetrics;
  connections: () => Omit<DoorState, 'requests'>;
}

/** What containerd asks to learn whether something is there: such answers are its daily bread. */
const EXPECTED: ReadonlySet<ErrorKind> = new Set(['not_found', 'exists', 'unsupported', 'cancelled']);

export class Calls {
  private readonly log: Logger;
  private readonly meter: Meter<'service' | 'method' | 'code'>;
  private running = 0;

  constructor({ log, metrics, connections }: CallsOptions) {
    this.log = log;
    const now = (): DoorState => ({ requests: this.running, ...connections() });
    this.meter = metrics.add('containerd', ['service', 'method', 'code'], now);
  }

  readonly watch: Watch = (path) => {
    const began = performance.now();
    this.running += 1;
    return (code, error) => {
      this.running -= 1;
      this.ended(path, elapsedMs(began), code, error);
    };
  };

  private ended(path: string, durationMs: number, code: string, error: LayerdError | null): void {
    const [, service = '', method = ''] = /([A-Z]\w*)\/(\w+)$/.exec(path) ?? [];
    this.meter({ service, method, code }, durationMs);
    const fields = { door: 'containerd', method: `${service}/${method}`, code, duration_ms: durationMs };
    if (error === null) return this.log.debug(fields, 'request finished');
    const refused = { ...fields, error: error.message, details: error.details };
    if (error.kind === 'internal' || error.kind === 'data_loss') {
      this.log.error({ ...refused, err: error }, 'request failed');
    } else if (EXPECTED.has(error.kind)) this.log.debug(refused, 'request refused');
    else this.log.info(refused, 'request refused');
  }
}
