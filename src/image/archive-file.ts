/**
 * An archive in a tar file that can be read at any place: the headers are walked once, the payloads passed over, and
 * only what the chosen images need is read, layers in parallel.
 */
import { type ByteString, displayBytes } from '../core/bytes.js';
import { LIMITS } from '../core/limits.js';
import type { TarEntry } from '../tar/entry.js';
import { TarScanner } from '../tar/scanner.js';
import type { ArchiveHost } from './host.js';
import { documentTooLarge } from './json.js';
import { archiveError, MemberTable } from './member-table.js';
import {
  type ArchiveMembers,
  missingLayer,
  type ObtainedLayer,
  obtain,
  type Origin,
  throwIfCancelled,
  type WantedLayer,
} from './members.js';
import { ingestRange, type OpenFile } from './open-file.js';

/** Where a member's bytes lie in the file. */
interface Range {
  offset: number;
  length: number;
}

export class FileMembers implements ArchiveMembers {
  readonly origin: Origin;
  readonly ended: boolean;
  readonly #file: OpenFile;
  readonly #table: MemberTable<Range>;
  readonly #host: ArchiveHost;

  private constructor(file: OpenFile, table: MemberTable<Range>, ended: boolean, origin: Origin, host: ArchiveHost) {
    this.origin = origin;
    this.ended = ended;
    this.#file = file;
    this.#table = table;
    this.#host = host;
  }

  /** Walks the headers. `file` stays the caller's, who closes it when all layers are there. */
  static async index(file: OpenFile, origin: Origin, host: ArchiveHost, signal: AbortSignal): Promise<FileMembers> {
    const { table, ended } = await walkHeaders(file, origin.label, signal);
    return new FileMembers(file, table, ended, origin, host);
  }

  async document(path: ByteString): Promise<Buffer | null> {
    const range = this.#table.find(path);
    if (range === null) return null;
    if (range.length > LIMITS.jsonDocument) throw documentTooLarge(displayBytes(path), range.length);
    return await this.#file.read(range.offset, range.length);
  }

  layer(path: ByteString, wanted: WantedLayer, signal: AbortSignal): Promise<ObtainedLayer> {
    return obtain(this.#host, wanted, () => {
      const range = this.#table.find(path);
      if (range === null) throw missingLayer(this.origin.label, path, wanted);
      return ingestRange(this.#host, this.#file, range, wanted, signal);
    });
  }

  sample(): Promise<ByteString[]> {
    return Promise.resolve(this.#table.names());
  }
}

/** Headers are read in pieces of this size: one is enough for a header and the small members behind it. */
const READ_BYTES = 64 * 1024;

async function walkHeaders(
  file: OpenFile,
  label: string,
  signal: AbortSignal,
): Promise<{ table: MemberTable<Range>; ended: boolean }> {
  const table = new MemberTable<Range>(label);
  const scanner = new TarScanner({
    entry(entry: TarEntry) {
      table.add(entry, { offset: entry.dataOffset, length: entry.storedSize });
    },
    data: () => undefined,
    entryEnd: () => undefined,
  });
  const piece = Buffer.allocUnsafe(READ_BYTES);
  try {
    for (let offset = 0; offset < file.size;) {
      throwIfCancelled(signal);
      const filled = await file.readInto(piece, offset);
      if (filled === 0) break;
      scanner.write(piece.subarray(0, filled));
      const passed = Math.min(scanner.payloadDue, file.size - offset - filled);
      if (passed > 0) scanner.skip(passed);
      offset += filled + passed;
    }
    return { table, ended: scanner.finish().endMarker };
  } catch (error) {
    throw archiveError(label, error);
  }
}
