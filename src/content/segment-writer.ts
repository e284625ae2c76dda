import { writeSync } from 'node:fs';
import type { SparseSegment, TarEntry } from '../tar/entry.js';

/** Puts the stored bytes of a file, which come back to back, where its segments say; a plain file is one segment. */
export class SegmentWriter {
  private index = 0;
  private within = 0;
  private readonly fd: number;
  private readonly segments: readonly SparseSegment[];

  constructor(fd: number, file: Pick<TarEntry, 'sparse' | 'size'>) {
    this.fd = fd;
    this.segments = file.sparse ?? [{ offset: 0, length: file.size }];
  }

  write(chunk: Buffer): void {
    for (let done = 0; done < chunk.length;) {
      const segment = this.segments[this.index];
      if (segment === undefined) return;
      const length = Math.min(chunk.length - done, segment.length - this.within);
      writeAt(this.fd, chunk, { from: done, to: done + length }, segment.offset + this.within);
      done += length;
      this.within += length;
      if (this.within < segment.length) continue;
      this.index += 1;
      this.within = 0;
    }
  }
}

function writeAt(fd: number, chunk: Buffer, { from, to }: { from: number; to: number }, position: number): void {
  for (let at = from; at < to;) at += writeSync(fd, chunk, at, to - at, position + at - from);
}
