/**
 * One node of a layer onto a file system, as root on Linux. The order matters: owner before mode (chown clears setuid),
 * mode before file capabilities (both clear or are cleared by chown), times last. Names are relative to a directory
 * descriptor and nothing is followed.
 */
import { constants, mkdirSync } from 'node:fs';
import { bytesOf, displayBytes, type ByteString } from '../core/bytes.js';
import { isErrno, LayerdError, toLayerdError } from '../core/errors.js';
import {
  AT_FDCWD,
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
import { listXattrs, removeXattr, setXattr } from '../linux/xattr.js';
import type { LayerNode } from './layer-tree.js';
import { isSettableXattr } from './xattr-rules.js';

/**
 * Makes something of a layer under a name of the layer. Throws NAME_UNSUPPORTED, naming it, where the file system cannot
 * hold the name (or the target of a symbolic link), or cannot tell it from another.
 */
export function naming<T>(path: ByteString, make: () => T): T {
  try {
    return make();
  } catch (thrown) {
    if (!isErrno(thrown, 'EEXIST', 'EILSEQ', 'EINVAL', 'ENAMETOOLONG')) throw thrown;
    const shown = displayBytes(path);
    throw new LayerdError(
      'NAME_UNSUPPORTED',
      `the file system cannot hold ${shown} of the layer (${toLayerdError(thrown).message})`,
      {
        details: { path: shown },
        hint: 'Put the root on a file system that takes such names and tells them apart, such as ext4, or use erofs.',
        cause: thrown,
      },
    );
  }
}

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

/**
 * Makes a directory that is root's alone and from which nothing is inherited: its own parent may be setgid or have a
 * default ACL, which would reach every file that is made below.
 */
export function createPlainDirectory(path: string): void {
  mkdirSync(path, { mode: 0o700 });
  const bytes = bytesOf(path);
  for (const acl of ACLS) removeXattr(bytes, acl);
  fchownat(AT_FDCWD, bytes, 0, 0);
  fchmodat(AT_FDCWD, bytes, 0o700);
}

const ACLS = ['system.posix_acl_default', 'system.posix_acl_access'].map(bytesOf);

/** Makes a directory that only root can enter until {@link setAttributes} gives it its own, once all of its children are there. */
export function createDirectory(dirFd: number, name: ByteString): void {
  mkdirat(dirFd, name, 0o700);
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
  setAttributes(dirFd, name, node);
}

/**
 * Gives a file of any kind that is there the attributes of its node, and overlay's `marks`, and takes extended attributes
 * away that it should not have.
 */
export function restoreAttributes(
  dirFd: number,
  name: ByteString,
  node: LayerNode,
  marks: readonly (readonly [ByteString, Buffer])[],
): void {
  const target = fdPathOf(dirFd, name);
  const kept = new Set([...(node.xattrs?.keys() ?? []), ...marks.map(([mark]) => mark)]);
  for (const xattr of listXattrs(target)) if (!kept.has(xattr)) removeXattr(target, xattr);
  for (const [mark, value] of marks) setXattr(target, mark, value);
  setAttributes(dirFd, name, node);
}

/** Gives a name the attributes of its node; to be done last, since writing to a file or a directory changes its times. */
export function setAttributes(dirFd: number, name: ByteString, node: LayerNode): void {
  fchownat(dirFd, name, node.uid, node.gid);
  if (node.kind !== 'symlink') fchmodat(dirFd, name, node.mode);
  writeXattrs(dirFd === AT_FDCWD ? name : fdPathOf(dirFd, name), node);
  utimensat(dirFd, name, node.mtime);
}

/** Gives an inode of the same tree a further name. */
export function createLink(fromFd: number, fromName: ByteString, dirFd: number, name: ByteString): void {
  linkat(fromFd, fromName, dirFd, name);
}

function writeXattrs(target: number | ByteString, { kind, xattrs }: LayerNode): void {
  if (xattrs === null) return;
  for (const [name, value] of xattrs) if (isSettableXattr(name, kind)) setXattr(target, name, value);
}
