/**
 * Snapshots as trees of their own, s/DIR/t, made from the tree of their chain: what the drivers that keep such trees
 * have in common. A driver says how the tree comes to be, and what in it was certainly not touched since.
 */
import type { BigIntStats } from 'node:fs';
import { join } from 'node:path';
import type { MergedNode } from '../../src/content/merge.js';
import type { ByteSource } from '../../src/content/source.js';
import { changeOf } from '../../src/content/upper.js';
import type { ByteString } from '../../src/core/bytes.js';
import type { Change, MountInstruction, Usage } from '../../src/core/words.js';
import { onlyLayers, type DriverContext, type SnapshotKeeper, type SnapshotSpec } from '../driver.js';
import type { ChainTrees } from './chain-trees.js';
import { compare, type Finding } from './changes.js';
import type { Disk } from './disk.js';
import { MountedRoot } from './mounted-root.js';
import { tarOfChanges, tarOfFindings } from './tar.js';
import type { TreeTools } from './tools.js';

export abstract class TreeSnapshots implements SnapshotKeeper {
  protected readonly context: DriverContext;
  protected readonly trees: ChainTrees;
  protected readonly tools: TreeTools;
  private readonly mounted: MountedRoot;

  constructor(context: DriverContext, trees: ChainTrees, tools: TreeTools) {
    this.context = context;
    this.trees = trees;
    this.tools = tools;
    this.mounted = new MountedRoot(context.places);
  }

  abstract create(spec: SnapshotSpec): Promise<void>;

  abstract usage(spec: SnapshotSpec): Usage;

  /** Tells of a path of the snapshot, by its `stat`, whether it was surely not touched since the snapshot was made. */
  protected abstract untouchedSince(
    spec: SnapshotSpec,
    pristine: Disk,
    merged: MergedNode,
  ): (path: ByteString, stat: BigIntStats) => boolean;

  instructions(spec: SnapshotSpec): MountInstruction[] {
    const options = ['rbind', spec.readOnly ? 'ro' : 'rw'];
    return [{ type: 'bind', source: this.path(spec), options }];
  }

  mount(spec: SnapshotSpec): string {
    return this.tools.canMount ? this.mounted.mount(spec, this.path(spec)) : this.path(spec);
  }

  unmount(spec: SnapshotSpec, options: { force: boolean }): void {
    if (this.tools.canMount) this.mounted.unmount(spec, options);
  }

  async *changes(spec: SnapshotSpec): AsyncGenerator<Change> {
    const findings = await this.findings(spec);
    for (const { path, kind } of findings.sort((a, b) => (a.path < b.path ? -1 : 1))) {
      if (kind !== 'same' && kind !== 'time') yield changeOf(kind, path);
    }
  }

  async *diff(spec: SnapshotSpec): ByteSource {
    yield* this.written(spec, tarOfChanges);
  }

  async *root(spec: SnapshotSpec): ByteSource {
    yield* this.written(spec, (disk, findings) => tarOfFindings(disk, findings.filter(isThere)));
  }

  release(spec: SnapshotSpec, options: { force: boolean }): void {
    this.unmount(spec, options);
  }

  protected path(spec: SnapshotSpec): string {
    return join(this.context.places.snapshot(spec.dir), 't');
  }

  private async *written(
    spec: SnapshotSpec,
    write: (disk: Disk, findings: readonly Finding[]) => Generator<Buffer>,
  ): ByteSource {
    const findings = await this.findings(spec);
    const disk = this.tools.openDisk(await this.source(spec));
    try {
      yield* write(disk, findings);
    } finally {
      disk.close();
    }
  }

  /** The tree to read: that of a view is the chain's, even if somebody found a way to write to the view. */
  private source(spec: SnapshotSpec): Promise<string> {
    return spec.readOnly ? this.trees.root(onlyLayers(spec.stack)) : Promise.resolve(this.path(spec));
  }

  /** All paths of the container, held against its image. */
  private async findings(spec: SnapshotSpec): Promise<Finding[]> {
    const stack = onlyLayers(spec.stack);
    const merged = await this.trees.merged(stack);
    const pristine = this.tools.openDisk(await this.trees.root(stack));
    const disk = this.tools.openDisk(await this.source(spec));
    const untouched = spec.readOnly ? () => true : this.untouchedSince(spec, pristine, merged);
    try {
      return compare({ disk, pristine, merged, untouched });
    } finally {
      disk.close();
      pristine.close();
    }
  }
}

function isThere({ stat }: Finding): boolean {
  return stat !== null;
}
