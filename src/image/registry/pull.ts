/** Images coming from registries: only what is missing is fetched, and only what is whole becomes visible. */
import type { OnProgress, PullOptions } from '../../core/api.js';
import { digestHex, sha256 } from '../../core/digest.js';
import { normalizeReference, parseReference, type Reference } from '../../core/reference.js';
import type { LoadedImage, PullResult } from '../../core/words.js';
import type { SeenBlob } from '../../metadata/operations/remote.js';
import type { StoreContext } from '../../store/context.js';
import type { Leases } from '../../store/leases.js';
import { readMembers } from '../archive-reader.js';
import type { Loader } from '../load.js';
import { transferWatch } from './endpoint.js';
import { RegistryMembers, resolve, type Remote } from './members.js';
import { mayPass } from './problems.js';
import type { Registries } from './registries.js';

const GOES_ON = 'What was fetched is kept: the same command goes on where it ended.';

export interface RegistryParts {
  registries: Registries;
  leases: Leases;
  loader: Loader;
}

export class Puller {
  private readonly context: StoreContext;
  private readonly parts: RegistryParts;

  constructor(context: StoreContext, parts: RegistryParts) {
    this.context = context;
    this.parts = parts;
  }

  /**
   * What was fetched stays under a lease when the pull is interrupted, whole layers and beginnings of layers: the next
   * pull of the same reference goes on there.
   */
  async pull(ref: string, options: PullOptions, progress: OnProgress, signal: AbortSignal): Promise<PullResult> {
    const { registries, leases, loader } = this.parts;
    const name = normalizeReference(ref);
    const reference = parseReference(name);
    const places = registries.places(reference, options.credentials ?? null);
    const remote: Remote = { reference, places, watch: transferWatch(progress, signal) };
    const resolved = await resolve(remote);
    const leaseId = `pull-${digestHex(sha256(name)).slice(0, 16)}`;
    const loaded = await leases
      .lasting(leaseId, { 'layerd.pull': name }, registries.config.partialTtlMs, () =>
        loader.bring({ leaseId, progress }, (host) => {
          const members = new RegistryMembers(remote, resolved, options, { host, transfers: registries.transfers });
          return readMembers(members, { host, options, signal });
        }),
      )
      .catch((error: unknown) => {
        throw mayPass(error) ? error.withHint(`${error.hint} ${GOES_ON}`) : error;
      });
    const origin = resolved.places[0];
    await this.remember(reference, loaded.images);
    return { ...loaded, ref: name, digest: resolved.manifest.digest, from: origin?.endpoint.host ?? reference.domain };
  }

  /** Which blobs the repository has of which layers: a push there need not send them, a push beside it may have them mounted. */
  private async remember({ domain, path }: Reference, images: readonly LoadedImage[]): Promise<void> {
    const { reader, writer } = this.context;
    const blobs = images.flatMap(({ imageId, layers }) => {
      const row = reader.imageById(imageId);
      const plain = new Map(layers.map(({ diffId, size }) => [diffId, size]));
      return (row === undefined ? [] : reader.imageBlobs(row.id)).flatMap(({ digest }): SeenBlob[] => {
        const blob = reader.blob(digest);
        if (blob !== undefined) return [{ ...blob, diffId: blob.diff_id }];
        const size = plain.get(digest);
        return size === undefined ? [] : [{ digest, diffId: digest, size, compression: 'none' }];
      });
    });
    if (blobs.length === 0) return;
    await writer.run('noteRemoteBlobs', {
      registry: domain,
      repository: path,
      blobs,
    });
  }
}
