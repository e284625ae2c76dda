/**
 * What goes into the Authorization header for one registry: nothing, a name and password, or tokens, which are fetched
 * when the registry challenges us, kept while they are good, and fetched anew when they are not any more. (The token
 * authentication of distribution: a GET, or a POST in the way of OAuth2 where we have an identity token.)
 */
import { bytesSource } from '../../content/bytes-source.js';
import type { Credentials } from '../../core/words.js';
import { LayerdError } from '../../core/errors.js';
import { parseJson } from '../json.js';
import type { Answer } from './answer.js';
import { retryAfterMs } from './backoff.js';
import { parseChallenges, type Challenge } from './challenge.js';
import type { Exchange, Http } from './http.js';
import { protocolError, refused } from './problems.js';

const TOKEN_DOCUMENT_BYTES = 1024 * 1024;
/** What the specification has a token live where nothing is said. */
const DEFAULT_LIFE_MS = 60_000;
const CLIENT_ID = 'layerd';

interface Token {
  header: string;
  /** Used no longer than this; ms as performance.now() has them. */
  until: number;
}

/** What is to be done with which repositories, such as `repository:library/debian:pull`. */
export type Scopes = readonly string[];

export class Authorizer {
  private readonly http: Http;
  private readonly base: URL;
  private readonly credentials: () => Promise<Credentials | null>;
  private readonly tokens = new Map<string, Token>();
  private readonly fetching = new Map<string, Promise<Token>>();
  /** How the registry told us to get tokens. */
  private challenge: Challenge | null = null;
  /** The registry wants name and password with every request. */
  private basic: string | null = null;

  constructor(http: Http, base: URL, credentials: () => Promise<Credentials | null>) {
    this.http = http;
    this.base = base;
    this.credentials = credentials;
  }

  /** The header for a request, as far as the registry has told what it wants; null: none. */
  async header(scopes: Scopes, signal: AbortSignal): Promise<string | null> {
    const token = this.tokens.get(keyOf(scopes));
    if (token !== undefined && token.until > performance.now()) return token.header;
    return this.challenge === null ? this.basic : (await this.token(this.challenge, scopes, signal)).header;
  }

  /**
   * The header that answers a 401. `used` is what the request had: where that is not what we have now, somebody has
   * answered meanwhile. Throws REGISTRY_DENIED where there is nothing (more) to answer.
   */
  async answer(challenged: Answer, scopes: Scopes, used: string | null, signal: AbortSignal): Promise<string> {
    const present = this.tokens.get(keyOf(scopes))?.header ?? this.basic;
    if (present !== null && present !== used) return present;
    const challenges = challenged.headers('www-authenticate').flatMap(parseChallenges);
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    if (bearer !== undefined) {
      this.challenge = bearer;
      return (await this.token(bearer, scopes, signal)).header;
    }
    if (!challenges.some(({ scheme }) => scheme === 'basic')) throw refused(this.base.host, 401, 'access', '', null);
    const credentials = await this.credentials();
    if (credentials === null || !('username' in credentials)) throw this.loginNeeded();
    const header = basicHeader(credentials);
    this.basic = header;
    return header;
  }

  /** What is to be said where the answer to a challenge did not help. */
  async rejected(): Promise<LayerdError> {
    const credentials = await this.credentials();
    const who =
      credentials === null ? 'us without credentials' : 'username' in credentials ? credentials.username : 'us';
    return new LayerdError('REGISTRY_DENIED', `${this.base.host} does not let ${who} in`, {
      details: { registry: this.base.host },
      hint: 'Look at the credentials: those given, or those in registry.credentials_file.',
    });
  }

  /** One fetch for all who ask at the same time. */
  private token(challenge: Challenge, scopes: Scopes, signal: AbortSignal): Promise<Token> {
    const key = keyOf(scopes);
    const fetching = this.fetching.get(key);
    if (fetching !== undefined) return fetching;
    const fetched = this.fetchToken(challenge, scopes, signal).finally(() => this.fetching.delete(key));
    this.fetching.set(key, fetched);
    void fetched.then(
      (token) => this.tokens.set(key, token),
      () => undefined,
    );
    return fetched;
  }

  private async fetchToken({ parameters }: Challenge, scopes: Scopes, signal: AbortSignal): Promise<Token> {
    const realm = parameters.get('realm') ?? '';
    if (!this.isRealm(realm))
      throw protocolError(this.base.host, `a challenge with the realm ${JSON.stringify(realm)}`);
    const all = [
      ...new Set([...scopes, ...(parameters.get('scope') ?? '').split(' ').filter((scope) => scope !== '')]),
    ];
    const credentials = await this.credentials();
    const asked = performance.now();
    const answer = await this.http.send(
      tokenRequest(new URL(realm), parameters.get('service') ?? '', all, credentials),
      signal,
    );
    if (answer.status !== 200) {
      await answer.discard();
      const who = credentials === null ? 'access without a login' : 'access with these credentials';
      const status = answer.status === 400 ? 401 : answer.status;
      throw refused(answer.url.host, status, who, '', retryAfterMs(answer.header('retry-after')));
    }
    const document = parseJson(`the token of ${answer.url.host}`, await answer.bytes(TOKEN_DOCUMENT_BYTES));
    const token = document.at('token').optionalText() ?? document.at('access_token').optionalText() ?? '';
    if (!/^[\x21-\x7e]+$/.test(token)) throw protocolError(answer.url.host, 'an answer without a token');
    const seconds = document.at('expires_in').value;
    const life = typeof seconds === 'number' && seconds > 0 ? seconds * 1000 : DEFAULT_LIFE_MS;
    // fetched anew somewhat early: a token must not end on its way
    return { header: `Bearer ${token}`, until: asked + life * 0.9 };
  }

  /** A registry that is spoken to by TLS may not have us tell a password without. */
  private isRealm(realm: string): boolean {
    if (!URL.canParse(realm)) return false;
    const { protocol } = new URL(realm);
    return protocol === 'https:' || (protocol === 'http:' && this.base.protocol === 'http:');
  }

  private loginNeeded(): LayerdError {
    return new LayerdError(
      'REGISTRY_DENIED',
      `${this.base.host} wants to know who asks, and there are no credentials for it`,
      {
        details: { registry: this.base.host },
        hint: 'Give them (--username with --password-stdin, or --creds), or log in with docker or podman as the user of the daemon.',
      },
    );
  }
}

function tokenRequest(realm: URL, service: string, scopes: Scopes, credentials: Credentials | null): Exchange {
  if (credentials !== null && 'identityToken' in credentials) {
    const form = new URLSearchParams({
      grant_type: 'refresh_token',
      refresh_token: credentials.identityToken,
      client_id: CLIENT_ID,
      service,
      scope: scopes.join(' '),
    });
    const body = Buffer.from(form.toString());
    return {
      method: 'POST',
      url: realm,
      headers: { 'content-type': 'application/x-www-form-urlencoded', accept: 'application/json' },
      body: bufferBody(body),
    };
  }
  const url = new URL(realm);
  if (service !== '') url.searchParams.set('service', service);
  for (const scope of scopes) url.searchParams.append('scope', scope);
  const headers: Record<string, string> = { accept: 'application/json' };
  if (credentials !== null) {
    url.searchParams.set('account', credentials.username);
    headers['authorization'] = basicHeader(credentials);
  }
  return { method: 'GET', url, headers };
}

/** Bytes in memory as the body of a request. */
export function bufferBody(bytes: Buffer): NonNullable<Exchange['body']> {
  return { length: bytes.length, open: () => bytesSource(bytes) };
}

function basicHeader({ username, password }: { username: string; password: string }): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

function keyOf(scopes: Scopes): string {
  return [...scopes].sort().join(' ');
}
