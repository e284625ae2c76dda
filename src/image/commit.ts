/** A container's upper as a new layer and a new image upon the container's own. */
import type { OnProgress } from '../core/api.js';
import { machinePlatform } from '../core/platform.js';
import { normalizeReference } from '../core/reference.js';
import type { CommitOptions, CommitResult } from '../core/words.js';
import type { LayerRow } from '../metadata/rows.js';
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
    const ref = options.ref === undefined ? null : normalizeReference(options.ref);
    return this.containers.locked(name, (row) =>
      this.leases.during('commit', async (leaseId) => {
        const { reader, pool, driver, writer } = this.context;
        const parent = this.images.find(row.config_digest);
        const parentConfig = this.images.config(parent);
        // A typo in an instruction is told before the upper is read.
        applyChanges(parentConfig.config, options.changes ?? []);
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
        const layer = arrival?.layer ?? null;
        const config = commitConfig(parentConfig, {
          diffId: layer?.diff_id ?? null,
          created: Date.now(),
          createdBy: createdByOf(parentConfig.config),
          platform: machinePlatform(),
          ...(options.author === undefined ? {} : { author: options.author }),
          ...(options.message === undefined ? {} : { message: options.message }),
          ...(options.changes === undefined ? {} : { changes: options.changes }),
        });
        const below: LayerRow[] = reader.imageLayers(parent.id);
        await this.images.add(
          {
            config,
            manifest: null,
            refs: ref === null ? [] : [ref],
            layers: layer === null ? below : [...below, layer],
          },
          leaseId,
        );
        await writer.run('recordEvent', {
          type: 'container.commit',
          subject: row.id,
          data: { image: config.digest, ref },
        });
        return {
          imageId: config.digest,
          ref,
          diffId: layer?.diff_id ?? null,
          size: layer?.size ?? 0,
          whileMounted: this.containers.mounts(row) > 0,
        };
      }),
    );
  }
}

/** What the history says made the layer: the command that containers of the image run, as docker commit has it. */
function createdByOf({ Entrypoint: entrypoint = [], Cmd: command = [] }: RunConfig): string {
  return [...entrypoint, ...command].join(' ');
}
