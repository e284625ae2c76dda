/** A container's upper as a new layer and a new image upon the container's own. */
import type { OnProgress } from '../core/api.js';
import type { Digest } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import { machinePlatform } from '../core/platform.js';
import { normalizeReference } from '../core/reference.js';
import type { CommitOptions, CommitResult, ExtendedImage, ImageChanges } from '../core/words.js';
import type { ImageRow, LayerRow } from '../metadata/rows.js';
import type { Containers } from '../store/containers.js';
import { snapshotOf, type StoreContext } from '../store/context.js';
import type { Layers } from '../store/layers.js';
import type { Leases } from '../store/leases.js';
import { commitConfig } from './config.js';
import { applyChanges } from './dockerfile.js';
import type { Images } from './images.js';
import type { RunConfig } from './types.js';

export class Committer {
  private readonly context: StoreContext;
  private readonly containers: Containers;
  private readonly layers: Layers;
  private readonly images: Images;
  private readonly leases: Leases;

  constructor(
    context: StoreContext,
    parts: { containers: Containers; layers: Layers; images: Images; leases: Leases },
  ) {
    this.context = context;
    this.containers = parts.containers;
    this.layers = parts.layers;
    this.images = parts.images;
    this.leases = parts.leases;
  }

  /**
   * Commits while the container may be mounted and written to: what it wrote is synced first, and the layer is a
   * crash-consistent picture. A container that changed nothing makes no layer.
   */
  commit(name: string, options: CommitOptions, progress: OnProgress, signal: AbortSignal): Promise<CommitResult> {
    // Typos are told before the upper is read.
    if (options.ref !== undefined) normalizeReference(options.ref);
    return this.containers.locked(name, (row) =>
      this.leases.during('commit', async (leaseId) => {
        const { reader, pool, driver } = this.context;
        const parent = this.images.find(row.config_digest);
        applyChanges(this.images.config(parent).config, options.changes ?? []);
        const arrival = await this.layers.adoptChanges(leaseId, driver, (dir) =>
          pool.run(
            'bulk',
            'snapshot.commit',
            { ...snapshotOf(reader, row), layerDriver: driver, dir, pauseCgroup: options.pauseCgroup ?? null },
            {
              signal,
              progress: ({ bytesOut }: { bytesOut: number }) =>
                progress({ phase: 'commit', subject: row.id, done: bytesOut, total: null }),
            },
          ),
        );
        const image = await this.add(parent, { ...options, layer: arrival?.layer ?? null }, leaseId, row.id);
        return { ...image, whileMounted: this.containers.mounts(row) > 0 };
      }),
    );
  }

  /**
   * An image of another and a layer that is here (null: of its config alone), such as a step of a build made before. Throws
   * IMAGE_NOT_FOUND, LAYER_NOT_FOUND.
   */
  extend(name: string, { layer: diffId, ...changes }: ImageChanges & { layer: Digest | null }): Promise<ExtendedImage> {
    return this.leases.during('commit', async (leaseId) => {
      const parent = this.images.find(name);
      const layer = diffId === null ? null : await this.layers.present({ diffId }, leaseId);
      if (layer === null && diffId !== null) {
        throw new LayerdError('LAYER_NOT_FOUND', `no whole layer here has the diff ID ${diffId}`, {
          details: { diffId },
          hint: 'Do the step again, or load an image that has the layer.',
        });
      }
      return this.add(parent, { ...changes, layer }, leaseId);
    });
  }

  private async add(
    parent: ImageRow,
    { layer, ...changes }: ImageChanges & { layer: LayerRow | null },
    leaseId: string,
    container: string | null = null,
  ): Promise<ExtendedImage> {
    const { author, message, changes: instructions } = changes;
    const ref = changes.ref === undefined ? null : normalizeReference(changes.ref);
    const parentConfig = this.images.config(parent);
    const config = commitConfig(parentConfig, {
      diffId: layer?.diff_id ?? null,
      created: Date.now(),
      createdBy: createdByOf(parentConfig.config),
      platform: machinePlatform(),
      ...(author === undefined ? {} : { author }),
      ...(message === undefined ? {} : { message }),
      ...(instructions === undefined ? {} : { changes: instructions }),
    });
    const below: LayerRow[] = this.context.reader.imageLayers(parent.id);
    const layers = layer === null ? below : [...below, layer];
    await this.images.add({ config, manifest: null, refs: ref === null ? [] : [ref], layers }, leaseId, container);
    return { imageId: config.digest, ref, diffId: layer?.diff_id ?? null, size: layer?.size ?? 0 };
  }
}

/** What the history says made the layer: the command that containers of the image run, as docker commit has it. */
function createdByOf({ Entrypoint: entrypoint = [], Cmd: command = [] }: RunConfig): string {
  return [...entrypoint, ...command].join(' ');
}
