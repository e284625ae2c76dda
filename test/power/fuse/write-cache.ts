/** The cache of a disk: what was written since the last flush, which a power cut may lose block by block. */
import { readSync, writeSync } from 'node:fs';

/** What a disk writes at once, or not at all. */
export const BLOCK_BYTES = 4096;

/** Decides for a block of the cache which of its `versions` the disk kept: an index, or -1 for none of them. */
export type Choose = (versions: number) => number;

export class WriteCache {
  /** The disk itself, as of the last flush. */
  private readonly fd: number;
  /** By the number of the block: what it held after each write since the last flush, oldest first. */
  private readonly versions = new Map<number, Buffer[]>();

  constructor(fd: number) {
    this.fd = fd;
  }

  read(offset: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    readSync(this.fd, bytes, 0, length, offset);
    if (this.versions.size === 0) return bytes;
    for (const { block, from, to, at } of blocksOf(offset, length)) {
      this.versions.get(block)?.at(-1)?.copy(bytes, at, from, to);
    }
    return bytes;
  }

  /** Takes `bytes` over. */
  write(offset: number, bytes: Buffer): void {
    for (const { block, from, to, at } of blocksOf(offset, bytes.length)) {
      const part = bytes.subarray(at, at + to - from);
      this.add(block, part.length === BLOCK_BYTES ? part : this.patched(block, from, part));
    }
  }

  flush(): void {
    for (const [block, versions] of this.versions) {
      const last = versions.at(-1);
      if (last !== undefined) writeSync(this.fd, last, 0, BLOCK_BYTES, block * BLOCK_BYTES);
    }
    this.versions.clear();
  }

  /** Writes to `fd`, a copy of the disk, what of the cache it got as well before the power went. */
  settle(fd: number, choose: Choose): void {
    for (const [block, versions] of this.versions) {
      const kept = versions[choose(versions.length)];
      if (kept !== undefined) writeSync(fd, kept, 0, BLOCK_BYTES, block * BLOCK_BYTES);
    }
  }

  private add(block: number, content: Buffer): void {
    const versions = this.versions.get(block);
    if (versions === undefined) this.versions.set(block, [content]);
    else versions.push(content);
  }

  private patched(block: number, from: number, part: Buffer): Buffer {
    const content = Buffer.from(this.read(block * BLOCK_BYTES, BLOCK_BYTES));
    part.copy(content, from);
    return content;
  }
}

/** The blocks of a range: which bytes of each, and where in the range they are. */
function* blocksOf(offset: number, length: number): Generator<{ block: number; from: number; to: number; at: number }> {
  const end = offset + length;
  for (let block = Math.floor(offset / BLOCK_BYTES); block * BLOCK_BYTES < end; block += 1) {
    const start = block * BLOCK_BYTES;
    const from = Math.max(0, offset - start);
    yield { block, from, to: Math.min(BLOCK_BYTES, end - start), at: start + from - offset };
  }
}
