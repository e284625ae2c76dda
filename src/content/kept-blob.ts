import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fileSource } from './file-source.js';
import { gathered } from './source-gather.js';
import type { ByteSource } from './source.js';

const WRITE_BYTES = 256 * 1024;

/**
 * A blob that is written to a file as it came, beside its verification: to be kept under its name when that is done, or
 * so that a transfer that breaks off can go on where it ended.
 */
export class KeptBlob {
  private handle: FileHandle | null = null;
  private readonly path: string;
  private readonly have: number;

  /** `have`: bytes that lie at `path` already. */
  constructor(path: string, have = 0) {
    this.path = path;
    this.have = have;
  }

  /** The whole blob: what lies there already, then the bytes of `source`, written to the file as they pass. */
  async *tee(source: ByteSource): AsyncGenerator<Buffer> {
    const handle = await open(this.path, this.have === 0 ? 'w' : 'r+', 0o600);
    this.handle = handle;
    await handle.truncate(this.have);
    if (this.have > 0) yield* fileSource(this.path, 0, this.have);
    let position = this.have;
    let writing: Promise<void> | null = null;
    try {
      for await (const chunk of gathered(source, WRITE_BYTES)) {
        writing = writeAll(handle, chunk, position);
        // looked at when the consumer comes back: it works on the chunk meanwhile
        writing.catch(() => undefined);
        yield chunk;
        await writing;
        position += chunk.length;
      }
    } finally {
      // what the consumer left for is told, not what the disk says then
      await writing?.catch(() => undefined);
    }
  }

  /** The bytes were right: makes them durable under the name they are kept by. Returns the allocated bytes. */
  async keep(name: string): Promise<number> {
    if (this.handle === null) throw new Error('keep() before tee()');
    await this.handle.sync();
    const { blocks } = await this.handle.stat();
    await this.leave();
    if (name !== this.path) await rename(this.path, name);
    await syncDirectory(dirname(name));
    return blocks * 512;
  }

  /** It stays as it is, for another try. */
  async leave(): Promise<void> {
    await this.handle?.close();
    this.handle = null;
  }

  /** The bytes were wrong, or are not wanted. */
  async discard(): Promise<void> {
    await this.leave();
    await rm(this.path, { force: true });
  }
}

async function writeAll(handle: FileHandle, chunk: Buffer, position: number): Promise<void> {
  for (let done = 0; done < chunk.length;) {
    const { bytesWritten } = await handle.write(chunk, done, chunk.length - done, position + done);
    done += bytesWritten;
  }
}

async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
