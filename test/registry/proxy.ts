/** An HTTP proxy, as small as it can be: CONNECT, and requests that name a whole address. */
import { createServer, request, type Server } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';

export class TestProxy {
  /** `CONNECT HOST:PORT`, or `METHOD URL`. */
  readonly asked: string[] = [];
  /** What Proxy-Authorization has to be; null: nothing. */
  authorization: string | null = null;
  /** Where names lead; the others are nowhere. */
  readonly names = new Map<string, number>();
  private readonly server: Server;
  private readonly tunnels = new Set<Duplex>();

  private constructor(server: Server) {
    this.server = server;
  }

  static async start(): Promise<TestProxy> {
    const server = createServer();
    const proxy = new TestProxy(server);
    server.on('connect', (asked, client: Duplex) => {
      proxy.asked.push(`CONNECT ${asked.url ?? ''}`);
      client.on('error', () => undefined);
      const port = proxy.names.get(asked.url ?? '');
      if (proxy.refuses(asked.headers['proxy-authorization'])) {
        client.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
      } else if (port === undefined) client.end('HTTP/1.1 502 Bad Gateway\r\n\r\n');
      else proxy.open(client, port);
    });
    server.on('request', (asked, answer) => {
      proxy.asked.push(`${asked.method ?? ''} ${asked.url ?? ''}`);
      const url = new URL(asked.url ?? '');
      if (proxy.refuses(asked.headers['proxy-authorization'])) {
        answer.writeHead(407).end();
        return;
      }
      const { 'proxy-authorization': _, ...headers } = asked.headers;
      const onward = request({
        host: '127.0.0.1',
        port: proxy.names.get(url.host) ?? 1,
        path: `${url.pathname}${url.search}`,
        method: asked.method,
        headers,
      });
      onward.on('response', (answered) => {
        answer.writeHead(answered.statusCode ?? 502, answered.headers);
        answered.pipe(answer);
      });
      onward.on('error', () => answer.writeHead(502).end());
      asked.pipe(onward);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get address(): string {
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    for (const socket of this.tunnels) socket.destroy();
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private refuses(given: string | undefined): boolean {
    return this.authorization !== null && given !== this.authorization;
  }

  private open(client: Duplex, port: number): void {
    const server = connect(port, '127.0.0.1', () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n');
      client.pipe(server).pipe(client);
    });
    this.tunnels.add(client).add(server);
    server.on('error', () => client.destroy());
  }
}
