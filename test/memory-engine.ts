/**
 * A small engine in memory, for tests of the protocol around it: it keeps names and bytes as the real one would and does
 * nothing with them. What an image holds is simply the archive that was loaded.
 */
import { readFile } from 'node:fs/promises';
import type { ArchiveInput, EngineApi, LoadOptions, OnProgress, SaveOptions } from '../src/core/api.js';
import { digestHex, sha256, type Digest } from '../src/core/digest.js';
import { LayerdError } from '../src/core/errors.js';
import type {
  Change,
  CheckReport,
  CommitOptions,
  CommitResult,
  ContainerDetail,
  ContainerSummary,
  CreateContainerOptions,
  DiskReport,
  DriverName,
  EngineEvent,
  GcOptions,
  GcReport,
  HistoryRow,
  ImageDetail,
  ImageSummary,
  Info,
  LayerSummary,
  LayerTreeNode,
  Lease,
  LoadResult,
  MigrateReport,
  MountInstruction,
  MountResult,
  RemovedImage,
  Usage,
  WhyReport,
} from '../src/core/words.js';

interface Image {
  id: Digest;
  bytes: Buffer;
  refs: string[];
}

export class MemoryEngine implements EngineApi {
  readonly images_ = new Map<Digest, Image>();
  readonly containers_ = new Map<string, ContainerSummary>();
  readonly leases_ = new Map<string, Lease>();
  /** How many loads ended without success. */
  loadsFailed = 0;
  /** How many loads named a path. */
  pathsLoaded = 0;
  lastLoad: LoadOptions = {};
  /** What a load waits after each chunk, to be slower than its client. */
  loadDelayMs = 0;
  /** What `diff` answers. */
  diffSource: () => AsyncIterable<Buffer> = async function* () {
    yield Buffer.alloc(1024);
  };
  healthy = true;
  private readonly log: EngineEvent[] = [];
  private readonly followers = new Set<() => void>();
  private made = 0;

  info(): Promise<Info> {
    return Promise.resolve({
      version: '0.0.0',
      pid: process.pid,
      node: process.version,
      root: '/nowhere',
      run: '/nowhere',
      fileSystem: 'memory',
      driver: 'copy',
      driverReason: 'there is no other',
      drivers: [{ name: 'copy', available: true, reason: 'always' }],
      kernel: { release: '0', features: { overlay: false } },
      inflater: 'none',
      counts: { images: this.images_.size, layers: this.images_.size, containers: this.containers_.size, leases: 0 },
      started: 1,
      eventLoopDelayP99Ms: 0.5,
    });
  }

  health(): Promise<{ ok: boolean; problems: string[] }> {
    return Promise.resolve({ ok: this.healthy, problems: this.healthy ? [] : ['unwell'] });
  }

  metrics(): Promise<string> {
    return Promise.resolve('# TYPE layerd_images gauge\nlayerd_images 0\n');
  }

  async load(
    input: ArchiveInput,
    options: LoadOptions,
    progress: OnProgress,
    signal: AbortSignal,
  ): Promise<LoadResult> {
    const chunks: Buffer[] = [];
    let done = 0;
    this.lastLoad = options;
    if ('path' in input) this.pathsLoaded++;
    try {
      const stream = 'path' in input ? [await readFile(input.path)] : input.stream;
      for await (const chunk of stream) {
        signal.throwIfAborted();
        chunks.push(Buffer.from(chunk));
        done += chunk.length;
        progress({ phase: 'read', subject: '', done, total: 'path' in input ? null : input.size });
        if (this.loadDelayMs > 0) await new Promise((resolve) => setTimeout(resolve, this.loadDelayMs));
      }
      if (done === 0) throw new LayerdError('ARCHIVE_INVALID', 'the archive is empty');
    } catch (error) {
      this.loadsFailed++;
      throw error;
    }
    const bytes = Buffer.concat(chunks);
    const id = sha256(bytes);
    const present = this.images_.has(id);
    const refs = options.ref === undefined ? [] : [options.ref];
    const image = this.images_.get(id) ?? { id, bytes, refs };
    image.refs = [...new Set([...image.refs, ...refs])];
    this.images_.set(id, image);
    this.emit('image.load', id);
    return {
      images: [
        { imageId: id, refs: image.refs, platform: 'linux/amd64', layers: [{ diffId: id, size: done, present }] },
      ],
      layersLoaded: present ? 0 : 1,
      layersPresent: present ? 1 : 0,
      bytesLoaded: present ? 0 : done,
    };
  }

  save(options: SaveOptions): Promise<{ stream: AsyncIterable<Buffer>; notice: string }> {
    const images = options.refs.map((ref) => this.find(ref));
    const stream = (async function* () {
      for (const { bytes } of images) yield bytes;
    })();
    return Promise.resolve({ stream, notice: options.format === 'oci' ? 'the manifest digest differs – as ever' : '' });
  }

  images(): ImageSummary[] {
    return [...this.images_.values()].map(summary);
  }

  image(name: string): ImageDetail {
    const image = this.find(name);
    return {
      ...summary(image),
      config: { architecture: 'amd64', history: [{ created_by: 'test' }] },
      manifestDigest: null,
      manifestKept: false,
      layers: [
        { diffId: image.id, chainId: image.id, size: image.bytes.length, entries: 1, driver: 'copy', path: null },
      ],
      containers: [],
    };
  }

  history(name: string): HistoryRow[] {
    return [{ created: null, createdBy: 'test', comment: '', size: 0, diffId: this.find(name).id }];
  }

  tag(source: string, target: string): Promise<ImageSummary> {
    const image = this.find(source);
    image.refs.push(target);
    return Promise.resolve(summary(image));
  }

  removeImage(name: string): Promise<RemovedImage> {
    const image = this.find(name);
    this.images_.delete(image.id);
    return Promise.resolve({ untagged: image.refs, deleted: [image.id] });
  }

  layers(): LayerSummary[] {
    return [...this.images_.values()].map(layerOf);
  }

  layer(digestOrPrefix: string): LayerSummary {
    return layerOf(this.find(digestOrPrefix));
  }

  layerTree(): LayerTreeNode[] {
    return [...this.images_.values()].map((image) => treeNode(image, [treeNode(image, [])]));
  }

  layerTar(digestOrPrefix: string): Promise<{ stream: AsyncIterable<Buffer>; size: number; diffId: Digest }> {
    const { bytes, id } = this.find(digestOrPrefix);
    const stream = (async function* () {
      yield bytes;
    })();
    return Promise.resolve({ stream, size: bytes.length, diffId: id });
  }

  createContainer(image: string, options: CreateContainerOptions): Promise<ContainerSummary> {
    const { id: imageId } = this.find(image);
    const id = digestHex(sha256(`container ${this.made++}`));
    const name = options.name ?? id.slice(0, 12);
    if ([...this.containers_.values()].some((other) => other.name === name)) {
      throw new LayerdError('CONTAINER_EXISTS', `a container named ${name} exists`, { details: { name } });
    }
    const { readOnly = false, labels = {} } = options;
    const made = {
      id,
      name,
      imageId,
      image,
      created: 1,
      readOnly,
      labels,
      mounts: 0,
      path: null,
      driver: 'copy',
    } as const;
    this.containers_.set(id, made);
    this.emit('container.create', id);
    return Promise.resolve(made);
  }

  containers(): ContainerSummary[] {
    return [...this.containers_.values()];
  }

  container(name: string): ContainerDetail {
    const found = this.findContainer(name);
    return { ...found, chainId: found.imageId, layers: [found.imageId], directories: { upper: '/u' }, sizeLimit: null };
  }

  mount(name: string): Promise<MountResult> {
    const found = this.findContainer(name);
    found.mounts++;
    found.path = `/merged/${found.id}`;
    return Promise.resolve({ path: found.path, mounts: found.mounts });
  }

  mountInstructions(name: string): Promise<MountInstruction[]> {
    this.findContainer(name);
    return Promise.resolve([{ type: 'overlay', source: 'overlay', options: ['lowerdir=/l'] }]);
  }

  unmount(name: string): Promise<{ mounts: number }> {
    const found = this.findContainer(name);
    if (found.mounts === 0) throw new LayerdError('CONTAINER_NOT_MOUNTED', `${name} is not mounted`);
    return Promise.resolve({ mounts: --found.mounts });
  }

  removeContainer(name: string): Promise<{ id: string }> {
    const { id } = this.findContainer(name);
    this.containers_.delete(id);
    return Promise.resolve({ id });
  }

  changes(name: string): Promise<AsyncIterable<Change[]>> {
    this.findContainer(name);
    return Promise.resolve(
      (async function* () {
        yield [{ kind: 'C', path: '/' }] as Change[];
        yield [{ kind: 'A', path: '/x\\xff', bytes: 'L3j/' }] as Change[];
      })(),
    );
  }

  diff(name: string): Promise<AsyncIterable<Buffer>> {
    this.findContainer(name);
    return Promise.resolve(this.diffSource());
  }

  exportContainer(name: string): Promise<AsyncIterable<Buffer>> {
    return this.diff(name);
  }

  commit(name: string, options: CommitOptions, progress: OnProgress): Promise<CommitResult> {
    const { imageId } = this.findContainer(name);
    progress({ phase: 'commit', subject: imageId, done: 1, total: 1 });
    return Promise.resolve({ imageId, ref: options.ref ?? null, diffId: null, size: 0, whileMounted: false });
  }

  usage(name: string): Promise<Usage> {
    this.findContainer(name);
    return Promise.resolve({ bytes: 4096, inodes: 1 });
  }

  gc(options: GcOptions): Promise<GcReport> {
    const removed = [{ kind: 'layer', id: sha256('x'), bytes: 3, why: 'nothing refers to it' }] as const;
    const { dryRun = false } = options;
    return Promise.resolve({ dryRun, removed: [...removed], bytes: 3, freed: 0, pinned: 0, durationMs: 0.5 });
  }

  check(): Promise<CheckReport> {
    return Promise.resolve({
      ok: false,
      problems: [
        {
          severity: 'damage',
          code: 'LAYER_CORRUPT',
          subject: sha256('x'),
          message: 'm',
          affects: [],
          hint: '',
          repaired: false,
        },
      ],
      layersChecked: 1,
      bytesRead: 1,
      unverifiable: [],
      durationMs: 1.5,
    });
  }

  migrate({ to }: { to: DriverName }, progress: OnProgress): Promise<MigrateReport> {
    progress({ phase: 'migrate', subject: 'layer', done: 1, total: 1 });
    const nothing = { layers: 0, bytes: 0, chains: 0, chainsLeft: 0, failures: [], containers: [], durationMs: 1 };
    return Promise.resolve({ to, ...nothing, afterRestart: 'the same' });
  }

  diskUsage(): Promise<DiskReport> {
    return Promise.resolve({
      total: 4096,
      rows: [{ kind: 'metadata', id: 'db', bytes: 4096, inodes: 1, users: [] }],
      images: this.images().map(({ id, refs, unique, shared }) => ({ id, refs, unique, shared })),
      reclaimable: 0,
      sharedExtents: null,
      uppersMeasured: null,
    });
  }

  why(subject: string): Promise<WhyReport> {
    return Promise.resolve({ subject, kind: 'unknown', paths: [[subject, 'nothing']], conclusion: 'nothing keeps it' });
  }

  createLease(options: {
    id?: string;
    ttlMs?: number;
    labels?: Record<string, string>;
    holds?: string[];
  }): Promise<Lease> {
    const id = options.id ?? `lease-${this.leases_.size}`;
    if (this.leases_.has(id)) throw new LayerdError('LEASE_EXISTS', `the lease ${id} exists`);
    const expires = options.ttlMs === undefined ? null : 1 + options.ttlMs;
    const lease = { id, created: 1, expires, labels: options.labels ?? {}, holds: [] };
    this.leases_.set(id, lease);
    return Promise.resolve(lease);
  }

  leases(): Lease[] {
    return [...this.leases_.values()];
  }

  updateLease(id: string, change: { ttlMs?: number; add?: string[] }): Promise<Lease> {
    const lease = this.leases_.get(id);
    if (lease === undefined) throw new LayerdError('LEASE_NOT_FOUND', `there is no lease ${id}`);
    if (change.ttlMs !== undefined) lease.expires = 1 + change.ttlMs;
    return Promise.resolve(lease);
  }

  removeLease(id: string): Promise<void> {
    if (!this.leases_.delete(id)) throw new LayerdError('LEASE_NOT_FOUND', `there is no lease ${id}`);
    return Promise.resolve();
  }

  async *events(since: number, follow: boolean, signal: AbortSignal): AsyncGenerator<EngineEvent> {
    let next = since;
    for (;;) {
      while (next < this.log.length) {
        const event = this.log[next++];
        if (event !== undefined) yield event;
      }
      if (!follow || signal.aborted) return;
      await new Promise<void>((resolve) => {
        this.followers.add(resolve);
        signal.addEventListener('abort', () => resolve(), { once: true });
      });
    }
  }

  private emit(type: EngineEvent['type'], subject: string): void {
    this.log.push({ seq: this.log.length + 1, time: 1, type, subject, data: { ok: true, note: null, n: 1 } });
    for (const wake of this.followers) wake();
    this.followers.clear();
  }

  private find(name: string): Image {
    const found = [...this.images_.values()].find(({ id, refs }) => id === name || refs.includes(name));
    if (found !== undefined) return found;
    throw new LayerdError('IMAGE_NOT_FOUND', `there is no image ${name}`, { details: { name }, hint: 'Load it.' });
  }

  private findContainer(name: string): ContainerSummary {
    const found = [...this.containers_.values()].find((one) => one.id === name || one.name === name);
    if (found !== undefined) return found;
    throw new LayerdError('CONTAINER_NOT_FOUND', `there is no container ${name}`, { details: { name } });
  }
}

function summary({ id, bytes, refs }: Image): ImageSummary {
  return { id, refs, created: 1, size: bytes.length, unique: bytes.length, shared: 0, platform: 'linux/amd64' };
}

function treeNode({ id, bytes, refs }: Image, children: LayerTreeNode[]): LayerTreeNode {
  return { chainId: id, diffId: id, size: bytes.length, images: refs, containers: [], children };
}

function layerOf({ id, bytes }: Image): LayerSummary {
  return {
    diffId: id,
    size: bytes.length,
    entries: 1,
    disk: 4096,
    drivers: ['copy'],
    created: 1,
    chains: [{ chainId: id, parent: null }],
    images: [id],
    containers: [],
  };
}
