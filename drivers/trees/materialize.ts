/**
 * The merged tree of a stack onto a disk. What the stack means is decided once, by content/merge; here nodes are made,
 * and payloads come from the layers' tars (a tree for a chain) or from such a tree (a container).
 */
import type { LayerNode } from '../../src/content/layer-tree.js';
import type { MergedNode } from '../../src/content/merge.js';
import { SegmentWriter } from '../../src/content/segment-writer.js';
import type { ByteSource } from '../../src/content/source.js';
import { joinBytes, type ByteString } from '../../src/core/bytes.js';
import { TarScanner } from '../../src/tar/scanner.js';
import type { Disk } from './disk.js';

const ROOT = '' as ByteString;

/**
 * Makes the tree; the payload of each file by `files`. Where the disk already shows `base`, the same layers without the
 * topmost ones, only what is not in it is made; what must go has gone.
 */
export async function materialize(
  disk: Disk,
  root: MergedNode,
  files: (wanted: ReadonlyMap<MergedNode, ByteString>) => Promise<void>,
  base: MergedNode | null = null,
): Promise<void> {
  const first = new Map<MergedNode, ByteString>();
  const links: [from: ByteString, to: ByteString][] = [];
  for (const [path, merged] of walkNew(root, base)) {
    const known = first.get(merged);
    if (known !== undefined) {
      links.push([known, path]);
      continue;
    }
    if (merged.node.kind === 'directory') {
      disk.makeDirectory(path);
      continue;
    }
    first.set(merged, path);
    if (merged.node.kind !== 'file') disk.makeSpecial(path, merged.node);
    else if (merged.node.storedSize === 0) disk.finishFile(disk.makeFile(path), merged.node);
  }
  for (const merged of first.keys()) if (!hasPayload(merged)) first.delete(merged);
  await files(first);
  for (const [from, to] of links) disk.makeLink(from, to);
  finishDirectories(disk, ROOT, root, base);
}

/** Payloads from the tars of the layers, each read once from its beginning to its end. */
export function payloadsFromTars(
  disk: Disk,
  tars: readonly (() => ByteSource)[],
): (wanted: ReadonlyMap<MergedNode, ByteString>) => Promise<void> {
  return async (wanted) => {
    const byLayer = new Map<number, Map<number, [ByteString, LayerNode]>>();
    for (const [{ layer, node }, path] of wanted) {
      const entries = byLayer.get(layer) ?? new Map<number, [ByteString, LayerNode]>();
      byLayer.set(layer, entries.set(node.entry, [path, node]));
    }
    for (const [layer, entries] of byLayer) {
      const tar = tars[layer];
      if (tar !== undefined) await extract(disk, tar(), entries);
    }
  };
}

/** Payloads from a tree that was made before. */
export function payloadsFromTree(
  disk: Disk,
  tree: Disk,
): (wanted: ReadonlyMap<MergedNode, ByteString>) => Promise<void> {
  return async (wanted) => {
    for (const [{ node }, path] of wanted) disk.cloneFile(tree, path, node);
  };
}

/** Every path below the root, parents first, names in byte order. */
export function walkMerged(root: MergedNode): Generator<[ByteString, MergedNode]> {
  return walkNew(root, null);
}

/** As {@link walkMerged}, but for what `base` has as well. */
function* walkNew(root: MergedNode, base: MergedNode | null, path = ROOT): Generator<[ByteString, MergedNode]> {
  for (const [name, child] of [...(root.children ?? [])].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const below = joinBytes(path, name);
    const before = base?.children?.get(name) ?? null;
    const stays = before !== null && staysInPlace(child, before);
    if (!stays) yield [below, child];
    if (child.children !== null) yield* walkNew(child, stays ? before : null, below);
  }
}

/** What layers below show at a path stays where it is: a directory (its attributes may change), or the same file. */
export function staysInPlace(merged: MergedNode, before: MergedNode): boolean {
  if (merged.children !== null && before.children !== null) return true;
  return merged.node === before.node;
}

/** The directory itself is not as `before`: its attributes, or the names in it. */
export function isDirectoryTouched(merged: MergedNode, before: MergedNode): boolean {
  if (merged.node !== before.node || merged.children?.size !== before.children?.size) return true;
  for (const [name, child] of merged.children ?? []) {
    const other = before.children?.get(name);
    if (other === undefined || !staysInPlace(child, other)) return true;
  }
  return false;
}

function hasPayload({ node }: MergedNode): boolean {
  return node.kind === 'file' && node.storedSize > 0;
}

async function extract(
  disk: Disk,
  tar: ByteSource,
  entries: ReadonlyMap<number, [ByteString, LayerNode]>,
): Promise<void> {
  let index = -1;
  let file: { fd: number; node: LayerNode; writer: SegmentWriter } | null = null;
  const scanner = new TarScanner({
    entry: () => {
      index += 1;
      const [path, node] = entries.get(index) ?? [];
      if (path === undefined || node === undefined) return;
      const fd = disk.makeFile(path);
      file = { fd, node, writer: new SegmentWriter(fd, node) };
    },
    data: (chunk) => file?.writer.write(chunk),
    entryEnd: () => {
      if (file !== null) disk.finishFile(file.fd, file.node);
      file = null;
    },
  });
  for await (const chunk of tar) scanner.write(chunk);
  scanner.finish();
}

function finishDirectories(disk: Disk, path: ByteString, merged: MergedNode, base: MergedNode | null): void {
  for (const [name, child] of merged.children ?? []) {
    if (child.children === null) continue;
    const before = base?.children?.get(name);
    finishDirectories(disk, joinBytes(path, name), child, before?.children ? before : null);
  }
  if (base === null || isDirectoryTouched(merged, base)) disk.finishDirectory(path, merged.node);
}
