/**
 * Image references as Docker writes them (the grammar of distribution/reference): what people type is short
 * (`busybox`), what is stored is whole (`docker.io/library/busybox:latest`).
 */
import { isDigest, type Digest } from './digest.js';
import { LayerdError } from './errors.js';
import { LIMITS } from './limits.js';

export interface Reference {
  /** The registry: host name or address, with its port if it has one. */
  domain: string;
  /** The repository's path on that registry. */
  path: string;
  tag: string | null;
  digest: Digest | null;
}

const DEFAULT_DOMAIN = 'docker.io';
const LEGACY_DEFAULT_DOMAIN = 'index.docker.io';
const OFFICIAL_PREFIX = 'library/';
const DEFAULT_TAG = 'latest';

const DOMAIN_LABEL = '(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])';
const DOMAIN = new RegExp(`^(?:${DOMAIN_LABEL}(?:\\.${DOMAIN_LABEL})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?$`);
const PATH_COMPONENT = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$/;
const TAG = /^\w[\w.-]{0,127}$/;
const BARE_ID = /^[0-9a-f]{64}$/;

/**
 * Parses what a person or an archive calls an image. The domain and `library/` are filled in; the tag is not: see
 * {@link normalizeReference}. Throws INVALID_REFERENCE.
 */
export function parseReference(text: string): Reference {
  if (BARE_ID.test(text)) throw invalid(text, 'it is an image id, which cannot be a name');
  const { rest: tagged, digest } = splitDigest(text);
  const { name, tag } = splitTag(tagged);
  if (name === '') throw invalid(text, 'the name is empty');
  if (tag !== null && !TAG.test(tag)) throw invalid(text, `the tag ${JSON.stringify(tag)} is not valid`);
  const { domain, path } = splitDomain(name);
  if (!DOMAIN.test(domain)) throw invalid(text, `the registry ${JSON.stringify(domain)} is not a host name`);
  const wrong = path.split('/').find((component) => !PATH_COMPONENT.test(component));
  if (wrong !== undefined) throw invalid(text, describeComponent(wrong));
  if (domain.length + 1 + path.length > LIMITS.referenceName) {
    throw invalid(text, `the name is longer than ${LIMITS.referenceName} characters`);
  }
  return { domain, path, tag, digest };
}

/** The whole form, with `:latest` where neither tag nor digest is given. Throws INVALID_REFERENCE. */
export function normalizeReference(text: string): string {
  const reference = parseReference(text);
  if (reference.tag === null && reference.digest === null) reference.tag = DEFAULT_TAG;
  return formatReference(reference);
}

export function formatReference(reference: Reference): string {
  return `${reference.domain}/${suffixed(reference.path, reference)}`;
}

/** The short form for people: without `docker.io/` and `library/`, where reading it again gives the same reference. */
export function familiarReference(text: string): string {
  const reference = parseReference(text);
  return suffixed(familiarName(reference), reference);
}

/** The short form of the repository alone: no tag, no digest. */
export function familiarName(reference: Reference): string {
  const { domain, path } = reference;
  if (domain !== DEFAULT_DOMAIN) return `${domain}/${path}`;
  const short = path.slice(OFFICIAL_PREFIX.length);
  if (!path.startsWith(OFFICIAL_PREFIX) || short.includes('/')) return path;
  // A repository whose path alone looks like an image id would not parse again.
  return BARE_ID.test(short) && reference.tag === null && reference.digest === null ? path : short;
}

function suffixed(name: string, { tag, digest }: Reference): string {
  return `${name}${tag === null ? '' : `:${tag}`}${digest === null ? '' : `@${digest}`}`;
}

function splitDigest(text: string): { rest: string; digest: Digest | null } {
  const at = text.indexOf('@');
  if (at < 0) return { rest: text, digest: null };
  const digest = text.slice(at + 1);
  if (!isDigest(digest)) throw invalid(text, `${JSON.stringify(digest.slice(0, 100))} is not a sha256 digest`);
  return { rest: text.slice(0, at), digest };
}

/** A colon starts a tag only behind the last slash; before it, it starts a port. */
function splitTag(text: string): { name: string; tag: string | null } {
  const colon = text.indexOf(':', text.lastIndexOf('/') + 1);
  return colon < 0 ? { name: text, tag: null } : { name: text.slice(0, colon), tag: text.slice(colon + 1) };
}

/** The first component is a registry if it could not be part of a repository's path: a dot, a port, capitals, localhost. */
function splitDomain(name: string): { domain: string; path: string } {
  const slash = name.indexOf('/');
  const first = slash < 0 ? '' : name.slice(0, slash);
  const isDomain = /[.:]/.test(first) || first === 'localhost' || first !== first.toLowerCase();
  const domain = isDomain && first !== LEGACY_DEFAULT_DOMAIN ? first : DEFAULT_DOMAIN;
  const path = isDomain ? name.slice(slash + 1) : name;
  return { domain, path: domain === DEFAULT_DOMAIN && !path.includes('/') ? OFFICIAL_PREFIX + path : path };
}

function describeComponent(component: string): string {
  if (component === '') return 'a part of the name is empty';
  if (component !== component.toLowerCase()) return `${JSON.stringify(component)} holds capital letters`;
  return `${JSON.stringify(component)} is not valid in a name`;
}

function invalid(text: string, why: string): LayerdError {
  const shown = JSON.stringify(text.length > 300 ? `${text.slice(0, 300)}…` : text);
  return new LayerdError('INVALID_REFERENCE', `${shown} is not an image reference: ${why}`, {
    details: { reference: text.slice(0, 300) },
    hint: 'A reference reads [REGISTRY[:PORT]/]NAME[:TAG][@sha256:DIGEST]; names are lower case.',
  });
}
