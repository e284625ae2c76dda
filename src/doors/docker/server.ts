/** Docker's plugin protocol over a Unix socket: JSON calls, and two that are a tar one way. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { LayerdError, toLayerdError } from '../../core/errors.js';
import { begun, clientGone, sendAll, uploadOf } from '../http/body.js';
import { lingerThenClose, Operations, shuttingDown } from '../http/operations.js';
import { DoorListener, type ListenerOptions } from '../listener.js';
import type { DoorMetrics, Meter } from '../metrics.js';
import { GraphDriver, type DockerEngine } from './graph-driver.js';
import { VERBS, WITHOUT_ID, type VerbRequest } from './verbs.js';

export interface DockerDoorOptions extends Pick<ListenerOptions, 'at' | 'gid' | 'peerOf'> {
  engine: DockerEngine;
  log: Logger;
  metrics: DoorMetrics;
  /** A layer, up or down, may stand still this long because of dockerd. */
  stallMs: number;
}

const PLUGIN_TYPE = 'application/vnd.docker.plugins.v1.2+json';
const MAX_JSON_BYTES = 1024 * 1024;
const CLOSE_GRACE_MS = 1_000;

export class DockerDoor {
  private readonly options: DockerDoorOptions;
  private readonly driver: GraphDriver;
  private readonly operations = new Operations();
  /** Why the requests of a connection are refused. */
  private readonly refusals = new WeakMap<Socket, LayerdError>();
  private readonly meter: Meter<'verb' | 'status'>;
  private stopping = false;
  /** Made when dockerd connects for the first time: most machines have none. */
  private http: Promise<Server> | null = null;
  private listener: DoorListener | null = null;

  private constructor(options: DockerDoorOptions) {
    this.options = options;
    this.driver = new GraphDriver(options.engine);
    this.meter = options.metrics.add('docker', ['verb', 'status'], () => ({
      requests: this.operations.count,
      connections: this.listener?.connections ?? 0,
      refused: this.listener?.refused ?? 0,
    }));
  }

  /** Serves when the promise is done. Throws SOCKET_IN_USE. */
  static async open(options: DockerDoorOptions): Promise<DockerDoor> {
    const door = new DockerDoor(options);
    const { at, gid, peerOf, log } = options;
    const accept: ListenerOptions['accept'] = (socket, _peer, refusal) => void door.accept(socket, refusal);
    door.listener = await DoorListener.open({ at, gid, peerOf, halfOpen: true, log, accept });
    return door;
  }

  async setGroup(gid: number | null): Promise<void> {
    await this.listener?.setGroup(gid);
  }

  /** Accepts no more, finishes what runs within the limit, aborts the rest. */
  async close(limitMs: number): Promise<void> {
    this.stopping = true;
    this.listener?.stopAccepting();
    await this.operations.drain(limitMs);
    await this.listener?.endConnections(Math.min(limitMs, CLOSE_GRACE_MS));
  }

  private async accept(socket: Socket, refusal: LayerdError | null): Promise<void> {
    if (refusal !== null) this.refusals.set(socket, refusal);
    // It may break before HTTP has taken it over.
    socket.on('error', () => socket.destroy());
    this.http ??= this.createServer();
    (await this.http).emit('connection', socket);
  }

  private async createServer(): Promise<Server> {
    const app = fastify({ logger: false, serverFactory: (handler) => this.createHttp(handler) });
    this.addRoutes(app);
    await app.ready();
    return app.server;
  }

  private createHttp(handler: (request: IncomingMessage, response: ServerResponse) => void): Server {
    // Idle connections stay. dockerd repeats a request that meets the end of one, but without its body, which it has read.
    const server = createServer({ requestTimeout: 0, keepAliveTimeout: 0 }, (request, response) => {
      this.operations.begin(response);
      handler(request, response);
    });
    server.on('clientError', (_error, socket) => socket.destroy());
    return server;
  }

  private addRoutes(app: FastifyInstance): void {
    // dockerd names no content type: JSON and tar are told apart by the verb
    app.removeAllContentTypeParsers();
    app.addContentTypeParser('*', (_request, _body, done) => done(null));
    app.addHook('onRequest', async (request, reply) => {
      const refusal = this.stopping ? shuttingDown() : this.refusals.get(request.raw.socket);
      if (refusal === undefined) return;
      reply.header('connection', 'close');
      throw refusal;
    });
    app.addHook('onResponse', async (request, { raw, elapsedTime }) => {
      // a refused upload is read on for a while, so that dockerd comes to read why
      if (!request.raw.complete && !request.raw.socket.destroyed) lingerThenClose(request.raw, request.raw.socket);
      const status = raw.writableFinished ? raw.statusCode : 'broken';
      this.meter({ verb: verbOf(request), status }, elapsedTime);
      const fields = { door: 'docker', route: request.url, status, duration_ms: Math.round(elapsedTime) };
      this.options.log.debug(fields, 'request finished');
    });
    app.setNotFoundHandler(async (request, reply) => {
      await reply.code(404).send({ Err: `layerd has no ${request.url}` });
    });
    app.setErrorHandler((thrown, request, reply) => this.refuse(request, reply, thrown));
    app.post('/Plugin.Activate', (_request, reply) => reply.type(PLUGIN_TYPE).send({ Implements: ['GraphDriver'] }));
    app.post('/GraphDriver.Diff', (request, reply) => this.sendDiff(request, reply));
    app.post<{ Querystring: { id?: string } }>('/GraphDriver.ApplyDiff', async (request, reply) => {
      const { id = '' } = request.query;
      const signal = this.operations.signalOf(reply.raw);
      const size = await this.driver.applyDiff(id, uploadOf(request.raw, this.options.stallMs), signal);
      return reply.type(PLUGIN_TYPE).send({ Size: size });
    });
    for (const [name, verb] of Object.entries(VERBS)) {
      app.post(`/GraphDriver.${name}`, async (request, reply) => {
        const answer = await verb(
          this.driver,
          checked(name, await bodyOf(request)),
          this.operations.signalOf(reply.raw),
        );
        return reply.type(PLUGIN_TYPE).send(answer);
      });
    }
  }

  /** A tar; what fails on the way breaks the connection, so that dockerd does not take it for whole. */
  private async sendDiff(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const { ID: id = '', Parent: parent = '' } = checked('Diff', await bodyOf(request));
    const source = await begun(this.driver.diff(id, parent, this.operations.signalOf(reply.raw)));
    reply.hijack();
    reply.raw.writeHead(200, { 'content-type': 'application/x-tar' });
    try {
      await sendAll(reply.raw, source, this.options.stallMs);
    } catch (thrown) {
      this.tell(request, toLayerdError(thrown));
      reply.raw.destroy();
    }
  }

  private refuse(request: FastifyRequest, reply: FastifyReply, thrown: unknown): FastifyReply {
    const error = request.raw.socket.destroyed ? clientGone(thrown) : toLayerdError(thrown);
    this.tell(request, error);
    const hint = error.hint === '' ? '' : ` (${error.hint})`;
    return reply
      .code(500)
      .type(PLUGIN_TYPE)
      .send({ Err: `${error.message}${hint}` });
  }

  private tell(request: FastifyRequest, error: LayerdError): void {
    const { code, message, details } = error;
    const fields = { door: 'docker', route: request.url, code, error: message, details };
    if (error.kind === 'internal' || error.kind === 'data_loss') {
      this.options.log.error({ ...fields, err: error }, 'request failed');
    } else this.options.log.info(fields, 'request refused');
  }
}

/** What was asked for, as it is counted; whatever else somebody asks for is one. */
function verbOf({ routeOptions: { url } }: FastifyRequest): string {
  return url?.replace(/^\/(GraphDriver\.)?/, '') ?? 'unknown';
}

async function bodyOf({ raw }: FastifyRequest): Promise<VerbRequest> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of raw as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_JSON_BYTES) throw invalid(`it has more than ${MAX_JSON_BYTES} bytes`);
    chunks.push(chunk);
  }
  const text = Buffer.concat(chunks).toString('utf8');
  if (text.trim() === '') return {};
  try {
    return JSON.parse(text) as VerbRequest;
  } catch (error) {
    throw invalid((error as Error).message);
  }
}

/** What dockerd repeats without its body must not be taken for a request about nothing. */
function checked(verb: string, request: VerbRequest): VerbRequest {
  if (WITHOUT_ID.has(verb) || (request.ID ?? '') !== '') return request;
  throw invalid(`${verb} names no ID`);
}

function invalid(why: string): LayerdError {
  return new LayerdError('INVALID_ARGUMENT', `the request is not what a graph driver is asked: ${why}`);
}
