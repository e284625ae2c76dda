/** GET /metrics over TCP, on a loopback address, for collectors that do not speak Unix sockets. */
import { createServer, type Server } from 'node:http';
import { LayerdError, toLayerdError } from '../core/errors.js';
import { parseLoopback } from '../config/kinds.js';

interface Source {
  /** Prometheus text format. */
  metrics(): Promise<string>;
}

/** Null for `off`. Throws SOCKET_IN_USE. */
export async function listenForMetrics(address: string, sources: readonly Source[]): Promise<Server | null> {
  const at = parseLoopback(address);
  if (at === null) return null;
  const server = createServer((request, response) => {
    if (request.method !== 'GET' || request.url !== '/metrics') {
      response.writeHead(404).end();
      return;
    }
    Promise.all(sources.map((source) => source.metrics())).then(
      (parts) =>
        response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' }).end(parts.join('\n')),
      (error: unknown) => response.writeHead(500).end(toLayerdError(error).message),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(inUse(address, error)));
    server.listen(at, resolve);
  });
  return server;
}

function inUse(address: string, error: Error): LayerdError {
  return new LayerdError('SOCKET_IN_USE', `metrics_address ${address} cannot be listened on: ${error.message}`, {
    details: { address },
    hint: 'Choose another port, or switch it off.',
    cause: error,
  });
}
