/**
 * Snapshots as overlay mounts: what overlay2 and erofs have in common. A driver gives the lowers, this the rest.
 *
 *   s/DIR/u   the upper (a writable snapshot)
 *   s/DIR/w   overlay's work directory
 *   s/DIR/e   an empty directory on top of the lowers of a read-only snapshot: it carries the attributes of the root,
 *             and makes the second lower that overlay wants
 *   m/DIR     where we mount it
 */
import { closeSync, existsSync, mkdirSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { LayerNode } from '../src/content/layer-tree.js';
import { createPlainDirectory, setAttributes } from '../src/content/node-writer.js';
import type { ByteSource } from '../src/content/source.js';
import { tarOfTree } from '../src/content/tree-tar.js';
import { fewUpperChanges, upperChanges, upperDiff, type UpperPlaces } from '../src/content/upper.js';
import { OPAQUE_MARK } from '../src/content/overlay-marks.js';
import { publicXattrs } from '../src/content/tree-tar-writer.js';
import { bytesOf, fromBuffer, toBuffer } from '../src/core/bytes.js';
import { LayerdError } from '../src/core/errors.js';
import type { Change, MountInstruction, Usage } from '../src/core/words.js';
import { syncPath } from '../src/disk/sync.js';
import { measureTree, newestChange } from '../src/disk/usage.js';
import { AT_FDCWD, close, fdPath } from '../src/linux/files.js';
import { MOUNT_DATA_MAX } from '../src/linux/mount.js';
import { isMountPoint, removeMountPoint } from '../src/linux/mount-point.js';
import {
  escapeOption,
  OVERLAY_MAX_LOWERS,
  overlayMount,
  overlayMountAt,
  overlayParameter,
  type OverlaySpec,
} from '../src/linux/overlay.js';
import { statFd } from '../src/linux/stat.js';
import { syncfs } from '../src/linux/sync.js';
import { getXattr } from '../src/linux/xattr.js';
import type { DriverContext, Lower, RootAttributes, SealedUpper, SnapshotKeeper, SnapshotSpec } from './driver.js';

export class OverlaySnapshots implements SnapshotKeeper {
  private readonly context: DriverContext;

  constructor(context: DriverContext) {
    this.context = context;
  }

  create(spec: SnapshotSpec): Promise<void> {
    return this.createAhead(spec, [spec.dir]);
  }

  async createAhead(spec: SnapshotSpec, dirs: readonly string[]): Promise<void> {
    if (spec.sizeLimit !== null) throw noSizeLimit();
    checkDepth(spec.stack);
    const { places } = this.context;
    const made = dirs.flatMap((dir) => this.makeDirectory(places.snapshot(dir), spec));
    // several at once go with one commit of the file system's journal
    for (const path of [...made, places.snapshots]) syncPath(path);
  }

  /** Returns the directories whose content must be durable. */
  private makeDirectory(directory: string, spec: SnapshotSpec): string[] {
    createPlainDirectory(directory);
    for (const name of spec.readOnly ? [EMPTY] : [UPPER, WORK]) mkdirSync(join(directory, name), { mode: 0o755 });
    const root = join(directory, spec.readOnly ? EMPTY : UPPER);
    setAttributes(AT_FDCWD, bytesOf(root), rootNode(spec.root));
    return [root, directory];
  }

  instructions(spec: SnapshotSpec): MountInstruction[] {
    const { lowers, upper, work, options } = this.overlay(spec);
    const settings = Object.entries(options)
      .filter(([key, value]) => !isUsual(key, value))
      .map(([key, value]) => (value === true ? key : `${key}=${value}`));
    const directories = [
      ...(upper === undefined || work === undefined
        ? []
        : [`upperdir=${escapeOption(upper)}`, `workdir=${escapeOption(work)}`]),
      `lowerdir=${lowers.map(escapeOption).join(':')}`,
    ];
    const length = Buffer.byteLength([...settings, ...directories].join(','));
    if (length <= MOUNT_DATA_MAX) {
      return [{ type: 'overlay', source: 'overlay', options: [...settings, ...directories] }];
    }
    throw new LayerdError(
      'LAYER_LIMIT',
      `the mount options of ${spec.stack.length} layers have ${length} bytes; mount(2) takes ${MOUNT_DATA_MAX}`,
      {
        details: { layers: spec.stack.length, found: length, limit: MOUNT_DATA_MAX },
        hint: 'Let layerd mount it, or give the root and the run directory shorter paths.',
      },
    );
  }

  mount(spec: SnapshotSpec): string {
    const target = this.target(spec);
    if (isMountPoint(target)) return target;
    mkdirSync(target, { recursive: true, mode: 0o700 });
    if (spec.volatile) this.forgetVolatile(spec);
    overlayMountAt(this.overlay(spec), target);
    return target;
  }

  unmount(spec: SnapshotSpec, options: { force: boolean }): void {
    removeMountPoint(this.target(spec), options);
  }

  changes(spec: SnapshotSpec): AsyncIterable<Change> {
    return upperChanges(this.upperPlaces(spec));
  }

  fewChanges(spec: SnapshotSpec, most: number): Change[] | null {
    return fewUpperChanges(this.upperPlaces(spec), most);
  }

  diff(spec: SnapshotSpec): ByteSource {
    return upperDiff(this.upperPlaces(spec));
  }

  async *root(spec: SnapshotSpec): ByteSource {
    const opened = this.open(spec);
    try {
      yield* tarOfTree(opened.path);
    } finally {
      opened.close();
    }
  }

  /** Opens the merged root for reading, without a mount point where it is not mounted. */
  private open(spec: SnapshotSpec): { path: string; close(): void } {
    const target = this.target(spec);
    if (isMountPoint(target)) return { path: target, close: () => undefined };
    const fd = overlayMount(this.readable(spec));
    return { path: fdPath(fd), close: () => close(fd) };
  }

  seal(spec: SnapshotSpec, options: { sync: boolean; root: RootAttributes | null }): SealedUpper {
    const upper = this.directory(spec, UPPER);
    const fd = openSync(upper, 'r');
    try {
      if (options.root !== null && isRoot(rootAttributes(fd), spec.root)) {
        setAttributes(AT_FDCWD, bytesOf(upper), rootNode({ ...options.root, mtime: statFd(fd).mtime }));
      }
      if (options.sync) syncfs(fd);
      return { root: rootAttributes(fd), opaqueRoot: getXattr(fd, OPAQUE_MARK)?.toString('latin1') === 'y' };
    } finally {
      closeSync(fd);
    }
  }

  changedSince(spec: SnapshotSpec, micros: number): boolean {
    return newestChange(this.directory(spec, UPPER)) > micros;
  }

  usage(spec: SnapshotSpec): Usage {
    const { disk, inodes } = measureTree(this.context.places.snapshot(spec.dir));
    return { bytes: disk, inodes };
  }

  release(spec: SnapshotSpec, options: { force: boolean }): void {
    this.unmount(spec, options);
  }

  private target(spec: SnapshotSpec): string {
    return this.context.places.mergedRoot(spec.dir);
  }

  private directory(spec: SnapshotSpec, name: string): string {
    return join(this.context.places.snapshot(spec.dir), name);
  }

  /** The overlay of the snapshot, its lowers mounted where they need it. */
  private overlay(spec: SnapshotSpec): OverlaySpec & { options: Record<string, string | true> } {
    const { redirectDir, xino } = this.context.options.overlay;
    const options: Record<string, string | true> = {
      redirect_dir: redirectDir ? 'on' : 'off',
      metacopy: 'off',
      index: 'off',
      xino,
    };
    const source = `layerd-${spec.dir}`;
    if (spec.readOnly) return { lowers: this.viewLowers(spec), options, source, attributes: { readOnly: true } };
    if (spec.volatile) options['volatile'] = true;
    const lowers = this.lowers(spec);
    if (lowers.length === 0) lowers.push(this.context.places.empty);
    return { lowers, upper: this.directory(spec, UPPER), work: this.directory(spec, WORK), options, source };
  }

  /** The same tree for reading only, beside a mount that may be writing to the upper. */
  private readable(spec: SnapshotSpec): OverlaySpec {
    if (spec.readOnly) return this.overlay(spec);
    const lowers = this.lowers(spec);
    const redirects = {
      redirect_dir: this.context.options.overlay.redirectDir ? 'follow' : 'nofollow',
      metacopy: 'off',
    };
    // Overlay takes 500 lowers: with as many below, the upper has to be an upper, which a read-only mount may have.
    if (lowers.length >= OVERLAY_MAX_LOWERS) return { ...this.overlay(spec), attributes: { readOnly: true } };
    const all = [this.directory(spec, UPPER), ...lowers];
    if (all.length === 1) all.push(this.context.places.empty);
    return { lowers: all, options: redirects, source: 'layerd-read', attributes: { readOnly: true } };
  }

  private viewLowers(spec: SnapshotSpec): string[] {
    const lowers = this.lowers(spec);
    if (lowers.length < OVERLAY_MAX_LOWERS) lowers.unshift(this.directory(spec, EMPTY));
    if (lowers.length === 1) lowers.push(this.context.places.empty);
    return lowers;
  }

  /** Top first. */
  private lowers(spec: SnapshotSpec): string[] {
    return visibleLowers(spec.stack).map((layer) => {
      if (layer.driver === 'upper') return join(this.context.places.snapshot(layer.dir), UPPER);
      const lower = this.context.keeperOf(layer).lower(layer);
      if (lower !== null) return lower;
      throw new LayerdError('DRIVER_UNSUPPORTED', `a layer kept by ${layer.driver} cannot be a lower of an overlay`, {
        details: { diffId: layer.diffId, driver: layer.driver },
        hint: 'Migrate the layer to overlay2 or erofs, or use the driver that keeps it.',
      });
    });
  }

  private upperPlaces(spec: SnapshotSpec): UpperPlaces {
    return {
      upper: this.directory(spec, spec.readOnly ? EMPTY : UPPER),
      lowers: this.lowers(spec),
      empty: this.context.places.empty,
      root: spec.root,
      merged: () => this.open(spec),
    };
  }

  /** After a crash a volatile upper must not be mounted again, says overlay; that its content may be lost was agreed. */
  private forgetVolatile(spec: SnapshotSpec): void {
    const mark = join(this.directory(spec, WORK), 'work', 'incompat');
    if (existsSync(mark)) rmSync(mark, { recursive: true });
  }
}

const UPPER = 'u';
const WORK = 'w';
const EMPTY = 'e';

/**
 * Whether an option need not be said to who mounts by a string: BuildKit reads overlay mounts of containerd, and takes its
 * slow way where it does not know an option. It knows `index=off` and `redirect_dir`.
 */
function isUsual(key: string, value: string | true): boolean {
  if (key === 'xino') return value !== 'on';
  return key === 'metacopy' && overlayParameter('metacopy') === 'N';
}

/** Top first. What lies below an opaque root does not show; a layer that comes twice shows where it is topmost. */
function visibleLowers(stack: readonly Lower[]): Lower[] {
  const layers = new Map<string, Lower>();
  for (const layer of stack.toReversed()) {
    if (!layers.has(layer.dir)) layers.set(layer.dir, layer);
    if (layer.opaqueRoot) break;
  }
  return [...layers.values()];
}

/** The root of a snapshot as a node, to be written like that of a layer. */
function rootNode({ xattrs, ...attributes }: RootAttributes): LayerNode {
  const values = new Map(xattrs?.map(([name, value]) => [name, toBuffer(value)]));
  return Object.assign(new LayerNode('directory', -1), attributes, { xattrs: values });
}

function rootAttributes(fd: number): RootAttributes {
  const { mode, uid, gid, mtime } = statFd(fd);
  const xattrs = [...(publicXattrs(fd) ?? [])].map(([name, value]) => [name, fromBuffer(value)] as const);
  return { mode: mode & 0o7777, uid, gid, mtime, ...(xattrs.length === 0 ? {} : { xattrs }) };
}

/** Whether nobody changed owner, mode or xattrs of a root. */
function isRoot(found: RootAttributes, made: RootAttributes): boolean {
  const same = found.mode === made.mode && found.uid === made.uid && found.gid === made.gid;
  return same && JSON.stringify(found.xattrs ?? []) === JSON.stringify(made.xattrs ?? []);
}

function noSizeLimit(): LayerdError {
  return new LayerdError('DRIVER_UNSUPPORTED', 'this driver cannot limit the size of a container', {
    hint: 'Leave the size limit out.',
  });
}

function checkDepth(stack: readonly Lower[]): void {
  const depth = visibleLowers(stack).length;
  if (depth <= OVERLAY_MAX_LOWERS) return;
  throw new LayerdError('LAYER_LIMIT', `overlay holds ${OVERLAY_MAX_LOWERS} layers at most, the image has ${depth}`, {
    details: { limit: OVERLAY_MAX_LOWERS, found: depth },
    hint: 'Build the image with fewer layers, or squash it.',
  });
}
