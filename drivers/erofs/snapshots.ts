import type { ByteSource } from '../../src/content/source.js';
import type { Change, MountInstruction, Usage } from '../../src/core/words.js';
import type { DriverContext, RootAttributes, SealedUpper, SnapshotKeeper, SnapshotSpec } from '../driver.js';
import { OverlaySnapshots } from '../overlay-snapshots.js';
import { foldStack, isMergedLayer, type MergedStacks } from './merged.js';

/** Overlay snapshots in which a deep stack is one merged lower. Which stacks are is fixed: a recipe never changes. */
export class ErofsSnapshots implements SnapshotKeeper {
  private readonly overlay: OverlaySnapshots;
  private readonly merged: MergedStacks;

  constructor(context: DriverContext, merged: MergedStacks) {
    this.overlay = new OverlaySnapshots(context);
    this.merged = merged;
  }

  create(spec: SnapshotSpec): Promise<void> {
    return this.createAhead(spec, [spec.dir]);
  }

  takesLong(spec: SnapshotSpec): boolean {
    return fold(spec).stack.some((layer) => isMergedLayer(layer) && !this.merged.isThere(layer.stack));
  }

  async createAhead(spec: SnapshotSpec, dirs: readonly string[]): Promise<void> {
    const folded = fold(spec);
    for (const layer of folded.stack) if (isMergedLayer(layer)) await this.merged.ensure(layer.stack);
    return this.overlay.createAhead(folded, dirs);
  }

  instructions(spec: SnapshotSpec): MountInstruction[] {
    return this.overlay.instructions(fold(spec));
  }

  mount(spec: SnapshotSpec): string {
    return this.overlay.mount(fold(spec));
  }

  unmount(spec: SnapshotSpec, options: { force: boolean }): void {
    this.overlay.unmount(spec, options);
  }

  changes(spec: SnapshotSpec): AsyncIterable<Change> {
    return this.overlay.changes(fold(spec));
  }

  fewChanges(spec: SnapshotSpec, most: number): Change[] | null {
    return this.overlay.fewChanges(fold(spec), most);
  }

  diff(spec: SnapshotSpec): ByteSource {
    return this.overlay.diff(fold(spec));
  }

  root(spec: SnapshotSpec): ByteSource {
    return this.overlay.root(fold(spec));
  }

  seal(spec: SnapshotSpec, options: { sync: boolean; root: RootAttributes | null }): SealedUpper {
    return this.overlay.seal(spec, options);
  }

  changedSince(spec: SnapshotSpec, micros: number): boolean {
    return this.overlay.changedSince(spec, micros);
  }

  usage(spec: SnapshotSpec): Usage {
    return this.overlay.usage(spec);
  }

  release(spec: SnapshotSpec, options: { force: boolean }): void {
    this.overlay.release(spec, options);
  }
}

function fold(spec: SnapshotSpec): SnapshotSpec {
  return { ...spec, stack: foldStack(spec.stack) };
}
