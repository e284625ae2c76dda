/**
 * A tree on disk as the drivers that keep trees make and read it. This one needs Node alone: what it cannot set (owners without
 * root, devices, xattrs, nanoseconds) is known from the catalogs and comes back from there. linux-disk.ts sets it all.
 * Paths are bytes, relative to the root of the tree.
 */
import {
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  futimesSync,
  lchownSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  symlinkSync,
  utimesSync,
  writeSync,
  type BigIntStats,
} from 'node:fs';
import type { LayerNode } from '../../src/content/layer-tree.js';
import { naming } from '../../src/content/node-writer.js';
import { displayBytes, fromBuffer, toBuffer, type ByteString } from '../../src/core/bytes.js';
import { isErrno } from '../../src/core/errors.js';

/** What a node has on disk besides its content. */
export interface DiskAttributes {
  mode: number;
  uid: number;
  gid: number;
  mtime: { sec: number; nsec: number };
  xattrs: ReadonlyMap<ByteString, Buffer> | null;
}

const CREATE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
/** Longer than the kernel's coarse clock takes for a step, at 100 Hz: what is changed after it has a later ctime. */
export const CLOCK_TICK_MS = 12;

const PIECE = 64 * 1024;
const ZEROS = Buffer.alloc(PIECE);
const NANO = 1_000_000_000n;
/** Times that Node sets go through a double of seconds: microseconds, give or take one. */
const TIME_SLACK_NS = 2_000n;

export class Disk {
  /** Root may give files away; others own what they make. */
  protected readonly root = process.getuid?.() === 0;
  private readonly base: Buffer;

  /** `path`: the root of the tree. */
  constructor(path: string) {
    this.base = Buffer.from(path);
  }

  close(): void {
    // Nothing is kept open.
  }

  makeDirectory(path: ByteString): void {
    naming(path, () => mkdirSync(this.at(path), { mode: 0o700 }));
  }

  /** An empty file for a payload; ended by {@link finishFile}. */
  makeFile(path: ByteString): number {
    return naming(path, () => openSync(this.at(path), CREATE, 0o600));
  }

  finishFile(fd: number, node: LayerNode): void {
    ftruncateSync(fd, node.size);
    if (this.root) fchownSync(fd, node.uid, node.gid);
    fchmodSync(fd, this.modeOf(node));
    const seconds = secondsOf(node);
    futimesSync(fd, seconds, seconds);
    // Without syncfs(2) each file is made durable by itself.
    fsyncSync(fd);
    closeSync(fd);
  }

  /** A symbolic link, or a placeholder for what Node cannot make. */
  makeSpecial(path: ByteString, node: LayerNode): void {
    if (node.kind !== 'symlink') {
      this.finishFile(this.makeFile(path), node);
      return;
    }
    naming(path, () => symlinkSync(toBuffer(node.linkTarget), this.at(path)));
    if (this.root) lchownSync(this.at(path), node.uid, node.gid);
    lutimesSync(this.at(path), secondsOf(node), secondsOf(node));
  }

  makeLink(from: ByteString, path: ByteString): void {
    naming(path, () => linkSync(this.at(from), this.at(path, 1)));
  }

  /** Once all children are there: they would change its times. */
  finishDirectory(path: ByteString, node: LayerNode): void {
    const at = this.at(path);
    if (this.root) lchownSync(at, node.uid, node.gid);
    chmodSync(at, this.modeOf(node));
    utimesSync(at, secondsOf(node), secondsOf(node));
    const fd = openSync(at, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      fsyncSync(fd); // its names; see finishFile()
    } finally {
      closeSync(fd);
    }
  }

  /** Takes away everybody's right to write; root does not need it. */
  protect(path: ByteString): void {
    const stat = this.stat(path);
    if (stat !== null && !stat.isSymbolicLink()) chmodSync(this.at(path), Number(stat.mode) & 0o7555);
  }

  /** Takes content and attributes of a file from another tree; blocks are shared where the file system can. */
  cloneFile(from: Disk, path: ByteString, node: LayerNode): void {
    const source = from.stat(path);
    const sparse = source !== null && source.blocks * 512n < source.size;
    try {
      // A copy of the whole would fill the holes: a sparse file is shared, or copied piece by piece.
      const how = constants.COPYFILE_EXCL | (sparse ? constants.COPYFILE_FICLONE_FORCE : constants.COPYFILE_FICLONE);
      naming(path, () => copyFileSync(from.at(path), this.at(path, 1), how));
      this.finishFile(this.reopen(path), node);
    } catch (thrown) {
      if (!sparse || !isErrno(thrown, 'ENOTSUP', 'ENOSYS', 'EXDEV', 'ENOTTY', 'EOPNOTSUPP')) throw thrown;
      this.copySparse(from, path, node);
    }
  }

  /** Null where nothing is there. */
  stat(path: ByteString): BigIntStats | null {
    try {
      return lstatSync(this.at(path), { bigint: true });
    } catch (thrown) {
      if (isErrno(thrown, 'ENOENT', 'ENOTDIR')) return null;
      throw thrown;
    }
  }

  readlink(path: ByteString): ByteString {
    return fromBuffer(readlinkSync(this.at(path), { encoding: 'buffer' }));
  }

  /** A regular file to read; EINVAL for anything else that may stand there by now. */
  openFile(path: ByteString): number {
    const fd = openSync(this.at(path), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    if (fstatSync(fd).isFile()) return fd;
    closeSync(fd);
    throw Object.assign(new Error(`${displayBytes(path)} is no regular file any more`), { code: 'EINVAL' });
  }

  /** In byte order; none where the directory is gone. */
  names(path: ByteString): ByteString[] {
    try {
      return readdirSync(this.at(path), { encoding: 'buffer' }).map(fromBuffer).sort();
    } catch (thrown) {
      if (isErrno(thrown, 'ENOENT', 'ENOTDIR')) return [];
      throw thrown;
    }
  }

  /** The kind that a node has on disk: devices and fifos are placeholders. */
  kindOf(node: LayerNode): LayerNode['kind'] {
    return node.kind === 'directory' || node.kind === 'symlink' ? node.kind : 'file';
  }

  /** What `stat` says in a layer's terms, where the node that was made there (if any) fills in what disk cannot tell. */
  attributes(path: ByteString, stat: BigIntStats, node: LayerNode | null): DiskAttributes {
    void path;
    const mode = Number(stat.mode) & 0o7777;
    const owner = this.root ? { uid: Number(stat.uid), gid: Number(stat.gid) } : { uid: 0, gid: 0 };
    return {
      ...(node === null || this.root ? owner : { uid: node.uid, gid: node.gid }),
      mode: node !== null && mode === this.modeOf(node) ? node.mode : mode,
      mtime: node !== null && sameTime(stat, node) ? node.mtime : timeOf(stat),
      xattrs: node?.xattrs ?? null,
    };
  }

  /** The permissions that a node gets: never such that its owner, who is not root, is locked out. */
  protected modeOf(node: LayerNode): number {
    if (this.root) return node.mode;
    return (node.mode & 0o777) | (node.kind === 'directory' ? 0o700 : 0o600);
  }

  /** A path for node:fs. `slot` 1: a second one that must be valid at the same time as the first. */
  protected at(path: ByteString, slot: 0 | 1 = 0): Buffer {
    void slot;
    return path === '' ? this.base : Buffer.concat([this.base, SLASH, toBuffer(path)]);
  }

  /** Node does not tell where holes are: what is zero becomes one. */
  private copySparse(from: Disk, path: ByteString, node: LayerNode): void {
    const source = from.openFile(path);
    try {
      const target = this.makeFile(path);
      const piece = Buffer.allocUnsafe(PIECE);
      for (let at = 0, read = -1; read !== 0; at += read) {
        read = readSync(source, piece, 0, PIECE, at);
        const bytes = piece.subarray(0, read);
        if (!bytes.equals(ZEROS.subarray(0, read))) writeSync(target, bytes, 0, read, at);
      }
      this.finishFile(target, node);
    } finally {
      closeSync(source);
    }
  }

  private reopen(path: ByteString): number {
    chmodSync(this.at(path), 0o600);
    return openSync(this.at(path), constants.O_WRONLY | constants.O_NOFOLLOW);
  }
}

const SLASH = Buffer.from('/');

export function timeOf(stat: BigIntStats): { sec: number; nsec: number } {
  const sec = stat.mtimeNs >= 0n ? stat.mtimeNs / NANO : (stat.mtimeNs - NANO + 1n) / NANO;
  return { sec: Number(sec), nsec: Number(stat.mtimeNs - sec * NANO) };
}

/** As text: Node takes a negative number for a mistake, and sets the time of the call. */
function secondsOf({ mtime }: LayerNode): string {
  return String(mtime.sec + mtime.nsec / 1e9);
}

/** Where file systems end that do not hold every time: they take the nearest that they hold. */
const TIME_LIMITS_NS = [-(2n ** 31n), 2n ** 31n - 1n, 3n * 2n ** 32n + 2n ** 31n - 1n, 16_299_260_424n].map(
  (seconds) => seconds * NANO,
);

function sameTime(stat: BigIntStats, { mtime }: LayerNode): boolean {
  const wanted = BigInt(mtime.sec) * NANO + BigInt(mtime.nsec);
  const difference = stat.mtimeNs - wanted;
  if (difference < TIME_SLACK_NS && difference > -TIME_SLACK_NS) return true;
  const limit = TIME_LIMITS_NS.find((at) => at === stat.mtimeNs - (stat.mtimeNs % NANO));
  return limit !== undefined && (limit < 0n ? wanted < limit : wanted > limit);
}
