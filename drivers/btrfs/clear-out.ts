import type { MergedNode } from '../../src/content/merge.js';
import { joinBytes, type ByteString } from '../../src/core/bytes.js';
import type { LinuxDisk } from '../trees/linux-disk.js';
import { isDirectoryTouched, staysInPlace } from '../trees/materialize.js';

/**
 * Takes from a tree that shows `base` all that further layers hide or replace; what they bring comes after. Directories
 * that get other names or attributes are made plain first: what is made in them must not inherit from them.
 */
export function clearOut(disk: LinuxDisk, merged: MergedNode, base: MergedNode, path = '' as ByteString): void {
  if (isDirectoryTouched(merged, base)) disk.makePlain(path);
  for (const [name, before] of base.children ?? []) {
    const below = joinBytes(path, name);
    const after = merged.children?.get(name);
    if (after === undefined || !staysInPlace(after, before)) disk.remove(below);
    else if (after.children !== null) clearOut(disk, after, before, below);
  }
}
