/** The native API: HTTP/JSON over the Unix socket. Puts the routes, their checks, log and metrics together. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import type { EngineApi } from '../../core/api.js';
import type { LayerdError } from '../../core/errors.js';
import { elapsedMs } from '../../core/units.js';
import { DoorListener, type ListenerOptions, type Peer } from '../listener.js';
import type { DoorMetrics, Meter } from '../metrics.js';
import { clientGone } from './body.js';
import { addComponents, schemaController } from './compilers.js';
import type { DoorContext } from './context.js';
import { requestError, routeNotFound, statusOf } from './errors.js';
import { takeDescriptor } from '../peer.js';
import { OnceOnly } from './once.js';
import { describeRoutes } from './openapi.js';
import { lingerThenClose, Operations, shuttingDown } from './operations.js';
import { buildCacheRoutes } from './routes/build-cache.js';
import { containerRoutes } from './routes/containers.js';
import { imageRoutes } from './routes/images.js';
import { layerRoutes } from './routes/layers.js';
import { registryRoutes } from './routes/registries.js';
import { storeRoutes } from './routes/store.js';
import { systemRoutes } from './routes/system.js';

export interface HttpDoorOptions extends Pick<ListenerOptions, 'at' | 'gid' | 'peerOf'> {
  engine: EngineApi;
  log: Logger;
  version: string;
  /** Of all doors of the daemon: this one adds its own, and tells them all. */
  metrics: DoorMetrics;
  /** A body may stand still this long because of its client. */
  stallMs: number;
  /** A connection without a request, or with one whose head does not arrive, is closed after this time. */
  idleMs?: number;
}

/** Longer than clients usually keep connections, so that mostly they close first. */
const IDLE_MS = 75_000;
/** When it stops: for clients to take the end of their answers and to close. */
const CLOSE_GRACE_MS = 1_000;
/** JSON bodies are small; archives are not read by the framework. */
const MAX_JSON_BYTES = 1024 * 1024;

export class HttpDoor {
  private readonly options: HttpDoorOptions;
  private readonly operations = new Operations();
  private readonly once: OnceOnly;
  private readonly meter: Meter<'method' | 'route' | 'status'>;
  private readonly peers = new WeakMap<Socket, Peer>();
  /** Why the requests of a connection are refused. */
  private readonly refusals = new WeakMap<Socket, LayerdError>();
  private readonly failures = new WeakMap<FastifyRequest, LayerdError>();
  private readonly idleTimers = new WeakMap<Socket, NodeJS.Timeout>();
  private readonly context: DoorContext;
  /** The OpenAPI document, once somebody asked for it. */
  private description: Promise<object> | null = null;
  private readonly idleMs: number;
  private stopping = false;
  /** Set by open(), before anything can connect. */
  private http: Server | null = null;
  private listener: DoorListener | null = null;

  private constructor(options: HttpDoorOptions) {
    this.options = options;
    this.idleMs = options.idleMs ?? IDLE_MS;
    this.meter = options.metrics.add('http', ['method', 'route', 'status'], () => ({
      requests: this.operations.count,
      connections: this.listener?.connections ?? 0,
      refused: this.listener?.refused ?? 0,
    }));
    this.once = new OnceOnly(options.engine);
    this.context = {
      engine: options.engine,
      operations: this.operations,
      once: (request, work) => this.once.run(request, this.peers.get(request.raw.socket)?.uid ?? null, work),
      stallMs: options.stallMs,
      takeDescriptor: ({ raw: { socket } }, fd) => takeDescriptor(socket, this.peers.get(socket) ?? null, fd),
      failed: (request, error) => this.failures.set(request, requestError(error)),
      doorMetrics: () => options.metrics.text(),
    };
  }

  /** Serves when the promise is done. Throws SOCKET_IN_USE. */
  static async open(options: HttpDoorOptions): Promise<HttpDoor> {
    const door = new HttpDoor(options);
    const app = fastify({
      logger: false,
      bodyLimit: MAX_JSON_BYTES,
      exposeHeadRoutes: false,
      schemaController,
      routerOptions: { maxParamLength: 1024 },
      serverFactory: (handler) => (door.http = door.createHttp(handler)),
      genReqId: () => crypto.randomUUID(),
    });
    await door.assemble(app);
    await app.ready();
    const { at, gid, peerOf, log } = options;
    door.listener = await DoorListener.open({
      at,
      gid,
      peerOf,
      halfOpen: true,
      log,
      accept: (...connection) => door.accept(...connection),
    });
    return door;
  }

  async setGroup(gid: number | null): Promise<void> {
    await this.listener?.setGroup(gid);
  }

  /** Accepts no more, finishes what runs within the limit, aborts the rest, closes every connection. */
  async close(limitMs: number): Promise<void> {
    this.stopping = true;
    this.listener?.stopAccepting();
    await this.operations.drain(limitMs);
    await this.listener?.endConnections(Math.min(limitMs, CLOSE_GRACE_MS));
  }

  private createHttp(handler: (request: IncomingMessage, response: ServerResponse) => void): Server {
    // an upload may take as long as it takes: its own idle limit holds instead
    const server = createServer({ requestTimeout: 0, keepAliveTimeout: this.idleMs }, (request, response) => {
      this.began(request.socket, response);
      handler(request, response);
    });
    server.on('clientError', (_error, socket) => socket.destroy());
    return server;
  }

  private accept(socket: Socket, peer: Peer | null, refusal: LayerdError | null): void {
    if (peer !== null) this.peers.set(socket, peer);
    if (refusal !== null) this.refusals.set(socket, refusal);
    this.awaitRequest(socket);
    socket.once('close', () => clearTimeout(this.idleTimers.get(socket)));
    this.http?.emit('connection', socket);
  }

  private began(socket: Socket, response: ServerResponse): void {
    clearTimeout(this.idleTimers.get(socket));
    this.operations.begin(response);
    response.once('finish', () => this.awaitRequest(socket));
  }

  /** Node times heads only on a server that listens itself; ours does not, so it is done here. */
  private awaitRequest(socket: Socket): void {
    clearTimeout(this.idleTimers.get(socket));
    this.idleTimers.set(
      socket,
      setTimeout(() => socket.destroy(), this.idleMs),
    );
  }

  private async assemble(app: FastifyInstance): Promise<void> {
    addComponents(app);
    this.addHooks(app);
    await app.register((routes, _options, done) => {
      this.addRoutes(routes);
      routes.get('/v1/openapi.json', { schema: { hide: true } }, () => this.describe());
      done();
    });
  }

  private addRoutes(app: FastifyInstance): void {
    const groups = [systemRoutes, imageRoutes, registryRoutes, layerRoutes, containerRoutes];
    for (const add of [...groups, buildCacheRoutes, storeRoutes]) add(app, this.context);
  }

  private describe(): Promise<object> {
    this.description ??= describeRoutes(this.options.version, (app) => this.addRoutes(app));
    return this.description;
  }

  private addHooks(app: FastifyInstance): void {
    app.addHook('onRequest', async (request, reply) => {
      reply.header('x-request-id', request.id);
      const began = performance.now();
      reply.raw.once('close', () => this.finished(request, reply, elapsedMs(began)));
      const refusal = this.stopping ? shuttingDown() : this.refusals.get(request.raw.socket);
      if (refusal === undefined) return;
      reply.header('connection', 'close');
      throw refusal;
    });
    app.setNotFoundHandler((request) => {
      throw routeNotFound(request.method, request.url);
    });
    app.setErrorHandler((thrown, request, reply) => {
      const error = requestError(thrown);
      this.failures.set(request, error);
      return reply.code(statusOf(error)).send(error.toBody());
    });
  }

  /** One line and one measurement for every finished request. */
  private finished(request: FastifyRequest, reply: FastifyReply, durationMs: number): void {
    const { raw } = request;
    if (!raw.complete && !raw.socket.destroyed) lingerThenClose(raw, raw.socket);
    const error = this.failures.get(request) ?? (reply.raw.writableFinished ? undefined : clientGone());
    const route = request.routeOptions.url ?? 'unknown';
    const status = error === undefined ? reply.raw.statusCode : statusOf(error);
    this.meter({ method: request.method, route, status }, durationMs);
    const peer = this.peers.get(raw.socket);
    const fields = {
      door: 'http',
      request_id: request.id,
      method: request.method,
      route,
      params: request.params,
      status,
      duration_ms: durationMs,
      peer_pid: peer?.pid,
      peer_uid: peer?.uid,
    };
    const { log } = this.options;
    if (error !== undefined && (error.kind === 'internal' || error.kind === 'data_loss')) {
      log.error({ ...fields, code: error.code, err: error, details: error.details }, 'request failed');
    } else if (error !== undefined) {
      log.info({ ...fields, code: error.code, error: error.message, details: error.details }, 'request refused');
    } else if (QUIET_ROUTES.has(route)) log.debug(fields, 'request finished');
    else log.info(fields, 'request finished');
  }
}

/** What is asked every few seconds by machines. */
const QUIET_ROUTES = new Set(['/v1/health', '/metrics', '/v1/openapi.json']);
