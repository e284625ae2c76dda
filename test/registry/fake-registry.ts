/**
 * A registry that does what it should, over real HTTP, except where a test has it do something else: it sees every
 * request first and may answer it, or break the connection, in its own way.
 */
import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createSecureServer, type ServerOptions } from 'node:https';
import type { AddressInfo } from 'node:net';
import { sha256 } from '../../src/core/digest.js';
import type { TestImage } from '../unit/image-synthetic.js';

export interface Seen {
  method: string;
  path: string;
  query: URLSearchParams;
  headers: IncomingMessage['headers'];
  /** Bytes of the request's body that were taken. */
  body: Buffer;
}

/** True where the test has dealt with the request itself. */
export type Intercept = (seen: Seen, response: ServerResponse, request: IncomingMessage) => boolean;

interface Repo {
  blobs: Map<string, Buffer>;
  /** By digest, and by tag. */
  manifests: Map<string, { bytes: Buffer; type: string }>;
  uploads: Map<string, Buffer>;
}

export class FakeRegistry {
  readonly seen: Seen[] = [];
  /** Connections so far. */
  connections = 0;
  intercept: Intercept = () => false;
  /** Tokens that are good now; null: no token is needed. */
  tokens: Set<string> | null = null;
  /** Name and password that a token takes; null: none. */
  login: { username: string; password: string } | null = null;
  /** An identity token that takes tokens in the way of OAuth2. */
  identityToken: string | null = null;
  /** What the certificate is for, where that is not the address. */
  name = '127.0.0.1';
  /** Uploads move with every request. */
  movingUploads = false;
  /** Keeps track of subjects, as registries with the referrers API do. */
  referrersApi = true;
  private readonly repos = new Map<string, Repo>();
  private readonly server: Server;

  private readonly scheme: 'http' | 'https';

  private constructor(server: Server, scheme: 'http' | 'https') {
    this.server = server;
    this.scheme = scheme;
  }

  /** `tls`: behind TLS, with this certificate. */
  static async start(tls?: ServerOptions): Promise<FakeRegistry> {
    const server = tls === undefined ? createServer() : createSecureServer(tls);
    const registry = new FakeRegistry(server, tls === undefined ? 'http' : 'https');
    server.on('request', (request, response) => registry.receive(request, response));
    server.on('connection', () => (registry.connections += 1));
    server.on('clientError', (_error, socket) => socket.destroy());
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return registry;
  }

  get host(): string {
    return `${this.name}:${this.port}`;
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  /** Closes connections that nothing runs on, as servers do after a while. */
  closeIdle(): void {
    this.server.closeIdleConnections();
  }

  repo(name: string): Repo {
    const repo = this.repos.get(name) ?? { blobs: new Map(), manifests: new Map(), uploads: new Map() };
    this.repos.set(name, repo);
    return repo;
  }

  /** Puts an image there; `tag` null: by its digest alone. */
  add(name: string, tag: string | null, image: TestImage): void {
    const { blobs } = this.repo(name);
    blobs.set(image.id, image.config);
    for (const layer of image.layers) blobs.set(layer.digest, layer.blob);
    this.addManifest(name, tag, image.manifest, 'application/vnd.oci.image.manifest.v1+json');
  }

  addManifest(name: string, tag: string | null, bytes: Buffer, type: string): void {
    const { manifests } = this.repo(name);
    manifests.set(sha256(bytes), { bytes, type });
    if (tag !== null) manifests.set(tag, { bytes, type });
  }

  /** Requests so far, as `METHOD what`; those that only ask who we are left out. */
  asked(what: RegExp = /./): Seen[] {
    return this.seen.filter(({ method, path }) => what.test(`${method} ${path}`));
  }

  private receive(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? '/', 'http://fake');
    const seen: Seen = {
      method: request.method ?? '',
      path: url.pathname,
      query: url.searchParams,
      headers: request.headers,
      body: Buffer.alloc(0),
    };
    this.seen.push(seen);
    // what the test breaks, or we refuse early, is no failure of the server
    request.on('error', () => undefined);
    response.on('error', () => undefined);
    if (this.intercept(seen, response, request)) return;
    const asksToken = this.tokens !== null && seen.path === '/token';
    if (!asksToken && this.tokens !== null && this.refuses(seen, response)) return;
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      seen.body = Buffer.concat(chunks);
      if (asksToken) this.giveToken(seen, response);
      else this.answer(seen, response);
    });
  }

  private refuses(seen: Seen, response: ServerResponse): boolean {
    const token = seen.headers.authorization?.replace(/^Bearer /, '') ?? '';
    if (this.tokens?.has(token) === true) return false;
    const realm = `${this.scheme}://${this.host}/token`;
    response.writeHead(401, { 'www-authenticate': `Bearer realm="${realm}",service="fake",scope="extra"` }).end();
    return true;
  }

  private giveToken(seen: Seen, response: ServerResponse): void {
    const { login, identityToken } = this;
    if (seen.method === 'POST') {
      const form = new URLSearchParams(seen.body.toString());
      const right = form.get('grant_type') === 'refresh_token' && form.get('refresh_token') === identityToken;
      if (!right || (form.get('client_id') ?? '') === '' || form.get('service') !== 'fake') {
        this.json(response, 400, { error: 'invalid_grant' });
        return;
      }
      const token = randomUUID();
      this.tokens?.add(token);
      this.json(response, 200, { access_token: token, expires_in: 300, scope: form.get('scope') });
      return;
    }
    const wanted = login && `Basic ${Buffer.from(`${login.username}:${login.password}`).toString('base64')}`;
    if ((identityToken !== null && wanted === null) || (wanted !== null && seen.headers.authorization !== wanted)) {
      response.writeHead(401).end();
      return;
    }
    const token = randomUUID();
    this.tokens?.add(token);
    this.json(response, 200, { token, expires_in: 300 });
  }

  private answer(seen: Seen, response: ServerResponse): void {
    const match = /^\/v2\/(.+)\/(manifests|blobs|tags|referrers)\/(.+)$/.exec(seen.path);
    if (seen.path === '/v2/') response.writeHead(200).end();
    else if (match === null) this.refuse(response, 404, 'NAME_UNKNOWN');
    else {
      const [, name = '', kind = '', rest = ''] = match;
      if (kind === 'manifests') this.manifest(seen, response, this.repo(name), rest);
      else if (kind === 'tags') this.tags(seen, response, name);
      else if (kind === 'referrers') this.referrers(response, this.repo(name), rest);
      else if (rest.startsWith('uploads/')) this.upload(seen, response, name, rest.slice('uploads/'.length));
      else this.blob(seen, response, this.repo(name), rest);
    }
  }

  private manifest(seen: Seen, response: ServerResponse, repo: Repo, reference: string): void {
    if (seen.method === 'PUT') {
      const type = seen.headers['content-type'] ?? '';
      const digest = sha256(seen.body);
      for (const name of [digest, reference]) repo.manifests.set(name, { bytes: seen.body, type });
      const { subject } = JSON.parse(seen.body.toString()) as { subject?: { digest: string } };
      const kept = subject !== undefined && this.referrersApi ? { 'oci-subject': subject.digest } : {};
      response.writeHead(201, { 'docker-content-digest': digest, location: seen.path, ...kept }).end();
      return;
    }
    const found = repo.manifests.get(reference);
    if (found === undefined) return this.refuse(response, 404, 'MANIFEST_UNKNOWN');
    response.writeHead(200, {
      'content-type': found.type,
      'content-length': found.bytes.length,
      'docker-content-digest': sha256(found.bytes),
    });
    response.end(seen.method === 'HEAD' ? undefined : found.bytes);
  }

  private blob(seen: Seen, response: ServerResponse, repo: Repo, digest: string): void {
    const bytes = repo.blobs.get(digest);
    if (bytes === undefined) return this.refuse(response, 404, 'BLOB_UNKNOWN');
    const from = Number(/^bytes=(\d+)-$/.exec(seen.headers.range ?? '')?.[1] ?? -1);
    if (from < 0) response.writeHead(200, { 'content-length': bytes.length });
    else if (from >= bytes.length) return this.refuse(response, 416, 'RANGE_INVALID');
    else {
      const range = `bytes ${from}-${bytes.length - 1}/${bytes.length}`;
      response.writeHead(206, { 'content-length': bytes.length - from, 'content-range': range });
    }
    response.end(seen.method === 'HEAD' ? undefined : bytes.subarray(Math.max(0, from)));
  }

  private upload(seen: Seen, response: ServerResponse, name: string, id: string): void {
    const repo = this.repo(name);
    if (seen.method === 'POST') return this.beginUpload(seen, response, name);
    const upload = repo.uploads.get(id);
    if (upload === undefined) return this.refuse(response, 404, 'BLOB_UPLOAD_UNKNOWN');
    if (seen.method === 'GET') return this.uploadState(response, name, id, 204);
    const from = Number(/^(\d+)-/.exec(seen.headers['content-range'] ?? '')?.[1] ?? upload.length);
    if (from !== upload.length) return this.uploadState(response, name, id, 416);
    const grown = Buffer.concat([upload, seen.body]);
    repo.uploads.delete(id);
    if (seen.method === 'PATCH') {
      const next = this.movingUploads ? randomUUID() : id;
      repo.uploads.set(next, grown);
      return this.uploadState(response, name, next, 202);
    }
    const digest = seen.query.get('digest') ?? '';
    if (sha256(grown) !== digest) return this.refuse(response, 400, 'DIGEST_INVALID');
    repo.blobs.set(digest, grown);
    response.writeHead(201, { location: `/v2/${name}/blobs/${digest}` }).end();
  }

  private beginUpload(seen: Seen, response: ServerResponse, name: string): void {
    const repo = this.repo(name);
    const [mount, from] = [seen.query.get('mount'), seen.query.get('from')];
    const bytes = mount === null || from === null ? undefined : this.repo(from).blobs.get(mount);
    if (mount !== null && bytes !== undefined) {
      repo.blobs.set(mount, bytes);
      response.writeHead(201, { location: `/v2/${name}/blobs/${mount}` }).end();
      return;
    }
    const id = randomUUID();
    repo.uploads.set(id, Buffer.alloc(0));
    this.uploadState(response, name, id, 202);
  }

  private uploadState(response: ServerResponse, name: string, id: string, status: number): void {
    const bytes = this.repo(name).uploads.get(id)?.length ?? 0;
    // relative, and with a query of its own, which has to come back
    const headers = { location: `/v2/${name}/blobs/uploads/${id}?state=a%2Fb`, range: `0-${Math.max(0, bytes - 1)}` };
    response.writeHead(status, headers).end();
  }

  private tags(seen: Seen, response: ServerResponse, name: string): void {
    const all = [...this.repo(name).manifests.keys()].filter((key) => !key.includes(':')).sort();
    const last = seen.query.get('last') ?? '';
    const page = all.filter((tag) => tag > last).slice(0, 2);
    const more = page.at(-1) !== all.at(-1);
    const link = `</v2/${name}/tags/list?last=${page.at(-1) ?? ''}&n=2>; rel="next"`;
    this.json(response, 200, { name, tags: page }, more ? { link } : {});
  }

  private referrers(response: ServerResponse, repo: Repo, digest: string): void {
    if (!this.referrersApi) return this.refuse(response, 404, 'NOT_FOUND');
    const unique = new Map([...repo.manifests.values()].map(({ bytes, type }) => [sha256(bytes), { bytes, type }]));
    const manifests = [...unique].flatMap(([key, { bytes, type }]) => {
      const { subject } = JSON.parse(bytes.toString()) as { subject?: { digest: string } };
      return subject?.digest === digest ? [{ mediaType: type, digest: key, size: bytes.length }] : [];
    });
    const type = 'application/vnd.oci.image.index.v1+json';
    this.json(response, 200, { schemaVersion: 2, mediaType: type, manifests }, { 'content-type': type });
  }

  private refuse(response: ServerResponse, status: number, code: string): void {
    this.json(response, status, { errors: [{ code, message: 'so says the test' }] });
  }

  private json(response: ServerResponse, status: number, document: object, headers: Record<string, string> = {}): void {
    const bytes = Buffer.from(JSON.stringify(document));
    response.writeHead(status, { 'content-type': 'application/json', 'content-length': bytes.length, ...headers });
    response.end(bytes);
  }
}
