/**
 * An archive that lies in a directory: an OCI layout, or a docker-archive that was unpacked. Names come from its
 * documents, so they are resolved beneath the directory's descriptor; without openat2 only names that cannot leave it
 * are opened.
 */
import { constants } from 'node:fs';
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type ByteString, displayBytes, fromBuffer } from '../core/bytes.js';
import { isErrno, LayerdError } from '../core/errors.js';
import { LIMITS } from '../core/limits.js';
import { close, fdPath, O_PATH, openat2, RESOLVE } from '../linux/files.js';
import { linuxAvailable } from '../linux/libc.js';
import type { ArchiveHost } from './host.js';
import { documentTooLarge } from './json.js';
import {
  type ArchiveMembers,
  blobDigestOf,
  DOCKER_MANIFEST,
  INDEX,
  LAYOUT,
  missingLayer,
  type ObtainedLayer,
  obtain,
  type Origin,
  type WantedLayer,
} from './members.js';
import { ingestRange, OpenFile, openToRead } from './open-file.js';

export class DirectoryMembers implements ArchiveMembers {
  readonly origin: Origin;
  readonly ended = true;
  readonly #directory: FileHandle;
  readonly #path: string;
  readonly #host: ArchiveHost;

  /** `directory` is `path`, opened; it stays the caller's, who closes it when all layers are there. */
  constructor(directory: FileHandle, path: string, origin: Origin, host: ArchiveHost) {
    this.origin = origin;
    this.#directory = directory;
    this.#path = path;
    this.#host = host;
  }

  async document(path: ByteString): Promise<Buffer | null> {
    return await this.#with(path, (file) => {
      if (file.size > LIMITS.jsonDocument) throw documentTooLarge(displayBytes(path), file.size);
      return file.read(0, file.size);
    });
  }

  layer(path: ByteString, wanted: WantedLayer, signal: AbortSignal): Promise<ObtainedLayer> {
    return obtain(this.#host, wanted, async () => {
      const layer = await this.#with(path, (file) =>
        ingestRange(this.#host, file, { offset: 0, length: file.size }, wanted, signal),
      );
      if (layer === null) throw missingLayer(this.origin.label, path, wanted);
      return layer;
    });
  }

  async sample(): Promise<ByteString[]> {
    const names = await readdir(this.#path, { encoding: 'buffer' });
    return names.map(fromBuffer).sort();
  }

  async #with<T>(path: ByteString, use: (file: OpenFile) => Promise<T>): Promise<T | null> {
    const handle = await this.#open(path);
    if (handle === null) return null;
    const file = await OpenFile.of(handle, displayBytes(path), join(this.#path, path));
    try {
      return await use(file);
    } finally {
      await file.close();
    }
  }

  async #open(path: ByteString): Promise<FileHandle | null> {
    try {
      return linuxAvailable().available ? await this.#openBeneath(path) : await this.#openKnown(path);
    } catch (error) {
      if (isErrno(error, 'ENOENT', 'ENOTDIR')) return null;
      if (!isErrno(error, 'EXDEV', 'ELOOP')) throw error;
      throw new LayerdError(
        'ARCHIVE_INVALID',
        `${displayBytes(path)} of ${this.origin.label} leads out of the directory`,
        {
          details: { archive: this.origin.label, member: displayBytes(path) },
          hint: 'Links may not leave the directory: copy the files that they lead to into it.',
          cause: error,
        },
      );
    }
  }

  async #openBeneath(path: ByteString): Promise<FileHandle> {
    const fd = openat2(this.#directory.fd, path, O_PATH, RESOLVE.BENEATH + RESOLVE.NO_MAGICLINKS);
    try {
      return await openToRead(fdPath(fd));
    } finally {
      close(fd);
    }
  }

  /** Names of the OCI layout alone, and no link at their end. */
  async #openKnown(path: ByteString): Promise<FileHandle | null> {
    const known = blobDigestOf(path) !== null || [LAYOUT, INDEX, DOCKER_MANIFEST].includes(path);
    const flags = constants.O_RDONLY + constants.O_NOFOLLOW + constants.O_NONBLOCK;
    return known ? await open(join(this.#path, path), flags) : null;
  }
}
