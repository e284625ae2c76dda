/** Which way to a server: straight, or through a proxy, by the rules that Docker and containerd have (Go's httpproxy). */
import { request as plainRequest, type ClientRequest } from 'node:http';
import { Agent as SecureAgent, request as secureRequest, type AgentOptions, type RequestOptions } from 'node:https';
import { BlockList, isIP } from 'node:net';
import type { Duplex } from 'node:stream';
import type { ProxyConfig } from '../../core/engine-config.js';
import { LayerdError } from '../../core/errors.js';
import { retryAfterMs } from './backoff.js';
import { connectionFailed, refused, unreachable } from './problems.js';
import type { TrustStore } from './trust.js';

/** The proxy for an address; null: there is none, or it is not to be used for this host. */
export function proxyFor(url: URL, { http, https, except }: ProxyConfig): URL | null {
  const proxy = url.protocol === 'https:' ? https : http;
  return proxy === null || isLoopback(url.hostname) || except.some((rule) => fits(rule, url)) ? null : new URL(proxy);
}

/** This machine: it is never reached through another, and may do without TLS. */
export function isLoopback(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || /^127(?:\.\d{1,3}){3}$/.test(hostname);
}

/** `*`, an address, a range of addresses (CIDR), a domain with all below it, or `.DOMAIN` for what is below it alone; with a port or without. */
function fits(rule: string, url: URL): boolean {
  if (rule === '*') return true;
  const host = url.hostname.replace(/^\[|\]$/g, '').toLowerCase();
  if (rule.includes('/')) return inRange(rule, host);
  const [, bracketed, bare = '', port] =
    /^(?:\[(.*)\]|(.*?))(?::(\d+))?$/.exec(isIP(rule) === 6 ? `[${rule}]` : rule) ?? [];
  if (port !== undefined && port !== portOf(url)) return false;
  const name = (bracketed ?? bare).toLowerCase().replace(/^\*(?=\.)/, '');
  if (name === '') return false;
  return name.startsWith('.') ? host.endsWith(name) : host === name || (isIP(host) === 0 && host.endsWith(`.${name}`));
}

function inRange(rule: string, host: string): boolean {
  const [network = '', bits = ''] = rule.split('/');
  const [family, hostFamily] = [isIP(network), isIP(host)];
  if (family === 0 || family !== hostFamily || !/^\d{1,3}$/.test(bits) || Number(bits) > (family === 4 ? 32 : 128)) {
    return false;
  }
  const type = family === 4 ? 'ipv4' : 'ipv6';
  const list = new BlockList();
  list.addSubnet(network, Number(bits), type);
  return list.check(host, type);
}

function portOf(url: URL): string {
  return url.port === '' ? (url.protocol === 'https:' ? '443' : '80') : url.port;
}

/** What a request says to a proxy of who we are. */
export function proxyHeaders(proxy: URL): Record<string, string> {
  if (proxy.username === '') return {};
  const who = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
  return { 'proxy-authorization': `Basic ${Buffer.from(who).toString('base64')}` };
}

/** Where a proxy listens, as options of a request. */
export async function toProxy(
  proxy: URL,
  trust: TrustStore,
): Promise<{ hostname: string; port: number; secureContext?: object; rejectUnauthorized?: boolean }> {
  const address = { hostname: proxy.hostname.replace(/^\[|\]$/g, ''), port: Number(portOf(proxy)) };
  if (proxy.protocol === 'http:') return address;
  const { secureContext, rejectUnauthorized } = await trust.of(proxy.host);
  return { ...address, secureContext, rejectUnauthorized };
}

/** Node looks at nothing else where there is an error. */
type Connected = (error: Error | null, stream?: Duplex) => void;

/** Connections by TLS to a server that lies behind a proxy, which sees what is said to nobody. */
export class TunnelAgent extends SecureAgent {
  private readonly proxy: URL;
  private readonly target: URL;
  private readonly trust: TrustStore;
  private readonly stallMs: number;

  constructor(way: { proxy: URL; target: URL; trust: TrustStore; stallMs: number }, options: AgentOptions) {
    super(options);
    this.proxy = way.proxy;
    this.target = way.target;
    this.trust = way.trust;
    this.stallMs = way.stallMs;
  }

  /** As Node calls it: the socket comes by the callback. */
  override createConnection(
    options: RequestOptions,
    connected?: (error: Error | null, stream: Duplex) => void,
  ): undefined {
    void this.connect(options, connected as Connected);
    return undefined;
  }

  private async connect(options: RequestOptions, connected: Connected): Promise<void> {
    try {
      const through: RequestOptions & { socket: Duplex } = { ...options, socket: await this.tunnel() };
      connected(null, super.createConnection(through) as Duplex);
    } catch (error) {
      connected(error as Error);
    }
  }

  private async tunnel(): Promise<Duplex> {
    const { proxy, target } = this;
    const place = `${target.hostname}:${portOf(target)}`;
    const options = {
      ...(await toProxy(proxy, this.trust)),
      method: 'CONNECT',
      path: place,
      headers: { host: place, ...proxyHeaders(proxy) },
      agent: false as const,
    };
    return new Promise((resolve, reject) => {
      const asked: ClientRequest = proxy.protocol === 'https:' ? secureRequest(options) : plainRequest(options);
      const limit = setTimeout(
        () => asked.destroy(unreachable(`the proxy ${proxy.host}`, `it did not go on for ${this.stallMs} ms`)),
        this.stallMs,
      );
      asked.once('connect', ({ statusCode = 0, headers }, socket) => {
        clearTimeout(limit);
        if (statusCode === 200) {
          resolve(socket);
          return;
        }
        socket.destroy();
        reject(proxyRefuses(proxy, statusCode, target, headers['retry-after']));
      });
      asked.once('error', (error) => {
        clearTimeout(limit);
        reject(error instanceof LayerdError ? error : connectionFailed(`the proxy ${proxy.host}`, error));
      });
      asked.end();
    });
  }
}

/** A proxy that wants to know who asks says so with 407. */
export function proxyRefuses(proxy: URL, status: number, target: URL, retryAfter = ''): LayerdError {
  const what = `the way to ${target.host}`;
  if (status !== 407) return refused(`the proxy ${proxy.host}`, status, what, '', retryAfterMs(retryAfter));
  return new LayerdError('REGISTRY_DENIED', `the proxy ${proxy.host} refuses ${what}: it wants to know who asks`, {
    details: { proxy: proxy.host, status },
    hint: 'Give its name and password: http://NAME:PASSWORD@HOST:PORT in registry.https_proxy or HTTPS_PROXY.',
  });
}
