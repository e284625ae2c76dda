/** What a repository has: its tags, and where a digest turns up in it. */
import type { RegistryOptions } from '../../core/api.js';
import { parseDigest, type Digest } from '../../core/digest.js';
import { LIMITS } from '../../core/limits.js';
import { parseReference } from '../../core/reference.js';
import type { DigestMatch, TagList } from '../../core/words.js';
import { parseJson } from '../json.js';
import { transferWatch, type TransferWatch } from './endpoint.js';
import type { Registries } from './registries.js';
import type { RemoteManifest, Repository } from './repository.js';

/** Tags that are looked at together. */
const AT_ONCE = 8;

/** All tags; with `digest` only those that lead to it, and how. Manifests are fetched for that, blobs are not. */
export async function listTags(
  registries: Registries,
  name: string,
  options: RegistryOptions & { digest?: string },
  signal: AbortSignal,
): Promise<TagList> {
  const reference = parseReference(name);
  const repository = registries.repository(reference, options.credentials ?? null);
  const watch = transferWatch(() => undefined, signal);
  const tags: string[] = [];
  for await (const tag of repository.tags(watch)) tags.push(tag);
  const list = { repository: `${reference.domain}/${reference.path}` };
  if (options.digest === undefined) return { ...list, tags, matches: [] };
  const digest = parseDigest(options.digest);
  const matches: DigestMatch[] = [];
  for (let at = 0; at < tags.length; at += AT_ONCE) {
    const some = tags.slice(at, at + AT_ONCE).map((tag) => matchOf(repository, tag, digest, watch));
    matches.push(...(await Promise.all(some)).filter((match) => match !== null));
  }
  return { ...list, tags: matches.map(({ tag }) => tag), matches };
}

async function matchOf(
  repository: Repository,
  tag: string,
  wanted: Digest,
  watch: TransferWatch,
): Promise<DigestMatch | null> {
  const manifest = await repository.manifest(tag, watch);
  if (manifest === null) return null;
  const as = await roleIn(repository, manifest, wanted, watch, 1);
  return as === null ? null : { tag, digest: manifest.digest, as };
}

async function roleIn(
  repository: Repository,
  manifest: RemoteManifest,
  wanted: Digest,
  watch: TransferWatch,
  depth: number,
): Promise<DigestMatch['as'] | null> {
  if (manifest.digest === wanted) return depth === 1 ? 'manifest' : 'platform';
  const root = parseJson(`the manifest ${manifest.digest}`, manifest.bytes);
  if (root.at('config').present && root.at('config').at('digest').value === wanted) return 'config';
  if (
    root
      .at('layers')
      .items()
      .some((layer) => layer.at('digest').value === wanted)
  )
    return 'layer';
  if (depth > LIMITS.indexDepth) return null;
  for (const child of root.at('manifests').items()) {
    const digest = child.at('digest').digest();
    if (digest === wanted) return 'platform';
    const below = await repository.manifest(digest, watch);
    const role = below === null ? null : await roleIn(repository, below, wanted, watch, depth + 1);
    if (role !== null) return role;
  }
  return null;
}
