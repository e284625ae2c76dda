import { open, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { ByteSource } from './source.js';

/** A compressed blob that is kept as it came, written beside the verification. */
export class KeptBlob {
  private handle: FileHandle | null = null;
  private readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  /** The same bytes, written to the file as they pass. */
  async *tee(source: ByteSource): AsyncGenerator<Buffer> {
    this.handle = await open(this.path, 'wx', 0o600);
    for await (const chunk of source) {
      await this.handle.writeFile(chunk);
      yield chunk;
    }
  }

  /** The bytes were right: makes them durable. Returns the allocated bytes. */
  async keep(): Promise<number> {
    if (this.handle === null) throw new Error('keep() before tee()');
    await this.handle.sync();
    const { blocks } = await this.handle.stat();
    await this.handle.close();
    this.handle = null;
    await syncDirectory(dirname(this.path));
    return blocks * 512;
  }

  /** The bytes were wrong, or are not wanted. */
  async discard(): Promise<void> {
    await this.handle?.close();
    this.handle = null;
    await rm(this.path, { force: true });
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
