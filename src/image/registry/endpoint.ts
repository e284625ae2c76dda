/** One registry, or a mirror of one: requests with the authorization that it wants, tried again while failures may pass. */
import { setMaxListeners } from 'node:events';
import type { OnProgress } from '../../core/api.js';
import type { Digest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import type { Credentials } from '../../core/words.js';
import type { Answer } from './answer.js';
import { Authorizer, type Scopes } from './authorizer.js';
import { Backoff, retryAfterMs, type OnPause, type RetryPolicy } from './backoff.js';
import { resolveLocation, type Exchange, type Http } from './http.js';
import { refused } from './problems.js';
import { isLoopback } from './proxy.js';
import type { TrustStore } from './trust.js';

/** Where Docker's registry really is. */
const DOCKER_HUB_HOST = 'registry-1.docker.io';
const ERROR_DOCUMENT_BYTES = 64 * 1024;
/** Failures of a first contact that say that nobody is there: waiting would only hide a wrong name. */
const NOBODY_THERE = new Set<unknown>(['ENOTFOUND', 'EAI_AGAIN', 'ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH']);

/** How a transfer is watched and ended. */
export interface TransferWatch {
  signal: AbortSignal;
  onPause: OnPause;
  /** A transfer waits until others are done. */
  onQueue: (subject: Digest, total: number) => void;
}

/** A watch whose pauses are told as progress: what is waited for, and for how many milliseconds; and so is what has to wait its turn. */
export function transferWatch(progress: OnProgress, signal: AbortSignal): TransferWatch {
  const onPause = (error: LayerdError, pauseMs: number): void =>
    progress({ phase: 'wait', subject: error.message, done: Math.round(pauseMs), total: Math.round(pauseMs) });
  // each transfer listens
  setMaxListeners(0, signal);
  const onQueue = (subject: Digest, total: number): void => progress({ phase: 'queue', subject, done: 0, total });
  return { signal, onPause, onQueue };
}

export interface Ask {
  method: Exchange['method'];
  /** A path below the base, or a Location that the registry gave, as it gave it. */
  at: string | URL;
  headers?: Record<string, string>;
  body?: Exchange['body'];
  scopes: Scopes;
  /** Statuses that the caller deals with; every other is thrown. */
  expect: readonly number[];
  /** What errors call it. */
  what: string;
  /** A failure is thrown at once: the caller has to find out first how far it came. */
  once?: boolean;
}

export class Endpoint {
  /** Host, and port where it is not the usual one, as people write it. */
  readonly host: string;
  private readonly http: Http;
  private readonly trust: TrustStore;
  private readonly policy: RetryPolicy;
  private readonly credentials: () => Promise<Credentials | null>;
  private readonly given: URL | null;
  private opened: Promise<{ base: URL; authorizer: Authorizer }> | null = null;
  private answered = false;

  /** `place`: a registry as references name it, or the address of a mirror. */
  constructor(
    parts: { http: Http; trust: TrustStore; policy: RetryPolicy },
    place: string | URL,
    credentials: () => Promise<Credentials | null>,
  ) {
    this.http = parts.http;
    this.trust = parts.trust;
    this.policy = parts.policy;
    this.credentials = credentials;
    this.given = typeof place === 'string' ? null : place;
    this.host = typeof place === 'string' ? (place === 'docker.io' ? DOCKER_HUB_HOST : place) : place.host;
  }

  /** Failures of one undertaking are counted together. */
  backoff({ signal, onPause }: TransferWatch): Backoff {
    return new Backoff(this.policy, signal, onPause);
  }

  /** Throws REGISTRY_*, CREDENTIALS_INVALID, CANCELLED. */
  async request(ask: Ask, watch: TransferWatch): Promise<Answer> {
    const backoff = this.backoff(watch);
    for (;;) {
      try {
        return await this.authorized(ask, watch.signal);
      } catch (error) {
        if (ask.once === true || this.nobodyThere(error)) throw error;
        await backoff.pause(error);
      }
    }
  }

  private nobodyThere(error: unknown): boolean {
    return !this.answered && error instanceof LayerdError && NOBODY_THERE.has(error.details['reason']);
  }

  private async authorized(ask: Ask, signal: AbortSignal): Promise<Answer> {
    const { base, authorizer } = await this.open(signal);
    const url = typeof ask.at === 'string' ? new URL(`${prefixOf(base)}${ask.at}`, base) : ask.at;
    // what we are is told to the registry itself only, wherever it has us go
    const known = url.origin === base.origin ? await authorizer.header(ask.scopes, signal) : null;
    const first = await this.send(ask, url, known, signal);
    if (first.status !== 401 || url.origin !== base.origin) return this.checked(ask, first);
    await first.discard();
    const header = await authorizer.answer(first, ask.scopes, known, signal);
    const second = await this.send(ask, url, header, signal);
    if (second.status !== 401) return this.checked(ask, second);
    await second.discard();
    throw await authorizer.rejected();
  }

  private async send(ask: Ask, url: URL, authorization: string | null, signal: AbortSignal): Promise<Answer> {
    const { method, headers, body } = ask;
    const answer = await this.http.send(
      {
        method,
        url,
        headers: { ...headers, ...(authorization === null ? {} : { authorization }) },
        ...(body === undefined ? {} : { body }),
      },
      signal,
    );
    this.answered = true;
    return answer;
  }

  private async checked(ask: Ask, answer: Answer): Promise<Answer> {
    if (ask.expect.includes(answer.status)) return answer;
    const said = ask.method === 'HEAD' ? '' : saidBy(await answer.bytes(ERROR_DOCUMENT_BYTES).catch(() => null));
    throw refused(this.host, answer.status, ask.what, said, retryAfterMs(answer.header('retry-after')));
  }

  private open(signal: AbortSignal): Promise<{ base: URL; authorizer: Authorizer }> {
    this.opened ??= this.findBase(signal).then((base) => ({
      base,
      authorizer: new Authorizer(this.http, base, this.credentials),
    }));
    this.opened.catch(() => (this.opened = null));
    return this.opened;
  }

  /** TLS, but for registries that may do without: those are asked whether they speak it. */
  private async findBase(signal: AbortSignal): Promise<URL> {
    if (this.given !== null) return this.given;
    const secure = new URL(`https://${this.host}`);
    if (!isLoopback(secure.hostname) && !this.trust.isInsecure(this.host)) return secure;
    const speaks = await this.http.speaksTls(new URL('/v2/', secure), signal);
    return speaks ? secure : new URL(`http://${this.host}`);
  }
}

/** The Location of an answer, which may be relative. */
export function locationOf(answer: Answer): URL {
  return resolveLocation(answer.url, answer.header('location'));
}

/** What a mirror's address has behind its host, in front of /v2/. */
function prefixOf(base: URL): string {
  return base.pathname.replace(/\/+$/, '');
}

/** The errors of a registry's own document (distribution specification, "Error Codes"), as one line. */
function saidBy(bytes: Buffer | null): string {
  let document: unknown;
  try {
    document = JSON.parse(bytes?.toString('utf8') ?? '');
  } catch {
    return ''; // a proxy's page, or nothing: the status says enough
  }
  const errors = (document as { errors?: unknown } | null)?.errors;
  if (!Array.isArray(errors)) return '';
  const lines = errors.map((error: { code?: unknown; message?: unknown } | null) =>
    [error?.code, error?.message].filter((part) => typeof part === 'string' && part !== '').join(': '),
  );
  return lines.join('; ').slice(0, 300);
}
