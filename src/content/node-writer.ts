/**
 * One node of a layer onto a file system, as root on Linux. The order matters: owner before mode (chown clears setuid),
 * mode before file capabilities (both clear or are cleared by chown), times last. Names are relative to a directory
 * descriptor and nothing is followed.
 */
import { constants } from 'node:fs';
import type { ByteString } from '../core/bytes.js';
import {
  fchmod,
  fchmodat,
  fchown,
  fchownat,
  fdPathOf,
  futimens,
  linkat,
  mkdirat,
  mknodat,
  O_CLOEXEC,
  openat,
  symlinkat,
  utimensat,
} from '../linux/files.js';
import { setXattr } from '../linux/xattr.js';
import type { LayerNode } from './layer-tree.js';

const CREATE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW | O_CLOEXEC;
const { S_IFBLK, S_IFCHR, S_IFIFO } = constants;

/** Makes the file of a regular node, empty, for its payload; ended by {@link finishFile}. */
export function createFile(dirFd: number, name: ByteString): number {
  return openat(dirFd, name, CREATE, 0o600);
}

/** Gives an open file its attributes. */
export function finishFile(fd: number, node: LayerNode): void {
  if (node.uid !== 0 || node.gid !== 0) fchown(fd, node.uid, node.gid);
  if (node.mode !== 0o600) fchmod(fd, node.mode);
  writeXattrs(fd, node);
  futimens(fd, node.mtime);
}

/** Makes a directory that only root can enter until {@link finishDirectory} gives it its attributes. */
export function createDirectory(dirFd: number, name: ByteString): void {
  mkdirat(dirFd, name, 0o700);
}

/** Attributes of a directory, once all of its children are there: they would change its times. */
export function finishDirectory(dirFd: number, name: ByteString, node: Attributes): void {
  fchownat(dirFd, name, node.uid, node.gid);
  fchmodat(dirFd, name, node.mode);
  writeXattrs(fdPathOf(dirFd, name), node);
  utimensat(dirFd, name, node.mtime);
}

/** Makes a symbolic link, device, fifo or whiteout, with its attributes. */
export function createSpecial(dirFd: number, name: ByteString, node: LayerNode): void {
  switch (node.kind) {
    case 'symlink':
      symlinkat(node.linkTarget, dirFd, name);
      break;
    case 'whiteout':
      mknodat(dirFd, name, S_IFCHR, 0, 0);
      return;
    case 'char':
      mknodat(dirFd, name, S_IFCHR | 0o600, node.devMajor, node.devMinor);
      break;
    case 'block':
      mknodat(dirFd, name, S_IFBLK | 0o600, node.devMajor, node.devMinor);
      break;
    case 'fifo':
      mknodat(dirFd, name, S_IFIFO | 0o600);
      break;
    case 'file':
    case 'directory':
      throw new TypeError(`createSpecial() does not make a ${node.kind}`);
  }
  fchownat(dirFd, name, node.uid, node.gid);
  if (node.kind !== 'symlink') fchmodat(dirFd, name, node.mode);
  writeXattrs(fdPathOf(dirFd, name), node);
  utimensat(dirFd, name, node.mtime);
}

/** Gives an inode of the same tree a further name. */
export function createLink(fromFd: number, fromName: ByteString, dirFd: number, name: ByteString): void {
  linkat(fromFd, fromName, dirFd, name);
}

/** What a directory's attributes may come from: its node, or what it inherits. */
export type Attributes = Pick<LayerNode, 'mode' | 'uid' | 'gid' | 'mtime' | 'xattrs'>;

function writeXattrs(target: number | ByteString, node: Attributes): void {
  if (node.xattrs === null) return;
  for (const [name, value] of node.xattrs) setXattr(target, name, value);
}
