/** Containers: snapshots made from an image, each with a writable upper of its own. */
import { randomBytes } from 'node:crypto';
import { onlyLayers } from '../../drivers/driver.js';
import type { Once } from '../core/api.js';
import { LayerdError, toLayerdError } from '../core/errors.js';
import { counted } from '../core/units.js';
import { KeyedLock } from '../core/keyed-lock.js';
import type {
  Change,
  ContainerDetail,
  ContainerSummary,
  CreateContainerOptions,
  MountInstruction,
  MountResult,
  Usage,
} from '../core/words.js';
import type { NewContainer } from '../metadata/operations/containers.js';
import type { ContainerWithSnapshot } from '../metadata/reader.js';
import type { ChainRow, ImageRow } from '../metadata/rows.js';
import type { SnapshotArgs } from '../workers/snapshot-jobs.js';
import { snapshotOf, type StoreContext } from './context.js';
import type { Discards } from './discards.js';
import type { SnapshotBytes } from './snapshot-bytes.js';
import type { SnapshotDirectories } from './snapshot-directories.js';

const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;
const ID = /^[0-9a-f]{64}$/;
const ID_PREFIX = /^[0-9a-f]{1,64}$/;

export class Containers {
  private readonly context: StoreContext;
  private readonly bytes: SnapshotBytes;
  private readonly directories: SnapshotDirectories;
  private readonly discards: Discards;
  /** What happens to one container happens one after the other. */
  private readonly locks = new KeyedLock();

  constructor(
    context: StoreContext,
    parts: { bytes: SnapshotBytes; directories: SnapshotDirectories; discards: Discards },
  ) {
    this.context = context;
    this.bytes = parts.bytes;
    this.directories = parts.directories;
    this.discards = parts.discards;
  }

  /** Makes a container from an image. `image` is what it was asked for by. */
  async create(row: ImageRow, image: string, options: CreateContainerOptions, once?: Once): Promise<ContainerSummary> {
    const chain = this.chainOf(row);
    try {
      return await this.make(row, { image, chain }, options, once);
    } catch (thrown) {
      // Migrated meanwhile: the copies that it was to lie on may be gone.
      if (this.chainOf(row)?.stack_id === chain?.stack_id) throw thrown;
      return this.create(row, image, options, once);
    }
  }

  private chainOf({ chain_id: chainId }: ImageRow): ChainRow | undefined {
    return chainId === null ? undefined : this.context.reader.chain(chainId);
  }

  private async make(
    row: ImageRow,
    { image, chain }: { image: string; chain: ChainRow | undefined },
    options: CreateContainerOptions,
    once: Once | undefined,
  ): Promise<ContainerSummary> {
    const { reader, writer } = this.context;
    const id = randomBytes(32).toString('hex');
    const name = options.name ?? id.slice(0, 12);
    if (!NAME.test(name)) {
      throw new LayerdError('INVALID_ARGUMENT', `${JSON.stringify(name)} is not a name for a container`, {
        details: { name },
        hint: 'Letters, digits, and behind the first also _ . - ; at most 128.',
      });
    }
    if (options.name !== undefined && reader.containerByName(name) !== undefined) throw nameTaken(name);
    const stackId = chain?.stack_id ?? null;
    const readOnly = options.readOnly ?? false;
    const volatile = options.volatile ?? false;
    const sizeLimit = options.sizeLimit ?? null;
    const labels = options.labels ?? {};
    const { image_id: imageId } = row;
    return this.directories.provide({ stackId, readOnly, sizeLimit, volatile }, async (place) => {
      const chainId = chain?.id ?? null;
      const settings = { chainId, stackId, readOnly, volatile, sizeLimit };
      const container: NewContainer = { id, name, imageId, image, labels, ...place, ...settings };
      return writer.run('addContainer', container, once);
    });
  }

  /** By id, unique prefix of an id, or name. Throws CONTAINER_NOT_FOUND, AMBIGUOUS_ID. */
  find(text: string): ContainerWithSnapshot {
    const { reader } = this.context;
    const exact = (ID.test(text) ? reader.containerById(text) : undefined) ?? reader.containerByName(text);
    if (exact !== undefined) return exact;
    const matches = ID_PREFIX.test(text) ? reader.containersByPrefix(text) : [];
    const [first] = matches;
    if (first === undefined) {
      throw new LayerdError('CONTAINER_NOT_FOUND', `no container has the id or name ${text}`, {
        details: { container: text },
        hint: '`layerctl ps` lists the containers.',
      });
    }
    if (matches.length > 1) {
      throw new LayerdError('AMBIGUOUS_ID', `several containers have ids that begin with ${text}`, {
        details: { container: text, matches: matches.map((row) => row.id) },
        hint: 'Give more digits, or the name.',
      });
    }
    return first;
  }

  /** Newest first. */
  *list(): Generator<ContainerSummary> {
    for (const row of this.context.reader.containers()) yield this.summary(row);
  }

  detail(row: ContainerWithSnapshot): ContainerDetail {
    const { reader, places } = this.context;
    const chain = row.chain_id === null ? undefined : reader.chain(row.chain_id);
    const { spec } = snapshotOf(reader, row);
    return {
      ...this.summary(row),
      chainId: chain?.chain_id ?? null,
      layers: onlyLayers(spec.stack).map((layer) => layer.diffId),
      directories: { snapshot: places.snapshot(row.dir), merged: places.mergedRoot(row.dir) },
      sizeLimit: row.size_limit,
    };
  }

  /** Mounts the merged root; every call holds one more mount, and needs an unmount. */
  mount(text: string, once?: Once): Promise<MountResult> {
    const { pool, reader, writer, boot } = this.context;
    return this.locked(text, async (row) => {
      const snapshot = snapshotOf(reader, row);
      const path = await pool.run('short', 'snapshot.mount', snapshot);
      const isFirst = this.mounts(row) === 0;
      return this.counted(
        () => writer.run('countMount', { id: row.id, boot, path }, once && { ...once, boot }),
        () => (isFirst ? pool.run('unmount', 'snapshot.unmount', { ...snapshot, force: false }) : null),
      );
    });
  }

  /** Instructions for a runtime that mounts by itself. Nothing is counted: the daemon does not see such mounts. */
  instructions(text: string): Promise<MountInstruction[]> {
    const row = this.find(text);
    return this.context.pool.run('short', 'snapshot.instructions', snapshotOf(this.context.reader, row));
  }

  /** Gives one mount back; the last one unmounts. `force` gives all back and detaches a busy mount. */
  unmount(text: string, force: boolean, once?: Once): Promise<{ mounts: number }> {
    const { pool, reader, writer, boot } = this.context;
    return this.locked(text, async (row) => {
      const held = this.mounts(row);
      if (held === 0 && !force) {
        throw new LayerdError('CONTAINER_NOT_MOUNTED', `container ${row.name} is not mounted`, {
          details: { container: row.id },
        });
      }
      const snapshot = snapshotOf(reader, row);
      const isLast = held <= 1 || force;
      if (isLast) await pool.run('unmount', 'snapshot.unmount', { ...snapshot, force });
      return this.counted(
        () => writer.run('countUnmount', { id: row.id, boot, all: force }, once && { ...once, boot }),
        () => (isLast && held > 0 ? pool.run('short', 'snapshot.mount', snapshot) : null),
      );
    });
  }

  /** Removes a container and what it wrote. Refused while mounted, unless forced. */
  remove(text: string, force: boolean, once?: Once): Promise<{ id: string }> {
    return this.locked(text, async (row) => {
      const mounts = this.mounts(row);
      if (mounts > 0 && !force) {
        throw new LayerdError('CONTAINER_MOUNTED', `container ${row.name} is mounted (${counted(mounts, 'time')})`, {
          details: { container: row.id, mounts },
          hint: 'Unmount it first, or force the removal.',
        });
      }
      const { reader, pool, writer } = this.context;
      const snapshot = snapshotOf(reader, row);
      // First what can be refused (a busy mount), then the row, then the directory.
      if (mounts > 0 || force) await pool.run('unmount', 'snapshot.release', { ...snapshot, force });
      const removed = await writer.run('removeContainer', { id: row.id }, once);
      this.discards.begin(snapshot);
      return removed;
    });
  }

  changes(text: string, signal: AbortSignal): AsyncIterable<Change[]> {
    return this.bytes.changes(this.described(text), signal);
  }

  diff(text: string, signal: AbortSignal): AsyncIterable<Buffer> {
    return this.bytes.diff(this.described(text), signal);
  }

  export(text: string, signal: AbortSignal): AsyncIterable<Buffer> {
    return this.bytes.export(this.described(text), signal);
  }

  usage(text: string): Promise<Usage> {
    return this.context.pool.run('stream', 'snapshot.usage', this.described(text));
  }

  /** Runs `work` while nothing else happens to the container. */
  locked<T>(text: string, work: (row: ContainerWithSnapshot) => Promise<T>): Promise<T> {
    const found = this.find(text);
    const { id } = found;
    // Found again after others that held the lock: it may have gone, or been mounted, meanwhile.
    return this.locks.isHeld(id)
      ? this.locks.run(id, () => work(this.find(id)))
      : this.locks.run(id, () => work(found));
  }

  /** How many mounts are held; those of an earlier boot are gone. */
  mounts(row: ContainerWithSnapshot): number {
    return row.boot === this.context.boot ? row.mounts : 0;
  }

  summary(row: ContainerWithSnapshot): ContainerSummary {
    const mounts = this.mounts(row);
    return {
      id: row.id,
      name: row.name,
      imageId: row.config_digest,
      image: row.image,
      created: row.created,
      readOnly: row.read_only === 1,
      labels: JSON.parse(row.labels) as Record<string, string>,
      mounts,
      path: mounts > 0 ? row.path : null,
      driver: row.driver,
    };
  }

  private described(text: string): SnapshotArgs {
    return snapshotOf(this.context.reader, this.find(text));
  }

  /** Where the count cannot be written, `undo` makes true again what it says; where that fails, the next start does. */
  private async counted<T>(count: () => Promise<T>, undo: () => Promise<unknown> | null): Promise<T> {
    try {
      return await count();
    } catch (thrown) {
      await undo()?.catch((error: unknown) => {
        this.context.log.warn({ error: toLayerdError(error).toBody() }, 'a mount is not as it is counted');
      });
      throw thrown;
    }
  }
}

function nameTaken(name: string): LayerdError {
  return new LayerdError('CONTAINER_EXISTS', `a container named ${name} exists`, {
    details: { name },
    hint: 'Take another name, or remove that container.',
  });
}
