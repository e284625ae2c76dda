/**
 * Everything that a manifest at a registry leads to: manifests (of an index, those below it), blobs, and, where that is
 * asked for, what refers to them. Whatever kind of thing it is: only what it names counts.
 */
import type { Digest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import { LIMITS } from '../../core/limits.js';
import { type Field, parseJson } from '../json.js';
import { isNotDistributed } from '../types.js';
import type { RemoteBlob } from './download.js';
import type { TransferWatch } from './endpoint.js';
import { protocolError } from './problems.js';
import { referrersTag, type RemoteManifest, type Repository } from './repository.js';

export interface ImageGraph {
  /** What is named comes before what names it. */
  manifests: RemoteManifest[];
  /** Each once. */
  blobs: RemoteBlob[];
  /** Manifests that refer to others, each with what it refers to; they are among `manifests`. */
  referrers: { manifest: RemoteManifest; subject: Digest }[];
}

/** Throws REGISTRY_NOT_FOUND where a part is not there, MANIFEST_INVALID. */
export async function graphOf(
  source: Repository,
  top: RemoteManifest,
  options: { referrers: boolean },
  watch: TransferWatch,
): Promise<ImageGraph> {
  const walk = new Walk(source, options.referrers, watch);
  await walk.visit(top, 1);
  return { manifests: [...walk.manifests.values()], blobs: [...walk.blobs.values()], referrers: walk.referrers };
}

class Walk {
  readonly manifests = new Map<Digest, RemoteManifest>();
  readonly blobs = new Map<Digest, RemoteBlob>();
  readonly referrers: ImageGraph['referrers'] = [];
  private readonly source: Repository;
  private readonly withReferrers: boolean;
  private readonly watch: TransferWatch;

  constructor(source: Repository, withReferrers: boolean, watch: TransferWatch) {
    this.source = source;
    this.withReferrers = withReferrers;
    this.watch = watch;
  }

  async visit(manifest: RemoteManifest, depth: number): Promise<void> {
    if (this.manifests.has(manifest.digest)) return;
    if (depth > LIMITS.indexDepth || this.manifests.size > LIMITS.descriptors) {
      throw protocolError(this.source.endpoint.host, `${manifest.digest} leads to more manifests than any image has`);
    }
    const root = parseJson(`the manifest ${manifest.digest}`, manifest.bytes);
    for (const child of root.at('manifests').items())
      await this.visit(await this.fetch(child.at('digest').digest()), depth + 1);
    const config = root.at('config');
    const blobs = [...(config.present ? [config] : []), ...root.at('layers').items(), ...root.at('blobs').items()];
    for (const blob of blobs) this.addBlob(blob);
    this.manifests.set(manifest.digest, manifest);
    if (this.withReferrers) await this.visitReferrers(manifest.digest, depth);
  }

  /** What its maker does not allow to be handed on lies elsewhere, and stays there. */
  private addBlob(field: Field): void {
    const mediaType = field.at('mediaType').optionalText() ?? '';
    const digest = field.at('digest').digest();
    if (!isNotDistributed(mediaType)) this.blobs.set(digest, { digest, size: field.at('size').size() });
  }

  private async visitReferrers(subject: Digest, depth: number): Promise<void> {
    const index =
      (await this.source.referrers(subject, this.watch)) ??
      (await this.source.manifest(referrersTag(subject), this.watch));
    if (index === null) return;
    for (const field of parseJson(`the referrers of ${subject}`, index.bytes).at('manifests').items()) {
      const manifest = await this.fetch(field.at('digest').digest());
      if (this.manifests.has(manifest.digest)) continue;
      await this.visit(manifest, depth + 1);
      this.referrers.push({ manifest, subject });
    }
  }

  private async fetch(digest: Digest): Promise<RemoteManifest> {
    const known = this.manifests.get(digest) ?? (await this.source.manifest(digest, this.watch));
    if (known !== null) return known;
    throw new LayerdError('REGISTRY_NOT_FOUND', `${this.source.label} lacks the manifest ${digest}`, {
      details: { repository: this.source.label, digest },
      hint: 'An index names it that was not pushed whole. Copy one platform.',
    });
  }
}
