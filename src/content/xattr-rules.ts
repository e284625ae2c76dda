/** Which extended attributes belong to a layer, and on which kinds of file Linux can hold them. */
import type { ByteString } from '../core/bytes.js';
import type { NodeKind } from './node-kind.js';

/** Most bytes of an attribute's name (XATTR_NAME_MAX). */
const XATTR_NAME_MAX = 255;

/**
 * Extended attributes that a file system keeps for itself and shows to root nevertheless: they never come from a tar and
 * never go into one. Overlay steers itself by its own (opaque, redirect, metacopy, origin, …), of root's and of users'
 * mounts; XFS shows each ACL a second time as it lies on disk.
 */
export function isPrivateXattr(xattr: ByteString): boolean {
  return PRIVATE_XATTRS.some((prefix) => xattr.startsWith(prefix));
}

const PRIVATE_XATTRS = ['trusted.overlay.', 'user.overlay.', 'trusted.SGI_ACL_'];

const ACLS: ReadonlySet<string> = new Set(['system.posix_acl_access', 'system.posix_acl_default']);
const XATTR_SPACES = ['user.', 'trusted.', 'security.'];

/**
 * Whether Linux has a place for an extended attribute on a file of this kind: xattr(7). Others (`com.apple.provenance`,
 * `user.x` on a symbolic link) stay in the layer's tar and are on no disk, as after any extraction.
 */
export function isSettableXattr(xattr: ByteString, kind: NodeKind): boolean {
  if (ACLS.has(xattr)) return kind !== 'symlink';
  const space = XATTR_SPACES.find((prefix) => xattr.startsWith(prefix) && xattr.length > prefix.length);
  if (space === undefined || xattr.length > XATTR_NAME_MAX) return false;
  return space !== 'user.' || kind === 'file' || kind === 'directory';
}
