/**
 * An archive that comes as a stream, once, its members in any order. Documents are kept; what looks like a layer is
 * handed to the host as it passes, before it is known whether an image needs it; the rest is dropped. When the stream
 * has ended, the images are resolved against what was taken in.
 */
import { setMaxListeners } from 'node:events';
import type { ByteSource } from '../content/source.js';
import { type ByteString, displayBytes } from '../core/bytes.js';
import { LayerdError, toLayerdError } from '../core/errors.js';
import { LIMITS } from '../core/limits.js';
import type { TarEntry } from '../tar/entry.js';
import { TarScanner } from '../tar/scanner.js';
import { Handoff } from './handoff.js';
import type { ArchiveHost, LayerExpectation } from './host.js';
import { documentTooLarge } from './json.js';
import { archiveError, MemberTable } from './member-table.js';
import {
  archiveLimit,
  type ArchiveMembers,
  blobMismatch,
  checkSize,
  diffIdMismatch,
  ingestNamed,
  missingLayer,
  type ObtainedLayer,
  obtain,
  type Origin,
  throwIfCancelled,
  type WantedLayer,
} from './members.js';
import { HEAD_BYTES, promisedDigests, sniff } from './sniff.js';
import { type Twin, unlessSame } from './twin.js';

/** What became of a member that looked like a layer. An error counts only if an image needs the layer. */
type Outcome = { layer: ObtainedLayer } | { error: LayerdError };

/** What is kept of a member. */
interface Member {
  readonly path: ByteString;
  readonly size: number;
  document: Buffer | null;
  layer: Promise<Outcome> | null;
  wanted: boolean;
}

export class StreamMembers implements ArchiveMembers {
  readonly origin: Origin;
  readonly ended: boolean;
  readonly #table: MemberTable<Member>;
  readonly #host: ArchiveHost;

  private constructor(table: MemberTable<Member>, ended: boolean, origin: Origin, host: ArchiveHost) {
    this.origin = origin;
    this.ended = ended;
    this.#table = table;
    this.#host = host;
  }

  /** Reads the whole stream; resolves when every layer in it has been taken in or refused. */
  static async read(
    source: ByteSource,
    origin: Origin,
    host: ArchiveHost,
    signal: AbortSignal,
  ): Promise<StreamMembers> {
    const { table, ended } = await new Passage(origin.label, host, signal).run(source);
    return new StreamMembers(table, ended, origin, host);
  }

  document(path: ByteString): Promise<Buffer | null> {
    const member = this.#table.find(path);
    if (member !== null && member.size > LIMITS.jsonDocument) throw documentTooLarge(displayBytes(path), member.size);
    return Promise.resolve(member?.document ?? null);
  }

  async layer(path: ByteString, wanted: WantedLayer): Promise<ObtainedLayer> {
    const member = this.#table.find(path);
    if (member === null) {
      return await obtain(this.#host, wanted, () => Promise.reject(missingLayer(this.origin.label, path, wanted)));
    }
    member.wanted = true;
    checkSize(wanted.name, wanted.size, member.size);
    if (member.layer === null) throw notALayer(this.origin.label, wanted);
    const outcome = await member.layer;
    if ('error' in outcome) throw outcome.error;
    const { blobDigest, diffId } = outcome.layer;
    if (wanted.blobDigest !== undefined && blobDigest !== null && wanted.blobDigest !== blobDigest) {
      throw blobMismatch(wanted.name, wanted.blobDigest, blobDigest);
    }
    if (wanted.diffId !== diffId) throw diffIdMismatch(wanted.name, wanted.diffId, diffId);
    return outcome.layer;
  }

  sample(): Promise<ByteString[]> {
    return Promise.resolve(this.#table.names());
  }

  /** Layers that were taken in and that no image asked for. */
  unwanted(): ByteString[] {
    return this.#table.files().flatMap((member) => (member.layer !== null && !member.wanted ? [member.path] : []));
  }
}

function notALayer(label: string, wanted: WantedLayer): LayerdError {
  return new LayerdError('ARCHIVE_INVALID', `${wanted.name} of ${label} is named as a layer, but it is no tar`, {
    details: { archive: label, layer: wanted.name, diffId: wanted.diffId },
    hint: 'A layer is a tar, plain or compressed with gzip or zstd: make the archive again.',
  });
}

type TarEvent = { entry: TarEntry } | { data: Buffer } | { end: true };

/** One reading of one stream: the tar is cut into members, each of which goes where it belongs. */
class Passage {
  readonly #label: string;
  readonly #host: ArchiveHost;
  readonly #table: MemberTable<Member>;
  readonly #abort = new AbortController();
  readonly #signal: AbortSignal;
  readonly #layers: Promise<Outcome>[] = [];
  #events: TarEvent[] = [];
  #arriving: Arrival | null = null;
  #documentBytes = 0;
  /** A failure that is not the layer's own fault: it ends the reading. */
  #fatal: LayerdError | null = null;

  constructor(label: string, host: ArchiveHost, signal: AbortSignal) {
    this.#label = label;
    this.#host = host;
    this.#table = new MemberTable(label);
    this.#signal = AbortSignal.any([signal, this.#abort.signal]);
    // each layer that is worked on listens
    setMaxListeners(0, this.#signal);
  }

  async run(source: ByteSource): Promise<{ table: MemberTable<Member>; ended: boolean }> {
    try {
      const ended = await this.#pass(source);
      await Promise.all(this.#layers);
      this.#checkFatal();
      return { table: this.#table, ended };
    } catch (thrown) {
      const error = archiveError(this.#label, thrown);
      this.#arriving?.fail(error);
      this.#abort.abort(error);
      await Promise.all(this.#layers);
      throw error;
    }
  }

  async #pass(source: ByteSource): Promise<boolean> {
    const scanner = new TarScanner({
      entry: (entry: TarEntry) => this.#events.push({ entry }),
      data: (data: Buffer) => this.#events.push({ data }),
      entryEnd: () => this.#events.push({ end: true }),
    });
    for await (const chunk of source) {
      throwIfCancelled(this.#signal);
      scanner.write(chunk);
      await this.#handleEvents();
    }
    return scanner.finish().endMarker;
  }

  async #handleEvents(): Promise<void> {
    const events = this.#events;
    this.#events = [];
    for (const event of events) {
      this.#checkFatal();
      if ('entry' in event) this.#begin(event.entry);
      else if ('data' in event) await this.#arriving?.write(event.data);
      else {
        this.#arriving?.end();
        this.#arriving = null;
      }
    }
  }

  #begin(entry: TarEntry): void {
    const member: Member = { path: entry.path, size: entry.storedSize, document: null, layer: null, wanted: false };
    const path = this.#table.add(entry, member);
    if (path === null) return;
    this.#arriving = new Arrival(member.size, (head) => this.#destinationOf(path, member, head));
  }

  async #destinationOf(path: ByteString, member: Member, head: Buffer): Promise<Destination> {
    const kind = sniff(path, head);
    if (kind === 'document') return this.#keepDocument(member);
    return kind === 'layer' ? await this.#takeLayer(path, member, head) : NOWHERE;
  }

  #keepDocument(member: Member): Destination {
    if (member.size > LIMITS.jsonDocument) return NOWHERE;
    this.#documentBytes += member.size;
    if (this.#documentBytes > LIMITS.jsonDocumentsTotal) {
      throw archiveLimit(this.#label, `it holds more than ${LIMITS.jsonDocumentsTotal} bytes of JSON documents`);
    }
    const document = Buffer.alloc(member.size);
    member.document = document;
    let filled = 0;
    return {
      ...NOWHERE,
      write: (chunk) => {
        filled += chunk.copy(document, filled);
        return Promise.resolve();
      },
    };
  }

  async #takeLayer(path: ByteString, member: Member, head: Buffer): Promise<Destination> {
    const promised = promisedDigests(path);
    const nameless = Object.keys(promised).length === 0;
    const stored = nameless ? null : await this.#host.present(promised);
    if (stored !== null) {
      const layer = { ...stored, blobDigest: promised.blobDigest ?? null, present: true };
      member.layer = Promise.resolve({ layer });
      return NOWHERE;
    }
    const { blobDigest } = promised;
    const handoff = new Handoff();
    const expect = { name: displayBytes(path), ...(blobDigest === undefined ? {} : { blobDigest }) };
    const twin = nameless ? await this.#host.resembling(member.size, head, this.#signal) : null;
    member.layer = this.#outcome(handoff, () => this.#obtain(handoff.source, member.size, expect, twin));
    this.#layers.push(member.layer);
    return handoff;
  }

  async #obtain(
    source: ByteSource,
    length: number,
    expect: LayerExpectation,
    twin: Twin | null,
  ): Promise<ObtainedLayer> {
    const take = (stream: ByteSource): Promise<ObtainedLayer> =>
      ingestNamed(this.#host, { stream, length }, expect, this.#signal);
    if (twin === null) return take(source);
    const { diffId } = twin;
    const different = await unlessSame(source, twin);
    return different === null ? obtain(this.#host, { ...expect, diffId }, () => take(twin.tar())) : take(different);
  }

  async #outcome(handoff: Handoff, work: () => Promise<ObtainedLayer>): Promise<Outcome> {
    try {
      return { layer: await work() };
    } catch (thrown) {
      const error = toLayerdError(thrown);
      if (!isOwnFault(error)) this.#fatal ??= error;
      return { error };
    } finally {
      handoff.leave();
    }
  }

  #checkFatal(): void {
    if (this.#fatal !== null) throw this.#fatal;
  }
}

/** The bytes are wrong or too much: that is nobody's matter if no image needs them. A full disk is everybody's. */
function isOwnFault(error: LayerdError): boolean {
  const { kind, code } = error;
  return kind === 'invalid' || kind === 'unsupported' || code === 'TAR_LIMIT' || code === 'LAYER_LIMIT';
}

/** Where the bytes of a member go. */
interface Destination {
  /** Resolves when the chunk may be overwritten. */
  write(chunk: Buffer): Promise<void>;
  end(): void;
  fail(error: unknown): void;
}

const NOWHERE: Destination = {
  write: () => Promise.resolve(),
  end: () => undefined,
  fail: () => undefined,
};

/** A member while its bytes come: the first of them decide where they all go. */
class Arrival {
  readonly #head: Buffer;
  readonly #decide: (head: Buffer) => Promise<Destination>;
  #filled = 0;
  #destination: Destination | null = null;

  constructor(size: number, decide: (head: Buffer) => Promise<Destination>) {
    this.#head = Buffer.alloc(Math.min(size, HEAD_BYTES));
    this.#decide = decide;
  }

  async write(chunk: Buffer): Promise<void> {
    if (this.#destination !== null) {
      await this.#destination.write(chunk);
      return;
    }
    const taken = chunk.copy(this.#head, this.#filled);
    this.#filled += taken;
    if (this.#filled < this.#head.length) return;
    this.#destination = await this.#decide(this.#head);
    await this.#destination.write(this.#head);
    await this.#destination.write(chunk.subarray(taken));
  }

  end(): void {
    this.#destination?.end();
  }

  fail(error: unknown): void {
    this.#destination?.fail(error);
  }
}
