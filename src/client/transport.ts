/** HTTP over the Unix socket of the daemon: JSON calls, byte streams, NDJSON. Node's own http, nothing else. */
import { randomUUID } from 'node:crypto';
import { Agent, request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import type { OnProgress } from '../core/api.js';
import { drained } from '../core/drained.js';
import { isErrno, LayerdError, type ErrorBody } from '../core/errors.js';
import type { StreamLine } from '../core/words.js';

export type Query = Record<string, string | number | boolean | readonly string[] | undefined>;

export interface CallOptions {
  query?: Query;
  /** Sent as JSON. */
  json?: unknown;
  /** Sent as it is, by operation() only; excludes `json`. */
  body?: AsyncIterable<Uint8Array>;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
  /** By which the daemon knows repetitions of what changes something; a new one for each call by default. */
  key?: string | undefined;
  /** A status of 400 or more whose body is an answer all the same. */
  accept?: number;
}

const MUTATING = new Set(['POST', 'PATCH', 'DELETE']);

export class Transport {
  readonly socketPath: string;
  private readonly agent = new Agent({ keepAlive: true });

  constructor(socketPath: string) {
    this.socketPath = socketPath;
  }

  /** A call that is answered by one JSON document (or by nothing). */
  async json<T>(method: string, path: string, options: CallOptions = {}): Promise<T> {
    const response = await this.repeatable(method, path, options);
    const text = await readText(response);
    return (text === '' ? undefined : JSON.parse(text)) as T;
  }

  /** The body of an answer as it arrives. Throws STREAM_BROKEN where it ends early. */
  async bytes(
    path: string,
    options: CallOptions = {},
  ): Promise<{ stream: AsyncGenerator<Buffer>; headers: IncomingMessage['headers'] }> {
    const response = await this.repeatable('GET', path, options);
    return { stream: chunksOf(response, options.signal), headers: response.headers };
  }

  /** The documents of an NDJSON answer; an `error` line is thrown. */
  async *lines<T>(path: string, options: CallOptions = {}): AsyncGenerator<T> {
    const response = await this.repeatable('GET', path, options);
    for await (const line of linesOf(response, options.signal)) {
      const value = JSON.parse(line) as T | { error: ErrorBody };
      if (isErrorLine(value)) throw LayerdError.fromBody(value.error);
      yield value;
    }
  }

  /** A long operation: hands on its progress and returns its result. */
  async operation<T>(path: string, options: CallOptions, progress: OnProgress | undefined): Promise<T> {
    const body = options.body === undefined ? null : new Body(options.body);
    const { request, answer } = this.send('POST', path, options, body);
    try {
      for await (const line of linesOf(await answer, options.signal)) {
        const step = JSON.parse(line) as StreamLine<T>;
        if ('result' in step) return step.result;
        if ('error' in step) throw LayerdError.fromBody(step.error);
        progress?.(step.progress);
      }
    } catch (error) {
      // once the answer has begun, Node tells of the broken connection only, not of why we broke it
      throw body?.failure ?? error;
    } finally {
      // an upload that nobody wants any more ends here
      if (!request.writableFinished) request.destroy();
    }
    throw broken('the answer ended without a result', undefined);
  }

  close(): void {
    this.agent.destroy();
  }

  /**
   * A daemon closes connections that were idle for long, and a request on one may cross that on its way: it is sent once
   * more. What changes something carries a key by which the daemon knows that it is the same request.
   */
  private async repeatable(method: string, path: string, options: CallOptions): Promise<IncomingMessage> {
    const { key = randomUUID() } = options;
    const headers = { ...options.headers, ...(MUTATING.has(method) ? { 'idempotency-key': key } : {}) };
    const first = this.send(method, path, { ...options, headers });
    try {
      return await first.answer;
    } catch (error) {
      if (!first.request.reusedSocket || !(error instanceof LayerdError) || error.code !== 'STREAM_BROKEN') throw error;
      return this.send(method, path, { ...options, headers }).answer;
    }
  }

  /** Sends one request; `answer` is a response of success, or rejects with the daemon's error. */
  private send(
    method: string,
    path: string,
    options: CallOptions,
    body: Body | null = null,
  ): { request: ClientRequest; answer: Promise<IncomingMessage> } {
    const { json, signal } = options;
    const payload = json === undefined ? undefined : Buffer.from(JSON.stringify(json));
    const headers: Record<string, string | number> = { ...options.headers };
    if (payload !== undefined) {
      headers['content-type'] = 'application/json';
      headers['content-length'] = payload.length;
    } else if (body !== null) headers['content-type'] = 'application/x-tar';
    const request = httpRequest({
      socketPath: this.socketPath,
      agent: this.agent,
      method,
      path: withQuery(path, options.query),
      headers,
      ...(signal === undefined ? {} : { signal }),
    });
    const answer = new Promise<IncomingMessage>((resolve, reject) => {
      request.once('response', (response) => resolve(response));
      request.on('error', (error) => reject(this.connectionError(error, signal)));
    }).then((response) => (response.statusCode === options.accept ? response : checked(response)));
    if (body === null) request.end(payload);
    else void body.feed(request);
    return { request, answer };
  }

  private connectionError(error: Error, signal: AbortSignal | undefined): LayerdError {
    if (error instanceof LayerdError) return error;
    if (signal?.aborted === true) return cancelled(error);
    const details = { socket: this.socketPath };
    if (isErrno(error, 'ENOENT', 'ECONNREFUSED', 'ENOTSOCK')) {
      return new LayerdError('DAEMON_UNREACHABLE', `no layerd answers at ${this.socketPath}`, {
        details,
        hint: 'Start the daemon (layerd, or systemctl start layerd), or name its socket with --socket or LAYERD_SOCKET.',
        cause: error,
      });
    }
    if (isErrno(error, 'EACCES', 'EPERM')) {
      return new LayerdError('NOT_PERMITTED', `you may not connect to ${this.socketPath}`, {
        details,
        hint: "Become root, or a member of the socket's group (setting socket_group).",
        cause: error,
      });
    }
    return new LayerdError('STREAM_BROKEN', `the connection to ${this.socketPath} broke: ${error.message}`, {
      details,
      hint: 'The daemon ended, or cannot open one more file for a connection (its log says so), or this is the socket of another of its doors: http_socket names the right one.',
      cause: error,
    });
  }
}

/** Path parameters and query as a request line has them; each segment is encoded by itself. */
export function route(...segments: string[]): string {
  return `/${segments.map(encodeURIComponent).join('/')}`;
}

function withQuery(target: string, query: Query | undefined): string {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(query ?? {})) {
    for (const one of Array.isArray(value) ? (value as readonly string[]) : [value]) {
      if (one !== undefined) search.append(key, String(one));
    }
  }
  return search.size === 0 ? target : `${target}?${search.toString()}`;
}

/** A body that is sent as fast as the daemon takes it. */
class Body {
  /** Why the source of the bytes failed; the request is then broken off. */
  failure: LayerdError | null = null;
  private readonly source: AsyncIterable<Uint8Array>;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.source = source;
  }

  async feed(request: ClientRequest): Promise<void> {
    const { source } = this;
    // a request that ended early must not wait for a source that may never say more
    if (source instanceof Readable) request.once('close', () => source.destroy());
    try {
      for await (const chunk of source) {
        if (request.destroyed) return;
        if (!request.write(chunk)) await drained(request);
      }
      request.end();
    } catch (error) {
      if (request.destroyed) return;
      this.failure = sourceFailed(error);
      request.destroy(this.failure);
    }
  }
}

function sourceFailed(error: unknown): LayerdError {
  if (error instanceof LayerdError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new LayerdError('IO_ERROR', `the archive cannot be read: ${message}`, { cause: error });
}

async function checked(response: IncomingMessage): Promise<IncomingMessage> {
  const { statusCode = 0 } = response;
  if (statusCode < 400) return response;
  const text = await readText(response);
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    body = null; // not from layerd: told below as it is
  }
  if (isErrorBody(body)) throw LayerdError.fromBody(body);
  throw new LayerdError('INTERNAL', `unexpected answer ${statusCode}: ${text.slice(0, 500)}`, {
    hint: 'Is it layerd that listens at this socket?',
  });
}

function isErrorBody(body: unknown): body is ErrorBody {
  return typeof body === 'object' && body !== null && 'code' in body && 'message' in body;
}

function isErrorLine(value: unknown): value is { error: ErrorBody } {
  return typeof value === 'object' && value !== null && 'error' in value && isErrorBody(value.error);
}

async function readText(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of chunksOf(response, undefined)) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}

async function* chunksOf(response: IncomingMessage, signal: AbortSignal | undefined): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of response) yield chunk as Buffer;
  } catch (error) {
    if (signal?.aborted === true) throw cancelled(error);
    throw broken('the daemon broke off its answer', error);
  }
}

async function* linesOf(response: IncomingMessage, signal: AbortSignal | undefined): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of chunksOf(response, signal)) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split('\n');
    rest = parts.pop() ?? '';
    yield* parts.filter((part) => part !== '');
  }
  if (rest !== '') throw broken('the last line of the answer is not whole', undefined);
}

function cancelled(cause: unknown): LayerdError {
  return new LayerdError('CANCELLED', 'the request was given up', { cause });
}

function broken(message: string, cause: unknown): LayerdError {
  return new LayerdError('STREAM_BROKEN', message, {
    hint: 'Look at the log of the daemon, then try again.',
    cause,
  });
}
