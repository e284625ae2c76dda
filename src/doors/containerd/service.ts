/** The gRPC services of the door, on connections that somebody else accepted. */
import type { Socket } from 'node:net';
import { Server, ServerCredentials, type ServiceDefinition, type UntypedServiceImplementation } from '@grpc/grpc-js';
import type { SnapshotsApi } from '../../core/snapshots.js';
import { diffMethods } from './diff-service.js';
import type { Method, Watch } from './grpc.js';
import { snapshotMethods } from './snapshots-service.js';

/** What is served. */
export interface ServedParts {
  snapshots: SnapshotsApi;
  /** The socket of containerd itself, which has the blobs; null where it is not to be asked. */
  containerd: string | null;
}

export interface GrpcService {
  /** Serves a connection. */
  inject(socket: Socket): void;
  /** Lets running calls end within the limit. */
  close(drainMs: number): Promise<void>;
}

/** Messages are small; lists go in blocks. */
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

export function openService({ snapshots, containerd }: ServedParts, watch: Watch): GrpcService {
  const server = new Server({
    'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
    'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
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
