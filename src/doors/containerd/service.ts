/** The gRPC services of the door, on connections that somebody else accepted. */
import type { Socket } from 'node:net';
import { Server, ServerCredentials, type ServiceDefinition, type UntypedServiceImplementation } from '@grpc/grpc-js';
import type { SnapshotsApi } from '../../core/snapshots.js';
import type { ContainerdAddress } from './content.js';
import { diffMethods } from './diff-service.js';
import type { Method, Watch } from './grpc.js';
import { snapshotMethods } from './snapshots-service.js';

/** What is served. */
export interface ServedParts {
  snapshots: SnapshotsApi;
  /** containerd itself, which has the blobs; null where it is not to be asked. */
  containerd: ContainerdAddress | null;
}

export interface GrpcService {
  /** Serves a connection. */
  inject(socket: Socket): void;
  /** Lets running calls end within the limit. */
  close(drainMs: number): Promise<void>;
}

/** Messages are small; lists go in blocks. */
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;
/**
 * A client that broke the protocol of HTTP/2 and went is not told to us by Node: its connection is found to be dead by a
 * ping that nobody answers. One that lives answers at once, whatever it waits for.
 */
const PING_EVERY_MS = 30_000;
const PING_WITHIN_MS = 30_000;

export function openService({ snapshots, containerd }: ServedParts, watch: Watch): GrpcService {
  const server = new Server({
    'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
    'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
    'grpc.keepalive_time_ms': PING_EVERY_MS,
    'grpc.keepalive_timeout_ms': PING_WITHIN_MS,
  });
  register(server, snapshotMethods(snapshots), watch);
  if (containerd !== null) register(server, diffMethods(snapshots, containerd), watch);
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  return {
    inject: (socket) => injector.injectConnection(socket),
    close: (drainMs) =>
      new Promise((resolve) => {
        const timer = setTimeout(() => server.forceShutdown(), drainMs);
        injector.drain(drainMs);
        server.tryShutdown(() => {
          clearTimeout(timer);
          injector.destroy();
          resolve();
        });
      }),
  };
}

function register(server: Server, methods: readonly Method[], watch: Watch): void {
  const named = methods.map(({ definition, handle }) => ({ path: definition.path, definition, handle }));
  const definitions: ServiceDefinition = Object.fromEntries(named.map(({ path, definition }) => [path, definition]));
  const handlers: UntypedServiceImplementation = Object.fromEntries(
    named.map(({ path, handle }) => [path, handle(watch)]),
  );
  server.addService(definitions, handlers);
}
