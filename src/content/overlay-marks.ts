/** What a directory of a layer says to overlay, by extended attributes of the kernel's (fs/overlayfs/overlayfs.h). */
import { bytesOf, type ByteString } from '../core/bytes.js';
import type { LayerNode } from './layer-tree.js';

export const OPAQUE_MARK = bytesOf('trusted.overlay.opaque');
/**
 * Overlay lists the whiteouts of a directory that no other layer has, as names that are not there, unless the directory
 * may have been merged once, which this says. An empty one names no origin (ovl_path_check_origin_xattr()).
 */
export const ORIGIN_MARK = bytesOf('trusted.overlay.origin');

const YES = Buffer.from('y');
const UNKNOWN = Buffer.alloc(0);

/** The marks of a node, sorted by name; none for most. */
export function overlayMarks({ opaque, children }: LayerNode): [name: ByteString, value: Buffer][] {
  const marks: [ByteString, Buffer][] = [];
  if (children === null) return marks;
  if (opaque) marks.push([OPAQUE_MARK, YES]);
  for (const { kind } of children.values()) {
    if (kind !== 'whiteout') continue;
    marks.push([ORIGIN_MARK, UNKNOWN]);
    break;
  }
  return marks;
}
