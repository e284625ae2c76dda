/**
 * Docker's graph driver (docker.graphdriver/1.0) on named snapshots. Docker's ids are the keys of one space. A layer is a
 * committed snapshot of the very tar that Docker sent, stored once whoever else has it; a container's root is an active
 * one. Every verb may come again: dockerd repeats calls whose connection broke, and after a crash it knows less than we do.
 */
import type { EngineApi } from '../../core/api.js';
import { LayerdError } from '../../core/errors.js';
import { KeyedLock } from '../../core/keyed-lock.js';
import type { SnapshotInfo, SnapshotName } from '../../core/snapshots.js';
import { parseSize } from '../../core/units.js';
import type { Change, Info } from '../../core/words.js';
import { wholeTar } from './whole-tar.js';

/** What the door needs of the engine. */
export type DockerEngine = Pick<EngineApi, 'snapshots' | 'info'>;

export interface CreateRequest {
  id: string;
  /** '' for none. */
  parent: string;
  mountLabel: string;
  storageOptions: Record<string, string>;
}

export interface InitRequest {
  options: readonly string[];
  /** Docker remaps the users of containers. */
  remapped: boolean;
}

const SPACE = 'docker';

/** Held mounts of a snapshot: dockerd's Gets without their Puts. */
const MOUNTS = 'mounts';
/** A layer that dockerd has begun and whose bytes have not come: 'pending'. */
const LAYER = 'layer';
const PENDING = 'pending';

/** Docker looks at a layer through a view of its own; ids of Docker are hex and never end so. */
const VIEW = '#view';

export class GraphDriver {
  private readonly engine: DockerEngine;
  /** What happens to one id happens one after the other. */
  private readonly locks = new KeyedLock();

  constructor(engine: DockerEngine) {
    this.engine = engine;
  }

  /**
   * dockerd has started. It holds no mounts now, whatever it held when it died; those that are still there are found again
   * by the next Get, and go with the next Put or Remove. A layer whose bytes never came is nothing to anybody.
   */
  async init({ options, remapped }: InitRequest): Promise<void> {
    if (remapped) throw unsupported('userns-remap', 'Run dockerd without userns-remap.');
    const [option] = options;
    if (option !== undefined)
      throw unsupported(`the storage option ${option}`, 'layerd is configured by its own file.');
    for (const { key, kind, labels } of this.engine.snapshots.list(SPACE)) {
      if (kind === 'active' && labels[LAYER] === PENDING) await this.remove(key);
      else if (labels[MOUNTS] !== undefined) await this.count(key, () => 0);
    }
  }

  /** A layer to be, or a container's root. */
  async create(request: CreateRequest, use: 'layer' | 'container'): Promise<void> {
    const { id, parent, mountLabel, storageOptions } = request;
    if (mountLabel !== '') throw unsupported('SELinux labels of mounts', 'Run dockerd without --selinux-enabled.');
    const sizeLimit = sizeOf(storageOptions);
    // One lock at a time: two that name each other as their parents would wait for ever.
    if (parent !== '' && this.find(id) === null) await this.seal(parent);
    await this.locks.run(id, async () => {
      const there = this.find(id);
      if (there !== null) return sameOrRefused(there, parent);
      await this.engine.snapshots.prepare(nameOf(id), {
        parent: parent === '' ? null : parent,
        labels: use === 'layer' ? { [LAYER]: PENDING } : {},
        ...(sizeLimit === null ? {} : { sizeLimit }),
      });
    });
  }

  /** Docker writes into `ID-init`, then makes the container on it: from then on it is somebody's lower. */
  private seal(parent: string): Promise<void> {
    return this.locks.run(parent, async () => {
      const there = this.require(parent);
      // Which files Docker put there for the container is known to it: they need not survive a power cut.
      if (there.kind === 'active') await this.engine.snapshots.commit(nameOf(parent), { name: parent, sync: false });
    });
  }

  remove(id: string): Promise<void> {
    return this.locks.run(id, async () => {
      for (const key of [id + VIEW, id]) {
        const there = this.find(key);
        if (there === null) continue;
        if (there.kind !== 'committed') await this.engine.snapshots.unmount(nameOf(key), { force: true });
        await this.engine.snapshots.remove(nameOf(key));
      }
    });
  }

  /** Mounts it (again); the path. */
  get(id: string, mountLabel: string): Promise<string> {
    if (mountLabel !== '') throw unsupported('SELinux labels of mounts', 'Run dockerd without --selinux-enabled.');
    return this.locks.run(id, async () => {
      const { snapshots } = this.engine;
      const key = this.require(id).kind === 'committed' ? id + VIEW : id;
      if (key !== id && this.find(key) === null) await snapshots.prepare(nameOf(key), { parent: id, view: true });
      const path = await snapshots.mount(nameOf(key));
      await this.count(key, (mounts) => mounts + 1);
      return path;
    });
  }

  /** Gives a mount back; the last one unmounts. One that was never got is none. */
  put(id: string): Promise<void> {
    return this.locks.run(id, async () => {
      const view = this.find(id + VIEW);
      const there = view ?? this.find(id);
      if (there === null || there.kind === 'committed') return;
      if (held(there) > 1) return this.count(there.key, (mounts) => mounts - 1);
      await this.engine.snapshots.unmount(nameOf(there.key), { force: false });
      if (view !== null) await this.engine.snapshots.remove(nameOf(there.key));
      else if (held(there) > 0) await this.count(there.key, () => 0);
    });
  }

  exists(id: string): boolean {
    return this.find(id) !== null;
  }

  /**
   * The bytes of a layer: verified, and stored unless somebody brought it before. Returns its size. A tar without its end
   * is refused: what dockerd repeats after a broken connection may be the rest of a body that it sent before.
   */
  applyDiff(id: string, tar: AsyncIterable<Buffer>, signal: AbortSignal): Promise<number> {
    return this.locks.run(id, async () => {
      const { snapshots } = this.engine;
      const name = nameOf(id);
      if (this.require(id).kind === 'committed') {
        throw new LayerdError('SNAPSHOT_PRECONDITION', `the layer ${id} has its bytes already`, { details: { id } });
      }
      const { size } = await snapshots.apply(name, { stream: wholeTar(tar) }, signal);
      await snapshots.commit(name, { name: id });
      return size;
    });
  }

  /** A layer's own tar, or what a container has written, as a tar. */
  diff(id: string, parent: string, signal: AbortSignal): AsyncIterable<Buffer> {
    this.requireParent(id, parent);
    return this.engine.snapshots.diff(nameOf(id), signal);
  }

  changes(id: string, parent: string, signal: AbortSignal): AsyncIterable<Change[]> {
    this.requireParent(id, parent);
    return this.engine.snapshots.changes(nameOf(id), signal);
  }

  async diffSize(id: string, parent: string): Promise<number> {
    this.requireParent(id, parent);
    return (await this.engine.snapshots.usage(nameOf(id))).bytes;
  }

  metadata(id: string): Record<string, string> {
    const { kind, parent } = this.require(id);
    const layer = this.engine.snapshots.layer(nameOf(id));
    return { Kind: kind, ...(parent === null ? {} : { Parent: parent }), ...(layer === null ? {} : { DiffID: layer }) };
  }

  /** For `docker info`. */
  async status(): Promise<[string, string][]> {
    const info: Info = await this.engine.info();
    return [
      ['layerd', info.version],
      ['Driver', info.driver],
      ['Root', info.root],
      ['Backing Filesystem', info.fileSystem],
      ['Layers', String(this.engine.snapshots.committed(SPACE))],
    ];
  }

  private find(key: string): SnapshotInfo | null {
    try {
      return this.engine.snapshots.stat(nameOf(key));
    } catch (error) {
      if (error instanceof LayerdError && error.code === 'SNAPSHOT_NOT_FOUND') return null;
      throw error;
    }
  }

  private require(id: string): SnapshotInfo {
    return this.engine.snapshots.stat(nameOf(id));
  }

  /** Docker names the parent each time; for `--squash` one further below. */
  private requireParent(id: string, parent: string): void {
    const found = this.require(id).parent ?? '';
    if (found === parent) return;
    throw new LayerdError(
      'SNAPSHOT_PRECONDITION',
      `${id} lies on ${found || 'nothing'}, not on ${parent || 'nothing'}`,
      {
        details: { id, expected: parent, found },
        hint: 'A difference to something further below (docker build --squash) is not made.',
      },
    );
  }

  private async count(key: string, change: (mounts: number) => number): Promise<void> {
    await this.engine.snapshots.relabel(nameOf(key), ({ [MOUNTS]: mounts, ...labels }) => {
      const now = change(Number(mounts ?? '0'));
      return now > 0 ? { ...labels, [MOUNTS]: String(now) } : labels;
    });
  }
}

function held({ labels }: SnapshotInfo): number {
  return Number(labels[MOUNTS] ?? '0');
}

function nameOf(key: string): SnapshotName {
  return { space: SPACE, key };
}

/** A repeated Create finds what the first one made. */
function sameOrRefused(there: SnapshotInfo, parent: string): void {
  if ((there.parent ?? '') === parent) return;
  throw new LayerdError('SNAPSHOT_EXISTS', `${there.key} exists, and lies on another parent`, {
    details: { id: there.key, expected: parent, found: there.parent },
  });
}

function sizeOf(options: Record<string, string>): number | null {
  const unknown = Object.keys(options).find((name) => name !== 'size');
  if (unknown !== undefined) throw unsupported(`the storage option ${unknown}`, 'Containers have the option size.');
  const { size } = options;
  if (size === undefined) return null;
  const bytes = parseSize(size);
  if (bytes !== null) return bytes;
  throw new LayerdError('INVALID_ARGUMENT', `${JSON.stringify(size)} is not a size`, {
    details: { size },
    hint: 'Sizes look like 512M or 10G.',
  });
}

function unsupported(what: string, hint: string): LayerdError {
  return new LayerdError('DRIVER_UNSUPPORTED', `layerd does not have ${what} for Docker`, { hint });
}
