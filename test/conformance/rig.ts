/** A driver at work in a directory of its own: layers put in as the engine puts them in, snapshots taken of them. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Driver, RootAttributes, SnapshotSpec, StoredLayer } from '../../drivers/driver.js';
import { createDrivers, type Drivers } from '../../drivers/index.js';
import { catalogFile, catalogTree } from '../../src/content/catalog-file.js';
import { ingest, type Ingested } from '../../src/content/ingest.js';
import { inheritedDirectories } from '../../src/content/merge.js';
import type { ByteSource } from '../../src/content/source.js';
import type { DriverOptions } from '../../src/core/engine-config.js';
import { Places } from '../../src/core/places.js';
import type { DriverName } from '../../src/core/words.js';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { layerTar, type EntrySpec } from '../model/spec.js';
import { describeTree, type TreeListing } from '../reference/tree.js';
import { removeAll } from './file-system.js';
import { listTar } from './listing.js';

/** A layer to store: its entries, or its tar. */
export type LayerContent = readonly EntrySpec[] | Buffer;

export interface RigLayer extends StoredLayer {
  ingested: Ingested;
}

/** Layers upon each other, bottom first, and the attributes of their root. */
export interface RigStack {
  layers: readonly RigLayer[];
  root: RootAttributes;
}

const PLAIN_ROOT: RootAttributes = { mode: 0o755, uid: 0, gid: 0, mtime: { sec: 0, nsec: 0 } };

/** A script that waits for something is to fail, not to hold up the whole run. */
const EDIT_MS = 60_000;

export class Rig {
  readonly places: Places;
  readonly driver: Driver;
  readonly drivers: Drivers;
  readonly options: DriverOptions;
  private readonly path: string;
  private readonly layers: RigLayer[] = [];
  private readonly snapshots: RigSnapshot[] = [];
  private names = 0;

  constructor(path: string, name: DriverName, options: DriverOptions) {
    this.path = path;
    this.options = options;
    this.places = new Places(join(path, 'root'), join(path, 'run'));
    const { layers, snapshots, trees, blobs, empty, trash, layerMounts, merged } = this.places;
    for (const directory of [layers, snapshots, trees, blobs, empty, trash, layerMounts, merged]) {
      mkdirSync(directory, { recursive: true, mode: 0o700 });
    }
    this.drivers = createDrivers(this.places, options);
    this.driver = this.drivers(name);
  }

  /** A name that nothing here has yet. */
  newName(prefix: string): string {
    this.names += 1;
    return `${prefix}${this.names}`;
  }

  /** A path on the same file system, for what the tests of a suite have in common. */
  shared(name: string): string {
    return join(dirname(this.path), name);
  }

  /** A path for a file of the test. */
  file(name: string): string {
    return join(this.path, name);
  }

  /** Everything goes to the disk: some file systems count blocks only then. */
  writeBack(): void {
    execFileSync('sync', ['--file-system', this.path]);
  }

  async layer(
    content: LayerContent | ByteSource,
    driver: DriverName = this.driver.name,
    dir: string = this.newName('l'),
  ): Promise<RigLayer> {
    const source = Symbol.asyncIterator in content ? content : oneChunk(tarOf(content));
    const ingested = await ingest(source, this.drivers(driver).layers.begin(dir), {});
    const { diffId, size, opaqueRoot } = ingested;
    const layer: RigLayer = { driver, dir, diffId, size, opaqueRoot, ingested };
    this.layers.push(layer);
    return layer;
  }

  /** Stores the layers and gives each what its implied directories inherit. */
  async stack(contents: readonly LayerContent[], driverOf?: (index: number) => DriverName): Promise<RigStack> {
    let stack: RigStack = { layers: [], root: PLAIN_ROOT };
    for (const [index, content] of contents.entries()) {
      stack = await this.onto(stack, await this.layer(content, driverOf?.(index)));
    }
    return stack;
  }

  /** The stack with one more layer on top, which lies in no other stack. */
  async onto({ layers, root }: RigStack, layer: RigLayer): Promise<RigStack> {
    if (layer.ingested.implied) {
      const below = [];
      for (const lower of layers.toReversed()) {
        below.push(await this.tree(lower));
        if (lower.opaqueRoot) break;
      }
      const directories = inheritedDirectories(await this.tree(layer), below);
      await this.drivers(layer.driver).layers.inherit(layer, directories);
    }
    return { layers: [...layers, layer], root: layer.ingested.root ?? root };
  }

  async snapshot(stack: RigStack, options: Partial<Omit<SnapshotSpec, 'stack' | 'root'>> = {}): Promise<RigSnapshot> {
    const spec: SnapshotSpec = {
      dir: this.newName('s'),
      stack: stack.layers,
      root: stack.root,
      readOnly: false,
      sizeLimit: null,
      volatile: false,
      ...options,
    };
    await this.driver.snapshots.create(spec);
    const snapshot = new RigSnapshot(this, stack, spec);
    this.adopt(snapshot);
    return snapshot;
  }

  /** A snapshot that somebody else has made here. */
  adopt(snapshot: RigSnapshot): void {
    this.snapshots.push(snapshot);
  }

  /** A snapshot that somebody else has removed. */
  forget(snapshot: RigSnapshot): void {
    this.snapshots.splice(this.snapshots.indexOf(snapshot), 1);
  }

  view(stack: RigStack): Promise<RigSnapshot> {
    return this.snapshot(stack, { readOnly: true });
  }

  /** As the store removes a layer: let go of it, rename it away, unlink it later. */
  removeLayer(layer: RigLayer): void {
    this.drivers(layer.driver).layers.release(layer);
    const trash = join(this.places.trash, layer.dir);
    renameSync(this.places.layer(layer.dir), trash);
    removeAll(trash);
    this.layers.splice(this.layers.indexOf(layer), 1);
  }

  /** As the store removes what was made of whole chains, once no snapshot needs it. */
  removeTrees(): void {
    for (const name of readdirSync(this.places.trees)) {
      this.driver.trees?.release(name);
      const trash = join(this.places.trash, name);
      renameSync(this.places.tree(name), trash);
      removeAll(trash);
    }
  }

  /** Takes everything back; throws where the driver leaves something mounted. */
  dispose(): void {
    for (const snapshot of this.snapshots.toReversed()) snapshot.remove({ force: true });
    this.removeTrees();
    for (const layer of this.layers.toReversed()) this.removeLayer(layer);
    const left = mountsBelow(this.path).map(({ mountPoint }) => mountPoint);
    if (left.length > 0) throw new Error(`still mounted after everything was released: ${left.join(', ')}`);
    removeAll(this.path);
  }

  private tree(layer: RigLayer) {
    return catalogTree(catalogFile(this.places.layer(layer.dir)));
  }
}

/** A snapshot and what a test does with it. */
export class RigSnapshot {
  readonly spec: SnapshotSpec;
  private readonly rig: Rig;
  private readonly stack: RigStack;

  constructor(rig: Rig, stack: RigStack, spec: SnapshotSpec) {
    this.rig = rig;
    this.stack = stack;
    this.spec = spec;
  }

  /** The merged root. */
  mount(): string {
    return this.keeper.mount(this.spec);
  }

  unmount(): void {
    this.keeper.unmount(this.spec, { force: false });
  }

  /** Runs a shell script in the merged root, as a container would do it. */
  edit(script: string): void {
    execFileSync('sh', ['-euc', script], { cwd: this.mount(), stdio: ['ignore', 'ignore', 'pipe'], timeout: EDIT_MS });
  }

  /** The merged tree as another program sees it; where the disk does not hold all of it, as the export tells it. */
  async tree(): Promise<TreeListing> {
    return this.rig.driver.properties.fullFidelity ? describeTree(this.mount()) : this.exported();
  }

  /** The merged tree as the export tells it. */
  async exported(): Promise<TreeListing> {
    return listTar(await collect(this.keeper.root(this.spec)));
  }

  /** `A /path` for each change. */
  async changes(): Promise<string[]> {
    const lines: string[] = [];
    for await (const { kind, path } of this.keeper.changes(this.spec)) lines.push(`${kind} ${path}`);
    return lines;
  }

  diff(): Promise<Buffer> {
    return collect(this.keeper.diff(this.spec));
  }

  /** The stack with what was changed here as one more layer. */
  async commit(): Promise<RigStack> {
    return this.rig.onto(this.stack, await this.rig.layer(this.keeper.diff(this.spec)));
  }

  /** As the store removes it: let go of it, rename it away, unlink it later. */
  remove(options: { force: boolean } = { force: false }): void {
    this.keeper.release(this.spec, options);
    const trash = join(this.rig.places.trash, this.spec.dir);
    renameSync(this.rig.places.snapshot(this.spec.dir), trash);
    removeAll(trash);
    this.rig.forget(this);
  }

  private get keeper() {
    return this.rig.driver.snapshots;
  }
}

export function tarOf(content: LayerContent): Buffer {
  return Buffer.isBuffer(content) ? content : layerTar(content);
}

export async function collect(source: ByteSource): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const chunk of source) parts.push(Buffer.from(chunk));
  return Buffer.concat(parts);
}

export async function* oneChunk(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes;
}

/** A file of the test with these bytes. */
export function writeScratch(rig: Rig, name: string, bytes: Buffer): string {
  const path = rig.file(name);
  writeFileSync(path, bytes);
  return path;
}
