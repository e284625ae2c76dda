import { closeSync, fstatSync, ftruncateSync, type BigIntStats } from 'node:fs';
import { DirectoryCursor } from '../../src/content/directory-cursor.js';
import { LayerNode } from '../../src/content/layer-tree.js';
import { createSpecial, finishFile, naming, restoreAttributes, setAttributes } from '../../src/content/node-writer.js';
import { isPrivateXattr } from '../../src/content/xattr-rules.js';
import { openUncovered } from '../../src/content/tree-tar.js';
import { bytesOf, fromBuffer, toBuffer, type ByteString } from '../../src/core/bytes.js';
import { isErrno } from '../../src/core/errors.js';
import { cloneFile, copyFileRange, dataSegments } from '../../src/linux/extents.js';
import { fdPathOf, linkat } from '../../src/linux/files.js';
import { removeTreeSync } from '../../src/linux/rmtree.js';
import { readXattrs } from '../../src/linux/xattr.js';
import { Disk, timeOf, type DiskAttributes } from './disk.js';

/** A tree on disk with every attribute, by system calls of our own, as root on Linux. Paths may be of any length. */
export class LinuxDisk extends Disk {
  private readonly rootFd: number;
  private readonly cursors: readonly [DirectoryCursor, DirectoryCursor];

  constructor(path: string) {
    super(path);
    // What others have mounted inside the tree is none of it.
    this.rootFd = openUncovered(bytesOf(path));
    this.cursors = [new DirectoryCursor(this.rootFd), new DirectoryCursor(this.rootFd)];
  }

  override close(): void {
    for (const cursor of this.cursors) cursor.close();
    closeSync(this.rootFd);
  }

  override finishFile(fd: number, node: LayerNode): void {
    ftruncateSync(fd, node.size);
    finishFile(fd, node);
    closeSync(fd);
  }

  override cloneFile(from: LinuxDisk, path: ByteString, node: LayerNode): void {
    const source = from.openFile(path);
    try {
      const target = this.makeFile(path);
      try {
        shareOrCopy(source, target);
      } catch (thrown) {
        closeSync(target);
        throw thrown;
      }
      this.finishFile(target, node);
    } finally {
      closeSync(source);
    }
  }

  override makeSpecial(path: ByteString, node: LayerNode): void {
    const { dirFd, name } = this.cursors[0].parentOf(path);
    naming(path, () => createSpecial(dirFd, name, node));
  }

  override makeLink(from: ByteString, path: ByteString): void {
    const source = this.cursors[0].parentOf(from);
    const target = this.cursors[1].parentOf(path);
    naming(path, () => linkat(source.dirFd, source.name, target.dirFd, target.name));
  }

  override finishDirectory(path: ByteString, node: LayerNode): void {
    if (path === '') {
      setAttributes(this.rootFd, DOT, node);
      return;
    }
    const { dirFd, name } = this.cursors[0].parentOf(path);
    setAttributes(dirFd, name, node);
  }

  /** Takes from a directory all that what is made in it would inherit; {@link finishDirectory} gives it its attributes. */
  makePlain(path: ByteString): void {
    const { dirFd, name } = path === '' ? { dirFd: this.rootFd, name: DOT } : this.cursors[0].parentOf(path);
    restoreAttributes(dirFd, name, PLAIN, []);
  }

  /** Removes what is at `path`, with all below it. */
  remove(path: ByteString): void {
    for (const cursor of this.cursors) cursor.close();
    const { dirFd, name } = this.cursors[0].parentOf(path);
    removeTreeSync(dirFd, name);
  }

  override kindOf(node: LayerNode): LayerNode['kind'] {
    return node.kind;
  }

  override attributes(path: ByteString, stat: BigIntStats): DiskAttributes {
    const xattrs = new Map<ByteString, Buffer>();
    for (const [name, value] of readXattrs(fromBuffer(this.at(path)))) {
      if (!isPrivateXattr(name)) xattrs.set(name, value);
    }
    return {
      mode: Number(stat.mode) & 0o7777,
      uid: Number(stat.uid),
      gid: Number(stat.gid),
      mtime: timeOf(stat),
      xattrs: xattrs.size === 0 ? null : xattrs,
    };
  }

  protected override modeOf(node: LayerNode): number {
    return node.mode;
  }

  protected override at(path: ByteString, slot: 0 | 1 = 0): Buffer {
    if (path === '') return toBuffer(fdPathOf(this.rootFd, DOT));
    const { dirFd, name } = this.cursors[slot].parentOf(path);
    return toBuffer(fdPathOf(dirFd, name));
  }
}

/** Whether the file systems share blocks is the same for all files of a tree, but asking costs next to nothing. */
function shareOrCopy(source: number, target: number): void {
  try {
    cloneFile(source, target);
    return;
  } catch (thrown) {
    if (!isErrno(thrown, 'ENOTSUP', 'EXDEV', 'EINVAL', 'ENOTTY', 'ENOSYS')) throw thrown;
  }
  // Segment by segment: a copy of the whole would fill the holes.
  for (const { offset, length } of dataSegments(source, fstatSync(source).size)) {
    copyFileRange(source, offset, target, offset, length);
  }
}

const DOT = '.' as ByteString;
const PLAIN = new LayerNode('directory', -1);
PLAIN.mode = 0o700;
