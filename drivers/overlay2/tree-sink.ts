/**
 * A layer as an extracted directory, written while its tar streams by:
 *
 *   l/DIR/d/          the tree: overlay's lower (whiteouts are 0/0 devices, opaque directories carry overlay's xattr)
 *   l/DIR/x/N         the payload of tar entry N where the tree does not hold it: a later entry replaced it, or it
 *                     belongs to a name that makes no file. Only there, so that the tar can be told again bit for bit.
 *   l/DIR/catalog     the tar without its payloads
 *   l/DIR/inherited   attributes that implied directories took from below; only where they took any
 */
import { closeSync, constants, ftruncateSync, mkdirSync, openSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { bytesOf, joinBytes, type ByteString } from '../../src/core/bytes.js';
import { DirectoryCursor } from '../../src/content/directory-cursor.js';
import {
  createDirectory,
  createFile,
  createLink,
  createPlainDirectory,
  createSpecial,
  finishFile,
  naming,
  setAttributes,
} from '../../src/content/node-writer.js';
import { overlayMarks } from '../../src/content/overlay-marks.js';
import { SegmentWriter } from '../../src/content/segment-writer.js';
import { catalogFile, writeCatalog } from '../../src/content/catalog-file.js';
import type { LayerNode, LayerSink, LayerStep, LayerTree, StoredFacts } from '../../src/content/sink.js';
import { measureTree } from '../../src/disk/usage.js';
import { close, fdPathOf, O_CLOEXEC, O_PATH, renameat } from '../../src/linux/files.js';
import { removeTree, removeTreeSync } from '../../src/linux/rmtree.js';
import { syncfs } from '../../src/linux/sync.js';
import { setXattr } from '../../src/linux/xattr.js';
import type { TarEntry } from '../../src/tar/entry.js';

/** The file that takes the payload of the entry at hand. */
interface OpenFile {
  fd: number;
  /** Bytes of the whole file where it has holes, which may be at its end. */
  sparseSize: number | null;
  /** Null for a payload that is only kept for export. */
  node: LayerNode | null;
  writer: SegmentWriter;
}

export class TreeSink implements LayerSink {
  readonly driver = 'overlay2';
  private readonly directory: string;
  /** Open from the start: it is told of writes that fail before the sync, too. */
  private syncFd: number | null;
  private rootFd: number | null;
  private readonly cursor: DirectoryCursor;
  private readonly linkCursor: DirectoryCursor;
  private keptFd: number | null = null;
  private open: OpenFile | null = null;
  private entry = -1;

  /** `directory`: l/DIR, which must not exist. */
  constructor(directory: string) {
    this.directory = directory;
    createPlainDirectory(directory);
    this.syncFd = openSync(directory, 'r');
    mkdirSync(treeOf(directory), { mode: 0o755 });
    const rootFd = openSync(treeOf(directory), O_PATH | O_CLOEXEC | constants.O_DIRECTORY);
    this.rootFd = rootFd;
    this.cursor = new DirectoryCursor(rootFd);
    this.linkCursor = new DirectoryCursor(rootFd);
  }

  bytes(): undefined {
    return undefined;
  }

  step(step: LayerStep, entry: TarEntry): void {
    this.entry += 1;
    for (const { path, replaced } of step.implied) {
      if (replaced !== null) this.remove(path, replaced);
      this.makeDirectory(path);
    }
    if (step.replaced !== null) this.remove(step.path, step.replaced);
    const { node } = step;
    if (step.action === 'create' && node !== null) this.create(step.path, node, entry);
    else if (step.action === 'link') this.link(step.linkTo, step.path);
    else if (step.action === 'whiteout' && node !== null) this.special(step.path, node);
    if (this.open === null && entry.storedSize > 0) this.open = this.keptPayload(entry);
  }

  payload(chunk: Buffer): void {
    this.open?.writer.write(chunk);
  }

  payloadEnd(): void {
    this.finishOpen();
  }

  async commit(tree: LayerTree, catalog: readonly Buffer[]): Promise<void> {
    this.finishDirectories(tree.root);
    this.closeTree();
    writeCatalog(catalogFile(this.directory), catalog);
  }

  async settle(synced: boolean): Promise<StoredFacts> {
    // One sync for thousands of files; the directory's own name in l/ is durable with it.
    if (!synced && this.syncFd !== null) syncfs(this.syncFd);
    this.closeAll();
    return measureTree(this.directory);
  }

  async abort(): Promise<void> {
    this.closeAll();
    await removeTree(dirname(this.directory), bytesOf(basename(this.directory)));
  }

  private create(path: ByteString, node: LayerNode, entry: TarEntry): void {
    if (node.kind === 'directory') {
      this.makeDirectory(path);
      return;
    }
    if (node.kind !== 'file') {
      this.special(path, node);
      return;
    }
    const { dirFd, name } = this.cursor.parentOf(path);
    const fd = naming(path, () => createFile(dirFd, name));
    this.open = openFile(fd, node, entry);
    if (entry.storedSize === 0) this.finishOpen();
  }

  private makeDirectory(path: ByteString): void {
    const { dirFd, name } = this.cursor.parentOf(path);
    naming(path, () => createDirectory(dirFd, name));
  }

  private special(path: ByteString, node: LayerNode): void {
    const { dirFd, name } = this.cursor.parentOf(path);
    naming(path, () => createSpecial(dirFd, name, node));
  }

  private link(from: ByteString, path: ByteString): void {
    const target = this.linkCursor.parentOf(from);
    const { dirFd, name } = this.cursor.parentOf(path);
    naming(path, () => createLink(target.dirFd, target.name, dirFd, name));
  }

  /** Takes what a later entry replaces out of the tree; payloads that no other name holds are kept for export. */
  private remove(path: ByteString, replaced: LayerNode): void {
    this.cursor.close();
    this.linkCursor.close();
    this.keepPayloads(path, replaced);
    const { dirFd, name } = this.cursor.parentOf(path);
    removeTreeSync(dirFd, name);
  }

  /** Of an inode with several names all of which are replaced at once, the first stays. */
  private keepPayloads(path: ByteString, node: LayerNode, kept = new Set<LayerNode>()): void {
    if (node.kind === 'file' && node.storedSize > 0 && node.links === 0 && !kept.has(node)) {
      const { dirFd, name } = this.cursor.parentOf(path);
      renameat(dirFd, name, this.kept(), bytesOf(String(node.entry)));
      kept.add(node);
    }
    for (const [name, child] of node.children ?? []) this.keepPayloads(joinBytes(path, name), child, kept);
  }

  private keptPayload(entry: TarEntry): OpenFile {
    const fd = createFile(this.kept(), bytesOf(String(this.entry)));
    return openFile(fd, null, entry);
  }

  private kept(): number {
    if (this.keptFd === null) {
      mkdirSync(keptOf(this.directory), { mode: 0o700 });
      this.keptFd = openSync(keptOf(this.directory), O_PATH | O_CLOEXEC | constants.O_DIRECTORY);
    }
    return this.keptFd;
  }

  private finishOpen(): void {
    const { open } = this;
    this.open = null;
    if (open === null) return;
    try {
      if (open.sparseSize !== null) ftruncateSync(open.fd, open.sparseSize);
      if (open.node !== null) finishFile(open.fd, open.node);
    } finally {
      close(open.fd);
    }
  }

  private finishDirectories(root: LayerNode): void {
    this.finishBelow('' as ByteString, root);
    const parentFd = openSync(this.directory, O_PATH | O_CLOEXEC | constants.O_DIRECTORY);
    try {
      this.finishDirectory(parentFd, bytesOf(TREE), root);
    } finally {
      close(parentFd);
    }
  }

  /** Bottom up, since making children changes a directory's times. */
  private finishBelow(path: ByteString, node: LayerNode): void {
    for (const [name, child] of node.children ?? []) {
      if (child.kind !== 'directory') continue;
      const below = joinBytes(path, name);
      this.finishBelow(below, child);
      this.finishDirectory(this.cursor.parentOf(below).dirFd, name, child);
    }
  }

  private finishDirectory(dirFd: number, name: ByteString, node: LayerNode): void {
    for (const [mark, value] of overlayMarks(node)) setXattr(fdPathOf(dirFd, name), mark, value);
    setAttributes(dirFd, name, node);
  }

  private closeAll(): void {
    this.closeTree();
    if (this.syncFd !== null) closeSync(this.syncFd);
    this.syncFd = null;
  }

  private closeTree(): void {
    if (this.open !== null) close(this.open.fd);
    this.open = null;
    this.cursor.close();
    this.linkCursor.close();
    if (this.keptFd !== null) close(this.keptFd);
    this.keptFd = null;
    if (this.rootFd !== null) close(this.rootFd);
    this.rootFd = null;
  }
}

function openFile(fd: number, node: LayerNode | null, entry: TarEntry): OpenFile {
  return { fd, node, sparseSize: entry.sparse === null ? null : entry.size, writer: new SegmentWriter(fd, entry) };
}

const TREE = 'd';

/** The tree of a stored layer: overlay's lower. */
export function treeOf(directory: string): string {
  return join(directory, TREE);
}

/** Payloads that the tree does not hold. */
export function keptOf(directory: string): string {
  return join(directory, 'x');
}
