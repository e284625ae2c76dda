import { close, closeSync, open, openSync, read, readSync } from 'node:fs';
import { promisify } from 'node:util';
import { LayerdError } from '../core/errors.js';

const openFile = promisify(open);
const closeFile = promisify(close);
const readFile = promisify(read);

const CHUNK_BYTES = 1024 * 1024;

/**
 * A region of a file, in chunks of 1 MiB, each read while the consumer works on the one before. `file` is a path, opened
 * for the purpose, or a descriptor, left open. Throws ARCHIVE_TRUNCATED where the file ends before the region does.
 */
export async function* fileSource(file: string | number, offset: number, length: number): AsyncGenerator<Buffer> {
  if (typeof file === 'string' && length <= AT_ONCE_BYTES) {
    yield* fewBytes(file, offset, length);
    return;
  }
  const fd = typeof file === 'number' ? file : await openFile(file, 'r');
  const reader = new RegionReader(fd, typeof file === 'number' ? `descriptor ${file}` : file, offset, length);
  let reading = reader.next();
  try {
    for (;;) {
      const chunk = await reading;
      if (chunk === null) return;
      reading = reader.next();
      reading.catch(() => undefined); // looked at when the consumer comes back
      yield chunk;
    }
  } finally {
    // The pool may still be reading from the descriptor into a buffer of ours; what comes of it interests nobody now.
    await reading.catch(() => undefined);
    if (typeof file === 'string') await closeFile(fd);
  }
}

/** Less than this is read without the way to another thread and back, which would take longer. */
const AT_ONCE_BYTES = 128 * 1024;

function* fewBytes(file: string, offset: number, length: number): Generator<Buffer> {
  const chunk = Buffer.allocUnsafeSlow(length);
  const fd = openSync(file, 'r');
  try {
    for (let filled = 0; filled < length;) {
      const bytes = readSync(fd, chunk, filled, length - filled, offset + filled);
      if (bytes === 0) throw truncated(file, offset, { expected: length, found: filled });
      filled += bytes;
    }
  } finally {
    closeSync(fd);
  }
  if (length > 0) yield chunk;
}

class RegionReader {
  private readonly fd: number;
  private readonly name: string;
  private readonly end: number;
  private readonly start: number;
  private position: number;
  private chunk: Buffer;
  private spare: Buffer;

  constructor(fd: number, name: string, offset: number, length: number) {
    this.fd = fd;
    this.name = name;
    this.start = offset;
    this.position = offset;
    this.end = offset + length;
    const size = Math.min(CHUNK_BYTES, length);
    this.chunk = Buffer.allocUnsafeSlow(size);
    this.spare = Buffer.allocUnsafeSlow(length > CHUNK_BYTES ? size : 0);
  }

  /** Null at the end of the region. The chunk before last is overwritten. */
  async next(): Promise<Buffer | null> {
    const wanted = Math.min(this.chunk.length, this.end - this.position);
    if (wanted === 0) return null;
    const chunk = this.chunk;
    [this.chunk, this.spare] = [this.spare, chunk];
    for (let filled = 0; filled < wanted;) {
      const { bytesRead } = await readFile(this.fd, chunk, filled, wanted - filled, this.position);
      if (bytesRead === 0) throw this.truncated();
      filled += bytesRead;
      this.position += bytesRead;
    }
    return chunk.subarray(0, wanted);
  }

  private truncated(): LayerdError {
    const { name, start, end, position } = this;
    return truncated(name, start, { expected: end - start, found: position - start });
  }
}

function truncated(
  file: string,
  offset: number,
  { expected, found }: Record<'expected' | 'found', number>,
): LayerdError {
  return new LayerdError(
    'ARCHIVE_TRUNCATED',
    `${file} ends at byte ${offset + found}: expected ${expected} bytes from byte ${offset}, found ${found}`,
    {
      details: { file, offset, expected, found },
      hint: 'The file was cut off, or changed while it was read: fetch or make it again.',
    },
  );
}
