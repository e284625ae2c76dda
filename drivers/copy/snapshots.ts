/**
 * Snapshots as trees of their own: s/DIR/t is a clone of the chain's tree, s/DIR/state says when it was cloned. What has
 * a later ctime was touched since; what then differs from the tree it was cloned from is a change.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ByteSource } from '../../src/content/source.js';
import type { MergedNode } from '../../src/content/merge.js';
import { bytesOf, displayBytes, toBuffer, type ByteString } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import type { Change, MountInstruction, Usage } from '../../src/core/words.js';
import { measureTree } from '../../src/disk/usage.js';
import { syncfs } from '../../src/linux/sync.js';
import type { DriverContext, SnapshotKeeper, SnapshotSpec } from '../driver.js';
import { compare, type Comparison, type Finding } from './changes.js';
import type { Disk } from './disk.js';
import { materialize, payloadsFromTree, walkMerged } from './materialize.js';
import { ReadOnlyView } from './read-only.js';
import { tarOfFindings } from './tar.js';
import type { ChainTrees } from './trees.js';

export class CopySnapshots implements SnapshotKeeper {
  private readonly context: DriverContext;
  private readonly trees: ChainTrees;
  private readonly openDisk: (path: string) => Disk;
  private readonly ffi: boolean;
  private readonly views: ReadOnlyView;

  constructor(context: DriverContext, trees: ChainTrees, openDisk: (path: string) => Disk, ffi: boolean) {
    this.context = context;
    this.trees = trees;
    this.openDisk = openDisk;
    this.ffi = ffi;
    this.views = new ReadOnlyView(context.places);
  }

  async create(spec: SnapshotSpec): Promise<void> {
    if (spec.sizeLimit !== null) throw noSizeLimit();
    const merged = await this.trees.merged(spec.stack);
    const tree = this.openDisk(this.context.places.tree(await this.trees.ensure(spec.stack)));
    const directory = this.context.places.snapshot(spec.dir);
    mkdirSync(directory, { mode: 0o700 });
    mkdirSync(this.path(spec), { mode: 0o700 });
    const disk = this.openDisk(this.path(spec));
    try {
      await materialize(disk, merged, payloadsFromTree(disk, tree));
      await this.noteClone(spec, disk, merged);
    } finally {
      disk.close();
      tree.close();
    }
    this.syncTo(directory);
    this.syncTo(this.context.places.snapshots);
  }

  instructions(spec: SnapshotSpec): MountInstruction[] {
    const options = ['rbind', spec.readOnly ? 'ro' : 'rw'];
    return [{ type: 'bind', source: this.path(spec), options }];
  }

  mount(spec: SnapshotSpec): string {
    if (!spec.readOnly || !this.ffi) return this.path(spec);
    return this.views.mount(spec, this.path(spec));
  }

  unmount(spec: SnapshotSpec, options: { force: boolean }): void {
    if (spec.readOnly && this.ffi) this.views.unmount(spec, options.force);
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
    this.syncTo(this.path(spec));
  }

  usage(spec: SnapshotSpec): Usage {
    const { disk, inodes } = measureTree(this.context.places.snapshot(spec.dir));
    return { bytes: disk, inodes };
  }

  release(spec: SnapshotSpec, options: { force: boolean }): void {
    this.unmount(spec, options);
  }

  private path(spec: SnapshotSpec): string {
    return join(this.context.places.snapshot(spec.dir), 't');
  }

  private state(spec: SnapshotSpec): string {
    return join(this.context.places.snapshot(spec.dir), 'state');
  }

  /** All paths of the container, held against its image; one batch. */
  private async *findings(spec: SnapshotSpec): AsyncGenerator<Finding[]> {
    const merged = await this.trees.merged(spec.stack);
    const pristine = this.openDisk(this.context.places.tree(await this.trees.ensure(spec.stack)));
    const disk = this.openDisk(this.path(spec));
    try {
      const comparison: Comparison = { disk, pristine, merged, clonedNs: this.clonedNs(spec) };
      yield [...compare(comparison)];
    } finally {
      disk.close();
      pristine.close();
    }
  }

  private *tar(spec: SnapshotSpec, findings: readonly Finding[]): Generator<Buffer> {
    const disk = this.openDisk(this.path(spec));
    try {
      yield* tarOfFindings(disk, findings);
    } finally {
      disk.close();
    }
  }

  /** Notes the latest ctime of the clone, and lets the kernel's clock tick, so that every later change has a later one. */
  private async noteClone(spec: SnapshotSpec, disk: Disk, merged: MergedNode): Promise<void> {
    let latest = disk.stat('' as ByteString)?.ctimeNs ?? 0n;
    for (const [path] of walkMerged(merged)) {
      const ctime = disk.stat(path)?.ctimeNs ?? 0n;
      if (ctime > latest) latest = ctime;
    }
    const part = `${this.state(spec)}.new`;
    writeFileSync(part, JSON.stringify({ clonedNs: String(latest) }));
    renameSync(part, this.state(spec));
    await sleep(TICK_MS);
  }

  private clonedNs(spec: SnapshotSpec): bigint {
    const { clonedNs } = JSON.parse(readFileSync(this.state(spec), 'utf8')) as { clonedNs: string };
    return BigInt(clonedNs);
  }

  private syncTo(path: string): void {
    const fd = openSync(path, 'r');
    try {
      if (this.ffi) syncfs(fd);
      else fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  }
}

/** Longer than the kernel's coarse clock takes for a step, at 100 Hz. */
const TICK_MS = 12;

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

function noSizeLimit(): LayerdError {
  return new LayerdError('DRIVER_UNSUPPORTED', 'this driver cannot limit the size of a container', {
    hint: 'Leave the size limit out.',
  });
}
