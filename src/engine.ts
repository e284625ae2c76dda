/** The composition root: owns every long-lived object of the store, and answers what doors ask. */
import { chmodSync, mkdirSync, readFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { release } from 'node:os';
import { dirname } from 'node:path';
import type { Logger } from 'pino';
import type {
  ArchiveInput,
  CopyOptions,
  EngineApi,
  ImportOptions,
  KeptAnswer,
  LoadOptions,
  Once,
  OnProgress,
  PullOptions,
  PushOptions,
  RegistryOptions,
  RemoteOptions,
  SaveOptions,
} from './core/api.js';
import type { EngineConfig, ReloadableEngineConfig } from './core/engine-config.js';
import type { Digest } from './core/digest.js';
import { LayerdError, toLayerdError } from './core/errors.js';
import { lazily } from './core/lazily.js';
import { Places } from './core/places.js';
import { elapsedMs } from './core/units.js';
import { VERSION } from './core/version.js';
import type * as words from './core/words.js';
import { placeDatabase, refuseLostDatabase, refuseUnreadable, setDatabaseAside } from './disk/database-files.js';
import { Possession } from './disk/possession.js';
import { Images } from './image/images.js';
import { Rebuilder, type RebuildReport } from './image/rebuild.js';
import { fileSystemType, kernelFeatures } from './linux/features.js';
import { linuxAvailable } from './linux/libc.js';
import { buildCacheEntry } from './metadata/operations/build-cache.js';
import { checkBackup } from './metadata/database.js';
import { MetadataReader } from './metadata/reader.js';
import { MetadataWriter } from './metadata/writer.js';
import { Backups } from './store/backups.js';
import { Chains } from './store/chains.js';
import { Checker } from './store/checker.js';
import { Collector } from './store/collector.js';
import { Containers } from './store/containers.js';
import type { StoreContext } from './store/context.js';
import { Discards } from './store/discards.js';
import { Conversions } from './store/conversions.js';
import { DiskReporter } from './store/disk-report.js';
import { afterRestart, chooseDriver, requireDriver, type DriverChoice } from './store/driver-choice.js';
import { EventLog } from './store/event-log.js';
import { ImageFiles } from './store/image-files.js';
import { Explainer } from './store/why.js';
import { Layers } from './store/layers.js';
import { Leases } from './store/leases.js';
import { LayerListing } from './store/listing.js';
import { Migrator } from './store/migrator.js';
import { StoreMetrics } from './store/metrics.js';
import { SnapshotBytes } from './store/snapshot-bytes.js';
import { SnapshotDirectories } from './store/snapshot-directories.js';
import { Snapshots } from './store/snapshots.js';
import { Stock } from './store/stock.js';
import { damagedLayers, recover, type RecoveryReport } from './store/recovery.js';
import { Trees } from './store/trees.js';
import { WriteBehind } from './store/write-behind.js';
import { laneSizes } from './workers/lanes.js';
import { WorkerPool } from './workers/pool.js';

interface ArchiveParts {
  layers: Layers;
  images: Images;
  leases: Leases;
  containers: Containers;
}

/** Of what a start found, so many are named in the log. */
const TOLD = 20;

type Archives = Awaited<ReturnType<typeof openArchives>>;
type Remotes = Awaited<ReturnType<typeof openRegistries>>;

export class Engine implements EngineApi {
  /** What the start found to put right. */
  readonly recovery: RecoveryReport;
  private readonly config: EngineConfig;
  private readonly context: StoreContext;
  private choice: DriverChoice;
  private readonly possession: Possession;
  private readonly started = Date.now();
  private readonly loopDelay = monitorEventLoopDelay({ resolution: 10 });
  private readonly layerStore: Layers;
  private readonly listing: LayerListing;
  private readonly imageStore: Images;
  private readonly imageFiles: ImageFiles;
  private readonly archives: () => Promise<Archives>;
  private readonly registries: () => Promise<Remotes>;
  /** Ends the connections to registries, if there were any. */
  private closeRegistries: () => Promise<void> = () => Promise.resolve();
  private readonly containerStore: Containers;
  private readonly leaseStore: Leases;
  private readonly migrator: Migrator;
  /** Snapshots that doors name. */
  readonly snapshots: Snapshots;
  /** Makes layers of what doors committed as it lay there. */
  readonly conversions: Conversions;
  private readonly writeBehind: WriteBehind;
  private readonly collector: Collector;
  private readonly checker: Checker;
  private readonly diskReporter: DiskReporter;
  private readonly explainer: Explainer;
  private readonly backups: Backups;
  private readonly eventLog: EventLog;
  private readonly storeMetrics: StoreMetrics;
  private readonly closing = new AbortController();
  /** What a start looks through while it serves; done once. */
  private looking: Promise<void> = Promise.resolve();

  private constructor(parts: {
    config: EngineConfig;
    context: StoreContext;
    choice: DriverChoice;
    possession: Possession;
    recovery: RecoveryReport;
  }) {
    const { config, context } = parts;
    this.config = config;
    this.context = context;
    this.choice = parts.choice;
    this.possession = parts.possession;
    this.recovery = parts.recovery;
    const { layers, images, leases, chains, imageFiles } = partsOf(context);
    this.layerStore = layers;
    this.imageStore = images;
    this.imageFiles = imageFiles;
    this.leaseStore = leases;
    this.listing = new LayerListing(context);
    const trees = new Trees(context);
    const background = { trees, discards: new Discards(context), stock: new Stock(context) };
    const bytes = new SnapshotBytes(context, this.layerStore);
    const directories = new SnapshotDirectories(context, background);
    this.containerStore = new Containers(context, { ...background, bytes, directories });
    this.collector = new Collector(context, { ...background, imageFiles }, collectorSettings(config));
    const removed = () => this.collector.soon();
    const layerParts = { layers: this.layerStore, leases: this.leaseStore, chains, removed };
    this.conversions = new Conversions(context, layerParts);
    const { conversions } = this;
    const collect = async (): Promise<void> => {
      await this.collector.run();
    };
    this.writeBehind = new WriteBehind(context);
    const { writeBehind } = this;
    this.snapshots = new Snapshots(context, {
      ...background,
      ...layerParts,
      bytes,
      directories,
      conversions,
      collect,
      writeBehind,
    });
    this.migrator = new Migrator(context, { chains, leases: this.leaseStore });
    this.archives = lazily(() =>
      openArchives(context, {
        layers: this.layerStore,
        images: this.imageStore,
        leases: this.leaseStore,
        containers: this.containerStore,
      }),
    );
    this.registries = lazily(async () => {
      const { loader } = await this.archives();
      const stored = { layers: this.layerStore, images: this.imageStore, leases: this.leaseStore, loader };
      const remotes = await openRegistries(context, config.registry, stored);
      this.closeRegistries = () => remotes.registries.close();
      return remotes;
    });
    this.checker = new Checker(context, { layers: this.layerStore, leases: this.leaseStore });
    this.diskReporter = new DiskReporter(context, () => this.collector.unneeded());
    this.explainer = new Explainer(context);
    this.backups = new Backups(context);
    this.eventLog = new EventLog(context);
    this.storeMetrics = new StoreMetrics(context);
    this.loopDelay.enable();
  }

  /**
   * Takes root and run directory, opens (or makes) the store, brings database, disk and mounts together, and starts the
   * collector. Throws STORE_LOCKED or RUN_IN_USE naming the holder, DRIVER_UNAVAILABLE, STORE_NEWER, …
   */
  static open(config: EngineConfig, log: Logger): Promise<Engine> {
    return Engine.start(config, log, {
      before: refuseLostDatabase,
      with: () => Promise.resolve(),
    });
  }

  /** Sets the database aside, and makes a new one from the files. The engine is closed again. */
  static async rebuild(config: EngineConfig, log: Logger): Promise<RebuildReport> {
    let report: RebuildReport | null = null;
    const engine = await Engine.start(config, log, {
      before: setDatabaseAside,
      with: async (context) => {
        const { images, leases } = partsOf(context);
        report = await new Rebuilder(context, { images, leases }).run();
      },
    });
    await engine.looking;
    await engine.close();
    if (report === null) throw new LayerdError('INTERNAL', 'the rebuilding did not come to its end');
    return report;
  }

  /**
   * Puts a copy that {@link backup} made in the place of the database. What was stored since is gone with the next start.
   * Returns where the database that was there lies now; null where there was none.
   */
  static restore(config: EngineConfig, file: string): string | null {
    refuseUnreadable(file);
    const places = new Places(config.root, config.run);
    const possession = Possession.take(places);
    try {
      return placeDatabase(places, file, checkBackup);
    } finally {
      possession.release();
    }
  }

  /** `before` is called when the root is ours, `with` when rows and workers can be used, before they are compared with the disk. */
  private static async start(
    config: EngineConfig,
    log: Logger,
    steps: { before: (places: Places) => void; with: (context: StoreContext) => Promise<void> },
  ): Promise<Engine> {
    const places = new Places(config.root, config.run);
    const possession = Possession.take(places);
    let writer: MetadataWriter | null = null;
    let reader: MetadataReader | null = null;
    let pool: WorkerPool | null = null;
    try {
      steps.before(places);
      makeDirectories(places);
      pool = new WorkerPool(
        { root: config.root, run: config.run, driverOptions: config.driverOptions, limits: config.limits },
        laneSizes(config),
      );
      // The two threads start at once, on as many cores.
      const probing = pool.run('short', 'drivers.probe', undefined);
      const [opened, probes] = await Promise.allSettled([MetadataWriter.open(places.database), probing]);
      if (opened.status === 'rejected') throw opened.reason;
      writer = opened.value;
      if (probes.status === 'rejected') throw probes.reason;
      reader = new MetadataReader(places.database);
      const choice = chooseDriver(config, probes.value, reader.notedDriver());
      const context: StoreContext = {
        places,
        reader,
        writer,
        pool,
        log,
        driver: choice.driver,
        overlays: new Set(probes.value.filter(({ overlays }) => overlays).map(({ name }) => name)),
        keepingTars: new Set(probes.value.filter(({ keepsTars }) => keepsTars).map(({ name }) => name)),
        keepBlobs: config.keepBlobs,
        boot: bootId(),
        staging: new Set(),
        stock: new Set(),
        leftovers: new Set(),
        overdue: new Set(),
      };
      const began = performance.now();
      await steps.with(context);
      const recovery = await recover(context);
      await tellRecovery(context, recovery, began);
      const engine = new Engine({ config, context, choice, possession, recovery });
      engine.collector.start();
      engine.looking = engine.lookThrough();
      return engine;
    } catch (thrown) {
      await pool?.close();
      await writer?.close();
      reader?.close();
      possession.release();
      throw thrown;
    }
  }

  /** Looks into every layer and image, which takes its time in a large store: what crashed or went wrong meanwhile is told. */
  private async lookThrough(): Promise<void> {
    const { context } = this;
    const { signal } = this.closing;
    try {
      await this.imageFiles.writeAll(signal);
      const damaged = await damagedLayers(context, signal);
      if (damaged.length === 0) return;
      context.log.warn({ damaged: damaged.length, damaged_layers: damaged.slice(0, TOLD) }, 'layers are damaged');
      await context.writer.run('recordEvent', {
        type: 'store.recover',
        subject: '',
        data: { damaged: damaged.length },
      });
    } catch (thrown) {
      if (signal.aborted) return;
      context.log.error({ error: toLayerdError(thrown).toBody() }, 'looking through the store failed');
    }
  }

  /** Takes settings that can change while it runs. */
  reconfigure(change: ReloadableEngineConfig): void {
    this.collector.reconfigure(collectorSettings({ ...this.config, ...change }));
  }

  /** Ends what runs, closes the database and lets go of the root. Mounts stay. */
  async close(): Promise<void> {
    this.closing.abort();
    this.loopDelay.disable();
    await this.looking;
    this.eventLog.close();
    this.writeBehind.close();
    await this.conversions.close();
    await this.collector.close();
    await this.closeRegistries();
    await this.context.pool.close();
    await this.context.writer.close();
    this.context.reader.close();
    this.possession.release();
  }

  /** Where it keeps things, and how. */
  placement(): Pick<words.Info, 'root' | 'run' | 'fileSystem' | 'driver' | 'driverReason'> {
    const { root, run } = this.context.places;
    const { driver, reason } = this.choice;
    return { root, run, fileSystem: fileSystemType(root), driver, driverReason: reason };
  }

  async info(): Promise<words.Info> {
    const { images, layers, containers, leases } = this.context.reader.counts();
    const { inflaterName } = await import('./content/compression.js');
    return {
      version: VERSION,
      pid: process.pid,
      node: process.version,
      ...this.placement(),
      drivers: this.choice.probes,
      kernel: kernelOf(),
      inflater: inflaterName(),
      counts: { images, layers, containers, leases },
      started: this.started,
      eventLoopDelayP99Ms: this.loopDelay.percentile(99) / 1e6,
    };
  }

  async health(): Promise<{ ok: boolean; problems: string[] }> {
    const problems: string[] = [];
    await this.context.writer.run('ping', null).catch((thrown: Error) => problems.push(thrown.message));
    await this.context.pool
      .run('short', 'store.frame', undefined)
      .catch((thrown: Error) => problems.push(thrown.message));
    return { ok: problems.length === 0, problems };
  }

  metrics(): Promise<string> {
    return this.storeMetrics.text(this.loopDelay.percentile(99) / 1e9);
  }

  answered(key: string): KeptAnswer | undefined {
    return this.context.reader.answered(key, this.context.boot);
  }

  async load(
    input: ArchiveInput,
    options: LoadOptions,
    progress: OnProgress,
    signal: AbortSignal,
  ): Promise<words.LoadResult> {
    const { loader } = await this.archives();
    try {
      return await loader.load(input, options, progress, signal);
    } finally {
      // What a load that failed had brought, or an image that lost its name, goes without waiting for the interval.
      this.collector.soon();
    }
  }

  async pull(ref: string, options: PullOptions, progress: OnProgress, signal: AbortSignal): Promise<words.PullResult> {
    const { puller } = await this.registries();
    try {
      return await puller.pull(ref, options, progress, signal);
    } finally {
      this.collector.soon();
    }
  }

  async push(name: string, options: PushOptions, progress: OnProgress, signal: AbortSignal): Promise<words.PushResult> {
    const { pusher } = await this.registries();
    try {
      return await pusher.push(name, options, progress, signal);
    } finally {
      this.collector.soon();
    }
  }

  async tags(
    name: string,
    options: RegistryOptions & { digest?: string },
    signal: AbortSignal,
  ): Promise<words.TagList> {
    const { registries, listTags } = await this.registries();
    return listTags(registries, name, options, signal);
  }

  async copy(
    source: string,
    target: string,
    options: CopyOptions,
    progress: OnProgress,
    signal: AbortSignal,
  ): Promise<words.CopyResult> {
    const { copier } = await this.registries();
    return copier.copy(source, target, options, progress, signal);
  }

  async remoteArchive(ref: string, options: RemoteOptions, signal: AbortSignal): Promise<AsyncIterable<Buffer>> {
    const { copier } = await this.registries();
    return copier.archive(ref, options, signal);
  }

  async importArchive(
    input: ArchiveInput,
    options: ImportOptions,
    progress: OnProgress,
    signal: AbortSignal,
  ): Promise<words.PushResult> {
    const { copier } = await this.registries();
    try {
      return await copier.import(input, options, progress, signal);
    } finally {
      this.collector.soon();
    }
  }

  async save(options: SaveOptions, signal: AbortSignal): Promise<{ stream: AsyncIterable<Buffer>; notice: string }> {
    const { saver } = await this.archives();
    return saver.save(options, signal);
  }

  images(): Iterable<words.ImageSummary> {
    return this.imageStore.list();
  }

  image(name: string): words.ImageDetail {
    return this.imageStore.detail(this.imageStore.find(name));
  }

  history(name: string): words.HistoryRow[] {
    return this.imageStore.history(this.imageStore.find(name));
  }

  async extendImage(name: string, change: words.ImageChanges & { layer: Digest | null }): Promise<words.ExtendedImage> {
    const { committer } = await this.archives();
    return committer.extend(name, change);
  }

  tag(source: string, target: string): Promise<words.ImageSummary> {
    return this.imageStore.tag(source, target);
  }

  async removeImage(name: string, options: { force?: boolean }, once?: Once): Promise<words.RemovedImage> {
    const removed = await this.imageStore.remove(name, options.force ?? false, once);
    this.collector.soon();
    return removed;
  }

  layers(): Iterable<words.LayerSummary> {
    return this.listing.list();
  }

  layer(digestOrPrefix: string): words.LayerSummary {
    return this.listing.summary(this.listing.find(digestOrPrefix));
  }

  layerTree(): words.LayerTreeNode[] {
    return this.listing.tree();
  }

  async layerTar(digestOrPrefix: string, signal: AbortSignal): ReturnType<EngineApi['layerTar']> {
    const row = this.listing.find(digestOrPrefix);
    return { stream: this.layerStore.tar(row, signal), size: row.size, diffId: row.diff_id };
  }

  createContainer(image: string, options: words.CreateContainerOptions, once?: Once): Promise<words.ContainerSummary> {
    return this.containerStore.create(this.imageStore.find(image), image, options, once);
  }

  containers(): Iterable<words.ContainerSummary> {
    return this.containerStore.list();
  }

  container(name: string): words.ContainerDetail {
    return this.containerStore.detail(this.containerStore.find(name));
  }

  mount(name: string, once?: Once): Promise<words.MountResult> {
    return this.containerStore.mount(name, once);
  }

  mountInstructions(name: string): Promise<words.MountInstruction[]> {
    return this.containerStore.instructions(name);
  }

  unmount(name: string, options: { force?: boolean }, once?: Once): Promise<{ mounts: number }> {
    return this.containerStore.unmount(name, options.force ?? false, once);
  }

  async removeContainer(name: string, options: { force?: boolean }, once?: Once): Promise<{ id: string }> {
    const removed = await this.containerStore.remove(name, options.force ?? false, once);
    this.collector.soon();
    return removed;
  }

  async changes(name: string, signal: AbortSignal): Promise<AsyncIterable<words.Change[]>> {
    this.containerStore.find(name);
    return this.containerStore.changes(name, signal);
  }

  async diff(name: string, signal: AbortSignal): Promise<AsyncIterable<Buffer>> {
    return this.containerStore.diff(name, signal);
  }

  async exportContainer(name: string, signal: AbortSignal): Promise<AsyncIterable<Buffer>> {
    return this.containerStore.export(name, signal);
  }

  async commit(
    name: string,
    options: words.CommitOptions,
    progress: OnProgress,
    signal: AbortSignal,
  ): Promise<words.CommitResult> {
    const { committer } = await this.archives();
    try {
      return await committer.commit(name, options, progress, signal);
    } finally {
      this.collector.soon();
    }
  }

  usage(name: string): Promise<words.Usage> {
    return this.containerStore.usage(name);
  }

  gc(options: words.GcOptions): Promise<words.GcReport> {
    return this.collector.run(options);
  }

  check(options: words.CheckOptions, progress: OnProgress, signal: AbortSignal): Promise<words.CheckReport> {
    return this.checker.check(options, progress, signal);
  }

  async migrate(
    { to }: { to: words.DriverName },
    progress: OnProgress,
    signal: AbortSignal,
  ): Promise<words.MigrateReport> {
    const probes = await this.context.pool.run('short', 'drivers.probe', undefined);
    const { reason } = requireDriver(
      to,
      probes.find(({ name }) => name === to),
    );
    this.choice = { ...this.choice, driver: to, reason: `the store was migrated to it: ${reason}` };
    const migrated = await this.migrator.migrate(to, progress, signal);
    this.collector.soon();
    return { ...migrated, afterRestart: afterRestart(this.config.driver, to) };
  }

  backup(signal: AbortSignal): Promise<AsyncIterable<Buffer>> {
    return this.backups.take(signal);
  }

  diskUsage(): Promise<words.DiskReport> {
    return this.diskReporter.report();
  }

  async why(subject: string): Promise<words.WhyReport> {
    return this.explainer.explain(subject);
  }

  bindBuildCache(step: words.BuildCacheKey & { layer: Digest | null }): Promise<words.BuildCacheEntry> {
    return this.context.writer.run('bindBuildCache', step);
  }

  useBuildCache(step: words.BuildCacheKey): Promise<words.BuildCacheEntry | null> {
    return this.context.writer.run('useBuildCache', step);
  }

  buildCache(): words.BuildCacheEntry[] {
    return this.context.reader.buildCache().map(buildCacheEntry);
  }

  async removeBuildCache(ids: readonly number[]): Promise<{ removed: number[] }> {
    const removed = await this.context.writer.run('removeBuildCache', { ids: ids.length === 0 ? null : ids });
    this.collector.soon();
    return { removed };
  }

  createLease(options: Parameters<EngineApi['createLease']>[0], once?: Once): Promise<words.Lease> {
    return this.leaseStore.create(options, once);
  }

  leases(): words.Lease[] {
    return this.leaseStore.list();
  }

  updateLease(id: string, change: { ttlMs?: number; add?: string[] }): Promise<words.Lease> {
    return this.leaseStore.update(id, change);
  }

  async removeLease(id: string, once?: Once): Promise<void> {
    await this.leaseStore.remove(id, once);
    this.collector.soon();
  }

  events(since: number, follow: boolean, signal: AbortSignal): AsyncIterable<words.EngineEvent> {
    return this.eventLog.read(since, follow, signal);
  }
}

/** The parts that know layers and images. */
function partsOf(context: StoreContext) {
  const layers = new Layers(context);
  const chains = new Chains(context, layers);
  const imageFiles = new ImageFiles(context);
  const images = new Images(context, { chains, files: imageFiles });
  return { layers, chains, imageFiles, images, leases: new Leases(context) };
}

/** What reads and writes images, which no start needs. */
async function openArchives(context: StoreContext, parts: ArchiveParts) {
  const [{ Loader }, { Saver }, { Committer }] = await Promise.all([
    import('./image/load.js'),
    import('./image/save.js'),
    import('./image/commit.js'),
  ]);
  return {
    loader: new Loader(context, parts.layers, parts.images, parts.leases),
    saver: new Saver(context, parts),
    committer: new Committer(context, parts),
  };
}

/** What speaks to registries. */
async function openRegistries(
  context: StoreContext,
  config: EngineConfig['registry'],
  stored: Omit<ArchiveParts, 'containers'> & Pick<Archives, 'loader'>,
) {
  const [{ Registries }, { Puller }, { Pusher }, { Copier }, { listTags }] = await Promise.all([
    import('./image/registry/registries.js'),
    import('./image/registry/pull.js'),
    import('./image/registry/push.js'),
    import('./image/registry/copy.js'),
    import('./image/registry/search.js'),
  ]);
  const parts = { ...stored, registries: new Registries(config) };
  const pusher = new Pusher(context, parts);
  return {
    registries: parts.registries,
    puller: new Puller(context, parts),
    pusher,
    copier: new Copier(parts, pusher),
    listTags,
  };
}

function collectorSettings(config: ReloadableEngineConfig) {
  return { ...config.gc, buildCache: config.buildCache, maxEvents: config.events.maxRows };
}

function kernelOf(): words.Info['kernel'] {
  if (!linuxAvailable().available) return { release: release(), features: {} };
  const { release: kernel, mountApi, overlay, erofs } = kernelFeatures();
  return {
    release: kernel,
    features: {
      mountApi,
      overlay: overlay !== null,
      overlayByDescriptor: overlay === 'fd',
      erofsFromFiles: erofs === 'files',
    },
  };
}

function makeDirectories(places: Places): void {
  chmodSync(places.root, 0o700);
  const { layers, snapshots, trees, blobs, images, trash, empty } = places;
  for (const path of [dirname(places.database), layers, snapshots, trees, blobs, images, trash, empty])
    mkdirSync(path, { recursive: true, mode: 0o700 });
  for (const path of [places.layerMounts, places.merged]) mkdirSync(path, { recursive: true, mode: 0o700 });
}

async function tellRecovery(context: StoreContext, recovery: RecoveryReport, began: number): Promise<void> {
  const { strays, mounts, unmounted, leases } = recovery;
  const data = { strays: strays.length, mounts: mounts.length, unmounted: unmounted.length, leases };
  if (Object.values(data).every((count) => count === 0)) return;
  const paths = strays.slice(0, TOLD);
  context.log.warn({ ...data, paths, duration_ms: elapsedMs(began) }, 'store recovered');
  await context.writer.run('recordEvent', { type: 'store.recover', subject: '', data });
}

function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    // Not Linux: nothing is mounted there, so nothing depends on it.
    return 'unknown';
  }
}
