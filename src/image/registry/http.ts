/**
 * HTTP exchanges: connections that are kept and used again, redirects, limits on waiting. Node's own http and https:
 * they give what is needed here (bodies both ways with back-pressure, an answer that comes before the body is sent).
 */
import { Agent, request as plainRequest, type ClientRequest, type IncomingMessage } from 'node:http';
import { Agent as SecureAgent, request as secureRequest, type RequestOptions } from 'node:https';
import { createSecureContext, type SecureContext } from 'node:tls';
import type { ByteSource } from '../../content/source.js';
import { drained } from '../../core/drained.js';
import type { ProxyConfig } from '../../core/engine-config.js';
import { LayerdError } from '../../core/errors.js';
import { Answer } from './answer.js';
import { cancelled, connectionFailed, protocolError, unreachable } from './problems.js';
import { proxyFor, proxyHeaders, proxyRefuses, toProxy, TunnelAgent } from './proxy.js';
import type { TrustStore } from './trust.js';

export interface Exchange {
  method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  url: URL;
  headers: Record<string, string>;
  /** `length` is exact. A stream is opened when it is needed, and once only. */
  body?: { length: number; open(): ByteSource };
}

const REDIRECTS = new Set([301, 302, 303, 307, 308]);
const MAX_REDIRECTS = 10;
/** Connections to one server that may have been idle for too long; no more of them are tried. */
const KEPT_CONNECTIONS = 8;
const KEPT = { keepAlive: true, maxFreeSockets: KEPT_CONNECTIONS - 1 };
/** What a registry has taken it may have to hash and move about before it answers. */
const COMMIT_PATIENCE = 10;

export class Http {
  private readonly trust: TrustStore;
  private readonly stallMs: number;
  private readonly proxies: ProxyConfig;
  private readonly agents = new Map<string, Promise<Agent>>();

  constructor(trust: TrustStore, { stallMs, proxies }: { stallMs: number; proxies: ProxyConfig }) {
    this.trust = trust;
    this.stallMs = stallMs;
    this.proxies = proxies;
  }

  /**
   * One request, and for GET and HEAD those that it is redirected to. Headers that say who we are go to the origin of
   * `exchange.url` only. Throws REGISTRY_UNREACHABLE, REGISTRY_UNTRUSTED, CANCELLED.
   */
  async send(exchange: Exchange, signal: AbortSignal): Promise<Answer> {
    const follows = exchange.method === 'GET' || exchange.method === 'HEAD';
    let { url, headers } = exchange;
    for (let redirects = 0; ; redirects += 1) {
      const answer = await this.once({ ...exchange, url, headers }, signal);
      const location = answer.header('location');
      if (!follows || !REDIRECTS.has(answer.status) || location === '') return answer;
      await answer.discard();
      if (redirects === MAX_REDIRECTS) throw protocolError(url.host, `more than ${MAX_REDIRECTS} redirects`);
      const next = resolveLocation(url, location);
      this.refuseDowngrade(url, next);
      if (next.origin !== url.origin) headers = anonymous(headers);
      url = next;
    }
  }

  /**
   * Whether a server that may be spoken to either way speaks TLS. Whom it is vouched for by does not matter yet, so no
   * authorities are read, which would take longer than all the rest.
   */
  async speaksTls(url: URL, signal: AbortSignal): Promise<boolean> {
    const options = { rejectUnauthorized: false, secureContext: createSecureContext({ ca: [] }) };
    const agent = this.secureAgent(url, options);
    try {
      const answer = await this.attempt({ method: 'GET', url, headers: {} }, agent, signal);
      await answer?.discard();
      return answer !== null;
    } catch (error) {
      if (!(error instanceof LayerdError)) throw error;
      // an alert is TLS, too: it wants to see a certificate, for one
      if (/ALERT/.test(String(error.details['reason']))) return true;
      if (error.code === 'REGISTRY_UNREACHABLE') return false;
      throw error;
    } finally {
      agent.destroy();
    }
  }

  /** Ends the connections that are kept. */
  async close(): Promise<void> {
    for (const agent of this.agents.values()) (await agent).destroy();
  }

  private refuseDowngrade(from: URL, to: URL): void {
    if (to.protocol === 'https:') return;
    if (to.protocol === 'http:' && (from.protocol === 'http:' || this.trust.isInsecure(to.host))) return;
    throw protocolError(from.host, `it redirects from TLS to ${to.protocol}//${to.host}`);
  }

  /** Servers close connections that were idle for long, and a request may cross that on its way: it is sent once more. */
  private async once(exchange: Exchange, signal: AbortSignal): Promise<Answer> {
    for (let tries = 0; tries < KEPT_CONNECTIONS; tries += 1) {
      const answer = await this.attempt(exchange, await this.agentOf(exchange.url), signal);
      if (answer !== null) return answer;
    }
    throw unreachable(exchange.url.host, 'it closes every connection');
  }

  /** Null where a connection that was kept broke before there was an answer. */
  private async attempt(exchange: Exchange, agent: Agent, signal: AbortSignal): Promise<Answer | null> {
    const { url, method, headers, body } = exchange;
    const proxy = proxyFor(url, this.proxies);
    const way = url.protocol === 'http:' && proxy !== null ? await plainlyThrough(proxy, url, this.trust) : STRAIGHT;
    if (signal.aborted) throw cancelled(signal);
    const length = body === undefined ? {} : { 'content-length': body.length };
    const options: RequestOptions = {
      method,
      agent,
      signal,
      ...way,
      headers: { 'user-agent': 'layerd', ...headers, ...way.headers, ...length },
    };
    const secure = url.protocol === 'https:' || way.protocol === 'https:';
    const sent = secure ? secureRequest(url, options) : plainRequest(url, options);
    const wait = new Wait(sent, url.host, this.stallMs);
    const answered = answerOf(sent, url, signal);
    try {
      const feeding = feed(sent, body, wait, answered).then(() =>
        wait.patience(method === 'GET' ? 1 : COMMIT_PATIENCE),
      );
      // where the answer came first, what the source says afterwards is of no interest
      feeding.catch(() => undefined);
      // a server may answer, mostly with a refusal, before it has all of the body
      const message = await Promise.race([answered, feeding.then(() => answered)]);
      if (!sent.writableFinished) message.once('close', () => sent.destroy());
      if (proxy !== null && message.statusCode === 407) {
        sent.destroy();
        throw proxyRefuses(proxy, 407, url);
      }
      return new Answer(message, url, this.stallMs, method !== 'HEAD');
    } catch (error) {
      sent.destroy();
      // a body that was handed over whole may have been taken, whatever the socket has told of it by now: who sends it
      // has to ask how far it came
      const maybeTaken = body !== undefined && sent.writableEnded;
      if (sent.reusedSocket && isReset(error) && !maybeTaken) return null;
      throw error;
    } finally {
      wait.end();
    }
  }

  private agentOf(url: URL): Promise<Agent> {
    const known = this.agents.get(url.origin) ?? this.makeAgent(url);
    this.agents.set(url.origin, known);
    known.catch(() => this.agents.delete(url.origin));
    return known;
  }

  private async makeAgent(url: URL): Promise<Agent> {
    const proxy = proxyFor(url, this.proxies);
    if (url.protocol === 'http:') return proxy?.protocol === 'https:' ? new SecureAgent(KEPT) : new Agent(KEPT);
    const { secureContext, rejectUnauthorized } = await this.trust.of(url.host);
    return this.secureAgent(url, { secureContext, rejectUnauthorized });
  }

  private secureAgent(url: URL, options: { secureContext: SecureContext; rejectUnauthorized: boolean }): SecureAgent {
    const proxy = proxyFor(url, this.proxies);
    const all = { ...KEPT, ...options };
    if (proxy === null) return new SecureAgent(all);
    return new TunnelAgent({ proxy, target: url, trust: this.trust, stallMs: this.stallMs }, all);
  }
}

type Way = Omit<RequestOptions, 'headers'> & { headers: Record<string, string> };

const STRAIGHT: Way = { headers: {} };

/** A request without TLS goes to the proxy itself, and names the whole address. */
async function plainlyThrough(proxy: URL, url: URL, trust: TrustStore): Promise<Way> {
  const headers = { host: url.host, ...proxyHeaders(proxy) };
  return { protocol: proxy.protocol, ...(await toProxy(proxy, trust)), path: url.href, headers };
}

function isReset(error: unknown): boolean {
  const reason = error instanceof LayerdError ? error.details['reason'] : undefined;
  return reason === 'ECONNRESET' || reason === 'EPIPE';
}

/** Where a Location leads: it may be relative. Throws REGISTRY_PROTOCOL. */
export function resolveLocation(from: URL, location: string): URL {
  const url = URL.canParse(location, from.href) ? new URL(location, from) : null;
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw protocolError(from.host, `it names the place ${JSON.stringify(location.slice(0, 200))}`);
  }
  return url;
}

function anonymous(headers: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name !== 'authorization'));
}

/** Breaks a request off whose server lets us wait too long. */
class Wait {
  private readonly request: ClientRequest;
  private readonly host: string;
  private readonly stallMs: number;
  private timer: NodeJS.Timeout;
  private ended = false;

  constructor(request: ClientRequest, host: string, stallMs: number) {
    this.request = request;
    this.host = host;
    this.stallMs = stallMs;
    this.timer = this.start(stallMs);
  }

  /** Something went on: the wait begins anew, and may be `factor` times as long. */
  patience(factor = 1): void {
    clearTimeout(this.timer);
    if (!this.ended) this.timer = this.start(this.stallMs * factor);
  }

  end(): void {
    this.ended = true;
    clearTimeout(this.timer);
  }

  private start(limitMs: number): NodeJS.Timeout {
    const stalled = (): LayerdError => unreachable(this.host, `it did not go on for ${limitMs} ms`, { limitMs });
    return setTimeout(() => this.request.destroy(stalled()), limitMs);
  }
}

function answerOf(request: ClientRequest, url: URL, signal: AbortSignal): Promise<IncomingMessage> {
  const answer = new Promise<IncomingMessage>((resolve, reject) => {
    request.once('response', resolve);
    request.on('error', (error) => {
      if (signal.aborted) reject(cancelled(signal));
      else reject(error instanceof LayerdError ? error : connectionFailed(url.host, error));
    });
  });
  // it is looked at when the body has been sent; what fails until then waits for that
  answer.catch(() => undefined);
  return answer;
}

/** Sends the body as fast as the server takes it, and no further when it has answered. Throws what the source throws. */
async function feed(
  request: ClientRequest,
  body: Exchange['body'],
  wait: Wait,
  answered: Promise<IncomingMessage>,
): Promise<void> {
  if (body === undefined || body.length === 0) {
    request.end();
    return;
  }
  let over = false;
  const stop = (): void => void (over = true);
  answered.then(stop, stop);
  let left = body.length;
  for await (const chunk of body.open()) {
    if (over) return;
    left -= chunk.length;
    // with its last byte the body is whole for the server, so it has ended for us, too: before the source says so
    if (left === 0) request.end(chunk);
    else if (!request.write(chunk)) await Promise.race([drained(request), answered.then(stop, stop)]);
    wait.patience();
  }
  if (left !== 0) request.end();
}
