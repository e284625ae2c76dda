import { constants, existsSync, openSync, readSync } from 'node:fs';
import { DirectoryCursor } from '../../src/content/directory-cursor.js';
import type { LayerNode, LayerTree } from '../../src/content/layer-tree.js';
import { openIfThere } from '../../src/content/tree-tar-writer.js';
import { bytesOf, displayBytes, joinBytes, type ByteString } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import { close, O_CLOEXEC, O_PATH } from '../../src/linux/files.js';
import { statFd } from '../../src/linux/stat.js';
import type { TarEntry } from '../../src/tar/entry.js';
import { keptOf, treeOf } from './tree-sink.js';

/** O_NONBLOCK: should a fifo stand where a file was, it must not wait for a writer. */
const READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | O_CLOEXEC;
const CHUNK = 1 << 20;

/** Reads the payloads of a layer's tar entries back from the tree, or from where replaced ones are kept. */
export class Payloads {
  private readonly cursor: DirectoryCursor;
  private readonly keptCursor: DirectoryCursor | null;
  private readonly fds: number[] = [];
  private readonly paths = new Map<number, ByteString>();

  constructor(directory: string, tree: LayerTree) {
    this.notePaths('' as ByteString, tree.root);
    this.cursor = new DirectoryCursor(this.openRoot(treeOf(directory)));
    const kept = keptOf(directory);
    this.keptCursor = existsSync(kept) ? new DirectoryCursor(this.openRoot(kept)) : null;
  }

  /** The stored bytes of the entry, in order. */
  *of(entry: TarEntry, index: number): Generator<Buffer> {
    const path = this.paths.get(index);
    const cursor = path === undefined ? this.keptCursor : this.cursor;
    const at = path ?? bytesOf(String(index));
    if (cursor === null) throw payloadGone(entry);
    const { dirFd, name } = cursor.parentOf(at);
    const fd = openIfThere(dirFd, name, READ);
    if (fd === null) throw payloadGone(entry);
    try {
      const stat = statFd(fd);
      if (stat.kind !== 'file' || stat.size !== entry.size) throw payloadGone(entry);
      const segments = entry.sparse ?? [{ offset: 0, length: entry.size }];
      for (const { offset, length } of segments) yield* readRange(fd, offset, length, entry);
    } finally {
      close(fd);
    }
  }

  close(): void {
    this.cursor.close();
    this.keptCursor?.close();
    for (const fd of this.fds) close(fd);
  }

  private openRoot(path: string): number {
    const fd = openSync(path, O_PATH | O_CLOEXEC | constants.O_DIRECTORY);
    this.fds.push(fd);
    return fd;
  }

  private notePaths(path: ByteString, node: LayerNode): void {
    for (const [name, child] of node.children ?? []) {
      const below = joinBytes(path, name);
      if (child.kind === 'file' && child.storedSize > 0) this.paths.set(child.entry, below);
      else if (child.children !== null) this.notePaths(below, child);
    }
  }
}

function* readRange(fd: number, offset: number, length: number, entry: TarEntry): Generator<Buffer> {
  for (let done = 0; done < length;) {
    const chunk = Buffer.allocUnsafe(Math.min(CHUNK, length - done));
    const read = readSync(fd, chunk, 0, chunk.length, offset + done);
    if (read === 0) throw payloadGone(entry);
    done += read;
    yield read === chunk.length ? chunk : chunk.subarray(0, read);
  }
}

function payloadGone(entry: TarEntry): LayerdError {
  const path = displayBytes(entry.path);
  return new LayerdError('LAYER_DAMAGED', `the stored file ${path} has another size than the layer's tar says`, {
    details: { path, expected: entry.size },
    hint: 'Load the image again: what is damaged is replaced in place.',
  });
}
