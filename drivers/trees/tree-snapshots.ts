/**
 * Snapshots as trees of their own, s/DIR/t, made from the tree of their chain: what the drivers that keep such trees
 * have in common. A driver says how the tree comes to be, and what in it was certainly not touched since.
 */
import type { BigIntStats } from 'node:fs';
import { join } from 'node:path';
import type { ByteSource } from '../../src/content/source.js';
import { bytesOf, displayBytes, toBuffer, type ByteString } from '../../src/core/bytes.js';
import type { Change, MountInstruction, Usage } from '../../src/core/words.js';
import type { DriverContext, SnapshotKeeper, SnapshotSpec } from '../driver.js';
import type { ChainTrees } from './chain-trees.js';
import { compare, type Finding } from './changes.js';
import type { Disk } from './disk.js';
import { MountedRoot } from './mounted-root.js';
import { tarOfFindings } from './tar.js';
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
    for await (const findings of this.findings(spec)) {
      for (const { path, kind } of findings) if (kind !== 'same') yield changeOf(path, kind);
    }
  }

  async *diff(spec: SnapshotSpec): ByteSource {
    for await (const findings of this.findings(spec)) {
      const changed = findings.filter((finding) => finding.kind !== 'same');
      yield* this.tar(spec, withLinks(findings, changed));
    }
  }

  async *root(spec: SnapshotSpec): ByteSource {
    for await (const findings of this.findings(spec)) {
      yield* this.tar(
        spec,
        findings.filter((finding) => finding.stat !== null),
      );
    }
  }

  sync(spec: SnapshotSpec): void {
    this.tools.sync(this.path(spec));
  }

  release(spec: SnapshotSpec, options: { force: boolean }): void {
    this.unmount(spec, options);
  }

  protected path(spec: SnapshotSpec): string {
    return join(this.context.places.snapshot(spec.dir), 't');
  }

  /** All paths of the container, held against its image; one batch. */
  private async *findings(spec: SnapshotSpec): AsyncGenerator<Finding[]> {
    const merged = await this.trees.merged(spec.stack);
    const pristine = this.tools.openDisk(await this.trees.root(spec.stack));
    const disk = this.tools.openDisk(this.path(spec));
    try {
      yield [...compare({ disk, pristine, merged, untouched: this.untouchedSince(spec, pristine) })];
    } finally {
      disk.close();
      pristine.close();
    }
  }

  private *tar(spec: SnapshotSpec, findings: readonly Finding[]): Generator<Buffer> {
    const disk = this.tools.openDisk(this.path(spec));
    try {
      yield* tarOfFindings(disk, findings);
    } finally {
      disk.close();
    }
  }
}

/** Names that share an inode with a changed one belong to the diff, or the link between them would be lost. */
function withLinks(findings: readonly Finding[], changed: readonly Finding[]): Finding[] {
  const inodes = new Set(
    changed.filter(({ stat }) => stat !== null && stat.nlink > 1n && !stat.isDirectory()).map(({ stat }) => stat?.ino),
  );
  if (inodes.size === 0) return [...changed];
  return findings.filter((finding) => finding.kind !== 'same' || inodes.has(finding.stat?.ino));
}

function changeOf(path: ByteString, kind: Change['kind']): Change {
  const shown = displayBytes(path);
  const bytes = toBuffer(path);
  return { kind, path: `/${shown}`, ...(bytesOf(shown) === path ? {} : { bytes: bytes.toString('base64') }) };
}
