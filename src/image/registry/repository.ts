/** What a registry has under one name: manifests, blobs, tags, referrers (distribution specification, "Endpoints"). */
import { sha256, type Digest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import { LIMITS } from '../../core/limits.js';
import type { StoredDocument } from '../host.js';
import { parseJson } from '../json.js';
import { MEDIA_TYPES } from '../types.js';
import type { Answer } from './answer.js';
import { bufferBody } from './authorizer.js';
import { locationOf, type Ask, type Endpoint, type TransferWatch } from './endpoint.js';
import { resolveLocation } from './http.js';
import { protocolError } from './problems.js';

const MANIFESTS = [
  MEDIA_TYPES.ociIndex,
  MEDIA_TYPES.ociManifest,
  MEDIA_TYPES.dockerList,
  MEDIA_TYPES.dockerManifest,
  MEDIA_TYPES.ociArtifact,
].join(', ');

const TAGS_PER_PAGE = 1000;
/** More pages than this are no list of tags, but a registry that goes round in circles. */
const MAX_PAGES = 1000;

export type RemoteManifest = StoredDocument & { mediaType: string };

/** What a manifest is known by without its bytes. */
export interface ManifestHead {
  digest: Digest;
  mediaType: string;
}

/** Where an upload goes on. */
export interface UploadPlace {
  at: URL;
  /** Fewer bytes than this the registry takes in its last request only. */
  leastChunk: number;
}

export class Repository {
  readonly endpoint: Endpoint;
  /** The path on the registry, such as `library/debian`. */
  readonly path: string;
  private readonly pull: string[];
  private readonly push: string[];

  constructor(endpoint: Endpoint, path: string) {
    this.endpoint = endpoint;
    this.path = path;
    this.pull = [`repository:${path}:pull`];
    this.push = [`repository:${path}:pull,push`];
  }

  get label(): string {
    return `${this.endpoint.host}/${this.path}`;
  }

  /** `reference`: a tag or a digest; null where there is none. Throws BLOB_DIGEST_MISMATCH where it is not what it should be. */
  async manifest(reference: string, watch: TransferWatch): Promise<RemoteManifest | null> {
    const answer = await this.ask('GET', `manifests/${reference}`, watch, { expect: [200, 404], accept: MANIFESTS });
    if (answer.status === 404) {
      await answer.discard();
      return null;
    }
    const bytes = await answer.bytes(LIMITS.jsonDocument);
    const digest = sha256(bytes);
    const promised = reference.includes(':') ? reference : answer.header('docker-content-digest');
    if (promised.startsWith('sha256:') && promised !== digest) throw wrongManifest(this.label, promised, digest);
    return { bytes, digest, mediaType: mediaTypeOf(answer) };
  }

  /** What a tag (or digest) leads to now, without fetching it where the registry tells; null where there is nothing. */
  async manifestHead(reference: string, watch: TransferWatch): Promise<ManifestHead | null> {
    const answer = await this.ask('HEAD', `manifests/${reference}`, watch, { expect: [200, 404], accept: MANIFESTS });
    await answer.discard();
    if (answer.status === 404) return null;
    const digest = answer.header('docker-content-digest');
    if (/^sha256:[0-9a-f]{64}$/.test(digest)) return { digest: digest as Digest, mediaType: mediaTypeOf(answer) };
    return this.manifest(reference, watch);
  }

  /** Uploads a manifest byte for byte; tells whether the registry keeps track of what refers to its subject. */
  async putManifest(reference: string, manifest: RemoteManifest, watch: TransferWatch): Promise<{ subject: boolean }> {
    const answer = await this.endpoint.request(
      {
        method: 'PUT',
        at: this.at(`manifests/${reference}`),
        headers: { 'content-type': manifest.mediaType },
        body: bufferBody(manifest.bytes),
        scopes: this.push,
        expect: [200, 201],
        what: `the manifest ${this.path}:${reference}`,
      },
      watch,
    );
    await answer.discard();
    const stored = answer.header('docker-content-digest');
    if (stored.startsWith('sha256:') && stored !== manifest.digest) {
      throw wrongManifest(this.label, manifest.digest, stored);
    }
    return { subject: answer.header('oci-subject') !== '' };
  }

  /** The answer to a GET of a blob from `offset` on: 206, or 200 where the registry gives all of it whatever is asked. */
  blob(digest: Digest, offset: number, watch: TransferWatch): Promise<Answer> {
    const headers: Record<string, string> = offset === 0 ? {} : { range: `bytes=${offset}-` };
    return this.ask('GET', `blobs/${digest}`, watch, { expect: [200, 206], headers, once: true });
  }

  /** Whether the repository has the blob. */
  async hasBlob(digest: Digest, watch: TransferWatch): Promise<boolean> {
    const answer = await this.ask('HEAD', `blobs/${digest}`, watch, { expect: [200, 404] });
    await answer.discard();
    return answer.status === 200;
  }

  /** Begins an upload, or has the blob taken over from another repository: null where that was possible. */
  async beginUpload(watch: TransferWatch, mount?: { digest: Digest; from: string }): Promise<UploadPlace | null> {
    const query = mount === undefined ? '' : `?mount=${mount.digest}&from=${encodeURIComponent(mount.from)}`;
    const answer = await this.endpoint.request(
      {
        method: 'POST',
        at: this.at(`blobs/uploads/${query}`),
        headers: { 'content-length': '0' },
        scopes: mount === undefined ? this.push : [...this.push, `repository:${mount.from}:pull`],
        expect: mount === undefined ? [202] : [201, 202],
        what: `an upload to ${this.path}`,
      },
      watch,
    );
    await answer.discard();
    if (answer.status === 201) return null;
    return { at: locationOf(answer), leastChunk: Number(answer.header('oci-chunk-min-length')) || 0 };
  }

  /** A request to the place of an upload. */
  upload(
    ask: Pick<Ask, 'method' | 'at' | 'headers' | 'body' | 'expect' | 'once'>,
    watch: TransferWatch,
  ): Promise<Answer> {
    return this.endpoint.request({ ...ask, scopes: this.push, what: `an upload to ${this.path}` }, watch);
  }

  /** Every tag, as the registry orders them. */
  async *tags(watch: TransferWatch): AsyncGenerator<string> {
    let at: string | URL = this.at(`tags/list?n=${TAGS_PER_PAGE}`);
    for (let page = 0; page < MAX_PAGES; page += 1) {
      const answer = await this.endpoint.request(
        { method: 'GET', at, scopes: this.pull, expect: [200], what: `the tags of ${this.path}` },
        watch,
      );
      const document = parseJson(`the tags of ${this.label}`, await answer.bytes(LIMITS.jsonDocument));
      yield* document.at('tags').texts();
      const next = nextPage(answer);
      if (next === null) return;
      at = next;
    }
    throw protocolError(this.endpoint.host, `more than ${MAX_PAGES} pages of tags`);
  }

  /** The index of what refers to a manifest; null where the registry does not keep such (then a tag may: see referrersTag). */
  async referrers(digest: Digest, watch: TransferWatch): Promise<RemoteManifest | null> {
    const answer = await this.ask('GET', `referrers/${digest}`, watch, { expect: [200, 404, 405, 400] });
    if (answer.status !== 200 || mediaTypeOf(answer) !== MEDIA_TYPES.ociIndex) {
      await answer.discard();
      return null;
    }
    const bytes = await answer.bytes(LIMITS.jsonDocument);
    return { bytes, digest: sha256(bytes), mediaType: MEDIA_TYPES.ociIndex };
  }

  private ask(
    method: 'GET' | 'HEAD',
    what: string,
    watch: TransferWatch,
    options: { expect: number[]; accept?: string; headers?: Record<string, string>; once?: boolean },
  ): Promise<Answer> {
    const { expect, accept, headers, once = false } = options;
    const all = { ...headers, ...(accept === undefined ? {} : { accept }) };
    const name = `${what.replace('/', ' ')} of ${this.path}`;
    return this.endpoint.request(
      { method, at: this.at(what), headers: all, scopes: this.pull, expect, what: name, once },
      watch,
    );
  }

  private at(what: string): string {
    return `/v2/${this.path}/${what}`;
  }
}

/** Where registries without the referrers API have the index of what refers to a manifest. */
export function referrersTag(digest: Digest): string {
  return digest.replace(':', '-');
}

function mediaTypeOf(answer: Answer): string {
  return answer.header('content-type').split(';')[0]?.trim() ?? '';
}

/** The `next` of a Link header (RFC 8288); only on the same registry. */
function nextPage(answer: Answer): URL | null {
  const link = /<([^>]*)>\s*;\s*rel="?next"?/i.exec(answer.header('link'))?.[1];
  if (link === undefined) return null;
  const next = resolveLocation(answer.url, link);
  if (next.origin !== answer.url.origin)
    throw protocolError(answer.url.host, `its next page of tags is at ${next.host}`);
  return next;
}

function wrongManifest(label: string, expected: string, found: string): LayerdError {
  return new LayerdError('BLOB_DIGEST_MISMATCH', `the manifest of ${label} is ${found}, expected ${expected}`, {
    details: { repository: label, expected, found },
    hint: 'The registry, or something between, changes what it hands on: try again, or ask who runs it.',
  });
}
