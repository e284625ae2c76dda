import type { FastifyRequest } from 'fastify';
import type { EngineApi } from '../../core/api.js';
import type { Peer } from '../listener.js';
import type { ClientDescriptor } from '../peer.js';
import type { OnceOnly } from './once.js';
import type { Operations } from './operations.js';

/** What the routes work with. */
export interface DoorContext {
  engine: EngineApi;
  operations: Operations;
  once: OnceOnly;
  /** A body may stand still this long. */
  stallMs: number;
  /** Who sent the request; null where the platform cannot tell. */
  peerOf(request: FastifyRequest): Peer | null;
  /** Takes over a descriptor that the client has open. Throws NOT_PERMITTED, INVALID_ARGUMENT. */
  takeDescriptor(request: FastifyRequest, fd: number): ClientDescriptor;
  /** Notes a failure that no longer has a status to be seen by, for the log. */
  failed(request: FastifyRequest, error: unknown): void;
  /** The metrics of the door itself, in Prometheus text format. */
  doorMetrics(): Promise<string>;
}
