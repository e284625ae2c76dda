/**
 * Extended attributes as they follow an inode. Linux shows and takes only the namespaces below; names of others (say
 * `com.apple.quarantine`) cannot be set on any Linux file system, so they stay in the tar and the catalog and are not
 * in the mount, as after any extraction.
 */
import type { LayerNode } from '../../src/content/layer-tree.js';
import { isSettableXattr } from '../../src/content/xattr-rules.js';
import { overlayMarks } from '../../src/content/overlay-marks.js';
import { displayBytes, type ByteString } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import { roundUp } from './format.js';

const HEADER_BYTES = 12;
const ENTRY_BYTES = 4;
/** What one inode may carry: listxattr(2) and setxattr(2) know no more either. */
const TOTAL_BYTES_MAX = 65_536;

/** Attributes that are a name of their own, not a prefix. */
const ACL_INDEX: ReadonlyMap<string, number> = new Map([
  ['system.posix_acl_access', 2],
  ['system.posix_acl_default', 3],
]);
const PREFIXES = [
  { prefix: 'user.', index: 1 },
  { prefix: 'trusted.', index: 4 },
  { prefix: 'security.', index: 6 },
];

interface Attribute {
  index: number;
  /** Behind the prefix; empty for an ACL. */
  name: ByteString;
  value: Buffer;
}

/** i_xattr_icount for an xattr body of so many bytes. */
export function xattrCount(bytes: number): number {
  return bytes === 0 ? 0 : 1 + (bytes - HEADER_BYTES) / 4;
}

/**
 * The bytes behind the inode of `node`, overlay's marks included, or null if it has none. Throws LAYER_LIMIT or
 * TAR_INVALID naming `path()`.
 */
export function encodeXattrs(node: LayerNode, path: () => ByteString): Buffer | null {
  if (node.xattrs === null && node.children === null) return null; // nearly every node
  const attributes: Attribute[] = [];
  for (const [name, value] of [...overlayMarks(node), ...(node.xattrs ?? [])]) {
    const attribute = attributeOf(node, name, value);
    if (attribute === null) continue;
    if (attribute.name === '' && !isAcl(value)) throw badAcl(path(), name);
    attributes.push(attribute);
  }
  if (attributes.length === 0) return null;
  // The order of an archive says nothing: sorted, equal sets give equal bytes.
  attributes.sort((a, b) => a.index - b.index || (a.name < b.name ? -1 : 1));
  let bytes = HEADER_BYTES;
  for (const attribute of attributes) bytes += entryBytes(attribute);
  if (bytes > TOTAL_BYTES_MAX) throw tooLarge(path(), bytes);
  return encode(attributes, bytes);
}

function encode(attributes: readonly Attribute[], bytes: number): Buffer {
  const body = Buffer.alloc(bytes);
  let at = HEADER_BYTES;
  for (const attribute of attributes) {
    body.writeUInt8(attribute.name.length, at);
    body.writeUInt8(attribute.index, at + 1);
    body.writeUInt16LE(attribute.value.length, at + 2);
    body.write(attribute.name, at + ENTRY_BYTES, 'latin1');
    body.set(attribute.value, at + ENTRY_BYTES + attribute.name.length);
    at += entryBytes(attribute);
  }
  return body;
}

function entryBytes(attribute: Attribute): number {
  return roundUp(ENTRY_BYTES + attribute.name.length + attribute.value.length, 4);
}

/** Null for what Linux would not let anyone set on this kind of file. */
function attributeOf(node: LayerNode, name: ByteString, value: Buffer): Attribute | null {
  if (!isSettableXattr(name, node.kind)) return null;
  const acl = ACL_INDEX.get(name);
  if (acl !== undefined) return { index: acl, name: '' as ByteString, value };
  const space = PREFIXES.find(({ prefix }) => name.startsWith(prefix));
  return space === undefined
    ? null
    : { index: space.index, name: name.slice(space.prefix.length) as ByteString, value };
}

const ACL_VERSION = 2;
const ACL_ENTRY_BYTES = 8;
const ACL_TAGS: ReadonlySet<number> = new Set([0x01, 0x02, 0x04, 0x08, 0x10, 0x20]);

/** Whether the kernel would take the value (linux/posix_acl_xattr.h). A wrong one would make copy-up fail for ever. */
function isAcl(value: Buffer): boolean {
  if (value.length < 4 || (value.length - 4) % ACL_ENTRY_BYTES !== 0) return false;
  if (value.readUInt32LE(0) !== ACL_VERSION) return false;
  for (let at = 4; at < value.length; at += ACL_ENTRY_BYTES) {
    if (!ACL_TAGS.has(value.readUInt16LE(at))) return false;
  }
  return true;
}

function badAcl(path: ByteString, name: ByteString): LayerdError {
  return new LayerdError('TAR_INVALID', `${displayBytes(path)}: ${name} is not an access control list`, {
    details: { path: displayBytes(path), xattr: name },
    hint: 'The kernel takes lists of version 2 only (linux/posix_acl_xattr.h): make the layer again.',
  });
}

function tooLarge(path: ByteString, bytes: number): LayerdError {
  return new LayerdError('LAYER_LIMIT', `${displayBytes(path)}: its extended attributes are too large`, {
    details: { path: displayBytes(path), bytes, limit: TOTAL_BYTES_MAX },
    hint: 'EROFS holds 64 KiB of extended attributes per file: keep this layer with another driver.',
  });
}
