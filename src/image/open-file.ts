import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { fileSource } from '../content/file-source.js';
import type { ByteSource } from '../content/source.js';
import { LayerdError } from '../core/errors.js';
import type { ArchiveHost, IngestedLayer, LayerSource } from './host.js';
import { checkSize, ingestNamed, type WantedLayer } from './members.js';

/** A file held open for reading at any place. */
export class OpenFile {
  readonly size: number;
  readonly #handle: FileHandle;
  readonly #path: string;

  private constructor(handle: FileHandle, path: string, size: number) {
    this.#handle = handle;
    this.#path = path;
    this.size = size;
  }

  /** Takes the handle over. `name` is for errors: throws ARCHIVE_INVALID if it is not a regular file. */
  static async of(handle: FileHandle, name: string, path: string): Promise<OpenFile> {
    const stat = await handle.stat();
    if (stat.isFile()) return new OpenFile(handle, path, stat.size);
    await handle.close();
    throw new LayerdError('ARCHIVE_INVALID', `${name} is not a regular file`, { details: { path: name } });
  }

  /** Exactly these bytes; throws ARCHIVE_TRUNCATED if the file has become shorter. */
  async read(offset: number, length: number): Promise<Buffer> {
    const bytes = Buffer.allocUnsafe(length);
    const filled = await this.readInto(bytes, offset);
    if (filled === length) return bytes;
    throw new LayerdError('ARCHIVE_TRUNCATED', `${this.#path} ends at byte ${offset + filled}`, {
      details: { path: this.#path, expected: offset + length, found: offset + filled },
      hint: 'The file became shorter while it was read: nothing may write to it meanwhile.',
    });
  }

  /** Fills the buffer as far as the file reaches; gives the number of bytes. */
  async readInto(bytes: Buffer, offset: number): Promise<number> {
    let filled = 0;
    while (filled < bytes.length) {
      const { bytesRead } = await this.#handle.read(bytes, filled, bytes.length - filled, offset + filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return filled;
  }

  /** A range as every thread of this process can open it, while this file is held open. */
  source(offset: number, length: number): LayerSource {
    const path = process.platform === 'linux' ? `/proc/self/fd/${this.#handle.fd}` : this.#path;
    return { path, offset, length };
  }

  /** All bytes in their order. */
  stream(): ByteSource {
    return fileSource(this.#handle.fd, 0, this.size);
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}

/** Opens what a path leads to without waiting for it: a pipe without a writer would block for ever. */
export function openToRead(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDONLY | constants.O_NONBLOCK);
}

/** Has a layer ingested that lies in a file at `offset`. */
export function ingestRange(
  host: ArchiveHost,
  file: OpenFile,
  range: { offset: number; length: number },
  wanted: WantedLayer,
  signal: AbortSignal,
): Promise<IngestedLayer> {
  checkSize(wanted.name, wanted.size, range.length);
  return ingestNamed(host, file.source(range.offset, range.length), wanted, signal);
}
