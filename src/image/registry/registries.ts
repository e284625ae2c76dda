/** The registries of a daemon: what it was told of them, the connections that it keeps, who it is to them. */
import { createHash } from 'node:crypto';
import type { RegistryConfig } from '../../core/engine-config.js';
import type { Reference } from '../../core/reference.js';
import type { Credentials } from '../../core/words.js';
import { storedCredentials } from './credentials.js';
import { Endpoint } from './endpoint.js';
import { Http } from './http.js';
import { Repository } from './repository.js';
import { Transfers } from './transfers.js';
import { TrustStore } from './trust.js';

/** Endpoints (and with them tokens) that are kept; the one that was used longest ago goes first. */
const KEPT_ENDPOINTS = 64;

export class Registries {
  readonly config: RegistryConfig;
  /** For everything that is fetched or sent. */
  readonly transfers: Transfers;
  private readonly trust: TrustStore;
  private readonly http: Http;
  private readonly endpoints = new Map<string, Endpoint>();

  constructor(config: RegistryConfig) {
    this.config = config;
    this.transfers = new Transfers(config.transfers);
    this.trust = new TrustStore(config.certificates, config.insecure);
    this.http = new Http(this.trust, config);
  }

  /** The repository itself. `credentials` null: those of the configuration file. */
  repository({ domain, path }: Reference, credentials: Credentials | null): Repository {
    return new Repository(this.endpoint(domain, domain, credentials), path);
  }

  /** Where to look for what is in a repository: its mirrors, then itself. What the caller is, is told to the registry only. */
  places(reference: Reference, credentials: Credentials | null): Repository[] {
    const mirrors = this.config.mirrors.filter(({ registry }) => registry === reference.domain);
    return [
      ...mirrors.map(({ url }) => {
        const place = new URL(url);
        return new Repository(this.endpoint(place, place.host, null), reference.path);
      }),
      this.repository(reference, credentials),
    ];
  }

  close(): Promise<void> {
    return this.http.close();
  }

  private endpoint(place: string | URL, domain: string, given: Credentials | null): Endpoint {
    const who = createHash('sha256').update(JSON.stringify(given)).digest('hex');
    const key = `${String(place)} ${who}`;
    const credentials = (): Promise<Credentials | null> =>
      given === null ? storedCredentials(this.config.credentialsFile, domain) : Promise.resolve(given);
    const parts = { http: this.http, trust: this.trust, policy: this.config };
    const endpoint = this.endpoints.get(key) ?? new Endpoint(parts, place, credentials);
    this.endpoints.delete(key);
    this.endpoints.set(key, endpoint);
    const [oldest] = this.endpoints.keys();
    if (this.endpoints.size > KEPT_ENDPOINTS && oldest !== undefined) this.endpoints.delete(oldest);
    return endpoint;
  }
}
