import type { FastifyRequest } from 'fastify';
import type { EngineApi, Once } from '../../core/api.js';
import type { ClientDescriptor } from '../peer.js';
import type { Operations } from './operations.js';

/** What the routes work with. */
export interface DoorContext {
  engine: EngineApi;
  operations: Operations;
  /** Runs what must not take effect twice: a repetition under the same key gets the first answer. */
  once<T>(request: FastifyRequest, work: (once?: Once) => Promise<T>): Promise<T>;
  /** A body may stand still this long. */
  stallMs: number;
  /** Takes over a descriptor that the client has open. Throws NOT_PERMITTED, INVALID_ARGUMENT. */
  takeDescriptor(request: FastifyRequest, fd: number): ClientDescriptor;
  /** Notes a failure that no longer has a status to be seen by, for the log. */
  failed(request: FastifyRequest, error: unknown): void;
  /** The metrics of the doors, in Prometheus text format. */
  doorMetrics(): Promise<string>;
}
