/**
 * From the bytes of a tar to its entries. What is accepted and what it means follows Go's archive/tar, since a layer is
 * what containerd and Docker make of it with that; where it takes lies in silence, this scanner refuses:
 *
 * - Refused: extension headers that no entry follows; unknown types and sparse formats; negative or oversized ids and
 *   sizes; empty names; a sparse map that does not fit the payload.
 * - Of several PAX headers in a row only the last holds. A global one means nothing, ends what came before it, and is
 *   kept as raw bytes. A GNU long name goes before a PAX path.
 * - Links, directories, devices and fifos have no payload, whatever size they state.
 * - Two zero blocks end the archive; one zero block with another behind it is an error. An archive may also end
 *   without them, behind a whole entry, even without its padding: `endMarker` is false then.
 */
import type { ByteString } from '../core/bytes.js';
import { displayBytes } from '../core/bytes.js';
import { LayerdError } from '../core/errors.js';
import type { Draft, Extensions } from './draft.js';
import { EXTENSION_FLAGS, draftEntry, entryPath, extend } from './draft.js';
import type { TarHandler, TarLimits, TarSummary } from './entry.js';
import { BLOCK, DEFAULT_TAR_LIMITS, padding } from './entry.js';
import { TarFault, checkLimit, invalid } from './fault.js';
import type { Header } from './header.js';
import { isZeroBlock, readHeader } from './header.js';

/** What a whole block is awaited for. */
type BlockState =
  | 'header'
  | 'sparseMap' // a map in blocks of its own
  | 'endBlock'; // the second zero block

/** What the next byte is. */
type State =
  | BlockState
  | 'extension' // the body of a PAX or GNU header
  | 'data'
  | 'padding'
  | 'after'; // behind the end marker

/** An extension header whose body is being read. */
interface OpenExtension {
  flag: string;
  size: number;
  /** Its body so far, where it comes in pieces. */
  body: Buffer | null;
  filled: number;
}

const EMPTY = Buffer.alloc(0);

/** Reads a tar as it streams by: bytes in by write(), in chunks of any size, entries out to the handler. */
export class TarScanner {
  readonly #handler: TarHandler;
  readonly #limits: TarLimits;
  #state: State = 'header';
  #chunk: Buffer = EMPTY;
  /** Offset of the current chunk in the tar, and of the next byte in the chunk. */
  #base = 0;
  #pos = 0;
  /** Where in the current chunk the bytes begin that raw() has not been told. */
  #rawFrom = 0;
  /** A block that comes in pieces, and how much of it is there. */
  readonly #block = Buffer.alloc(BLOCK);
  #blockFilled = 0;
  #openExtension: OpenExtension | null = null;
  /** An entry whose sparse map is being read. */
  #openDraft: Draft | null = null;
  #extensions: Extensions | null = null;
  /** Offset of the first header of the entry in work; -1 between entries. */
  #entryOffset = -1;
  /** Offset of the last header block that was met, for errors. */
  #headerOffset = 0;
  /** The path of the entry in work as far as it is known, for errors. */
  #path = '' as ByteString;
  /** Bytes of payload or padding still to come. */
  #left = 0;
  #padding = 0;
  /** Entries that are complete. */
  #entries = 0;
  #failure: { error: unknown } | null = null;

  constructor(handler: TarHandler, limits: Partial<TarLimits> = {}) {
    this.#handler = handler;
    this.#limits = { ...DEFAULT_TAR_LIMITS, ...limits };
  }

  /**
   * Takes the next bytes. Throws TAR_INVALID, TAR_UNSUPPORTED or TAR_LIMIT, naming the entry and the offset of its
   * header; after that, and after an exception of the handler, every call throws the same again.
   */
  write(chunk: Buffer): void {
    this.#guarded(() => {
      this.#chunk = chunk;
      this.#pos = 0;
      this.#rawFrom = 0;
      while (this.#pos < chunk.length) this.#step();
      this.#flushRaw();
      this.#base += chunk.length;
      this.#chunk = EMPTY;
      this.#pos = 0;
    });
  }

  /** Bytes of stored payload that are still to come of the current entry; 0 outside of a payload. */
  get payloadDue(): number {
    return this.#state === 'data' ? this.#left : 0;
  }

  /**
   * Takes bytes of stored payload as passed without seeing them, for a tar that is kept without its payloads: data() is
   * not called. Not from within the handler. Throws INTERNAL where so many are not due.
   */
  skip(bytes: number): void {
    this.#guarded(() => {
      if (!(bytes > 0 && bytes <= this.payloadDue)) {
        throw new LayerdError('INTERNAL', `cannot skip ${bytes} bytes of payload: ${this.payloadDue} are due`);
      }
      this.#base += bytes;
      this.#passPayload(bytes);
    });
  }

  /** Says that the input has ended. Throws TAR_TRUNCATED where that is inside an entry. */
  finish(): TarSummary {
    return this.#guarded(() => {
      const inside = this.#unfinished();
      if (inside !== null) {
        throw new TarFault('TAR_TRUNCATED', `the archive ends after ${this.#base} bytes, inside ${inside}`);
      }
      return { entries: this.#entries, bytes: this.#base, endMarker: this.#state === 'after' };
    });
  }

  #guarded<T>(body: () => T): T {
    if (this.#failure) throw this.#failure.error;
    try {
      return body();
    } catch (thrown) {
      const error = thrown instanceof TarFault ? this.#named(thrown) : thrown;
      this.#failure = { error };
      throw error;
    }
  }

  #named(fault: TarFault): LayerdError {
    const entry = this.#entries + 1;
    const offset = this.#headerOffset;
    const path = displayBytes(this.#path.slice(0, 1000) as ByteString);
    const message = `tar entry ${entry}${path === '' ? '' : ` (${path})`} at offset ${offset}: ${fault.message}`;
    return new LayerdError(fault.code, message, {
      details: { ...fault.details, entry, path, offset },
      hint: fault.hint,
    });
  }

  /** What the input lacks the rest of; null if it may end here. */
  #unfinished(): string | null {
    switch (this.#state) {
      case 'data':
        return `the payload, of which ${this.#left} bytes are missing`;
      case 'extension':
        return 'an extension header';
      case 'sparseMap':
        return 'a sparse map';
      case 'header':
      case 'endBlock':
        if (this.#blockFilled > 0) return 'a block';
        break;
      case 'padding':
      case 'after':
    }
    return this.#extensions === null ? null : 'an entry of which there are only extension headers';
  }

  #step(): void {
    switch (this.#state) {
      case 'data':
        this.#stepData();
        break;
      case 'padding':
        this.#stepPadding();
        break;
      case 'extension':
        this.#stepExtension();
        break;
      case 'after':
        this.#pos = this.#chunk.length;
        break;
      case 'header':
      case 'sparseMap':
      case 'endBlock':
        this.#stepBlock(this.#state);
    }
  }

  #stepData(): void {
    const length = Math.min(this.#left, this.#chunk.length - this.#pos);
    const start = this.#pos;
    this.#pos += length;
    this.#rawFrom = this.#pos;
    this.#handler.data(length === this.#chunk.length ? this.#chunk : this.#chunk.subarray(start, start + length));
    this.#passPayload(length);
  }

  #passPayload(length: number): void {
    this.#left -= length;
    if (this.#left === 0) this.#endEntry();
  }

  #stepPadding(): void {
    const length = Math.min(this.#left, this.#chunk.length - this.#pos);
    this.#pos += length;
    this.#left -= length;
    if (this.#left === 0) this.#state = 'header';
  }

  /** Tells raw() what it has not been told of the current chunk. */
  #flushRaw(): void {
    if (this.#rawFrom === this.#pos) return;
    this.#handler.raw?.(this.#chunk.subarray(this.#rawFrom, this.#pos));
    this.#rawFrom = this.#pos;
  }

  #stepBlock(state: BlockState): void {
    const there = this.#chunk.length - this.#pos;
    if (this.#blockFilled === 0 && there >= BLOCK) {
      this.#pos += BLOCK;
      this.#takeBlock(state, this.#chunk, this.#pos - BLOCK);
      return;
    }
    const length = Math.min(there, BLOCK - this.#blockFilled);
    this.#chunk.copy(this.#block, this.#blockFilled, this.#pos, this.#pos + length);
    this.#pos += length;
    this.#blockFilled += length;
    if (this.#blockFilled < BLOCK) return;
    this.#blockFilled = 0;
    this.#takeBlock(state, this.#block, 0);
  }

  /** Takes a block that has been passed. */
  #takeBlock(state: BlockState, bytes: Buffer, at: number): void {
    switch (state) {
      case 'header':
        this.#headerOffset = this.#base + this.#pos - BLOCK;
        this.#takeHeader(bytes, at);
        break;
      case 'sparseMap':
        this.#takeSparseMap(bytes, at);
        break;
      case 'endBlock':
        if (!isZeroBlock(bytes, at))
          throw invalid('behind a zero block there is a block that is not: two end an archive');
        this.#state = 'after';
    }
  }

  #takeHeader(bytes: Buffer, at: number): void {
    if (bytes[at] === 0 && isZeroBlock(bytes, at)) {
      if (this.#extensions !== null) throw invalid('an extension header has no entry behind it');
      this.#state = 'endBlock';
      return;
    }
    const header = readHeader(bytes, at);
    if (this.#entryOffset === -1) this.#entryOffset = this.#headerOffset;
    if (EXTENSION_FLAGS.has(header.flag)) this.#beginExtension(header);
    else this.#beginEntry(header, bytes, at);
  }

  #beginExtension(header: Header): void {
    const { flag, size } = header;
    if (size < 0) throw invalid(`the size of the extension header is negative: ${size}`, { found: size });
    checkLimit('bytes of an extension header', size, this.#limits.maxMetaBytes);
    this.#openExtension = { flag, size, body: null, filled: 0 };
    this.#state = 'extension';
    if (size === 0) this.#endExtension(flag, EMPTY);
  }

  #stepExtension(): void {
    const open = this.#openExtension;
    if (open === null) throw lost('extension header');
    const length = Math.min(this.#chunk.length - this.#pos, open.size - open.filled);
    const part = this.#chunk.subarray(this.#pos, this.#pos + length);
    this.#pos += length;
    if (length === open.size) {
      this.#endExtension(open.flag, part);
      return;
    }
    open.body ??= Buffer.allocUnsafe(open.size);
    open.body.set(part, open.filled);
    open.filled += length;
    if (open.filled === open.size) this.#endExtension(open.flag, open.body);
  }

  #endExtension(flag: string, body: Buffer): void {
    this.#openExtension = null;
    this.#extensions = extend(this.#extensions, flag, body, this.#limits);
    // a global header belongs to no entry
    if (this.#extensions === null) this.#entryOffset = -1;
    this.#awaitHeader(padding(body.length));
  }

  #beginEntry(header: Header, bytes: Buffer, at: number): void {
    this.#path = entryPath(header, this.#extensions);
    checkLimit('entries', this.#entries + 1, this.#limits.maxEntries);
    const draft = draftEntry({ header, bytes, at }, this.#extensions, this.#entryOffset, this.#limits);
    this.#extensions = null;
    this.#entryOffset = -1;
    if (draft.map === null || draft.map.done) {
      this.#openEntry(draft);
    } else {
      this.#openDraft = draft;
      this.#state = 'sparseMap';
    }
  }

  #takeSparseMap(bytes: Buffer, at: number): void {
    const draft = this.#openDraft;
    if (draft === null || draft.map === null) throw lost('sparse map');
    draft.map.push(bytes, at);
    if (!draft.map.done) return;
    this.#openDraft = null;
    this.#openEntry(draft);
  }

  /** All headers are read: the payload follows. */
  #openEntry(draft: Draft): void {
    const { entry, segments, map } = draft;
    const storedSize = draft.payload - (map?.payloadTaken ?? 0);
    entry.sparse = segments?.finish(entry.size, storedSize) ?? null;
    entry.dataOffset = this.#base + this.#pos;
    entry.storedSize = storedSize;
    this.#flushRaw();
    this.#handler.entry(entry);
    this.#left = storedSize;
    this.#padding = padding(storedSize);
    this.#state = 'data';
    if (storedSize === 0) this.#endEntry();
  }

  #endEntry(): void {
    this.#entries++;
    this.#path = '' as ByteString;
    this.#awaitHeader(this.#padding);
    this.#handler.entryEnd();
  }

  #awaitHeader(paddingBefore: number): void {
    this.#left = paddingBefore;
    this.#state = paddingBefore === 0 ? 'header' : 'padding';
  }
}

/** For what cannot be, unless the scanner itself is wrong. */
function lost(what: string): LayerdError {
  return new LayerdError('INTERNAL', `the tar scanner has lost its ${what}`);
}
