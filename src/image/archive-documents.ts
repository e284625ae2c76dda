import { type ByteString, displayBytes } from '../core/bytes.js';
import { type Digest, sha256 } from '../core/digest.js';
import { LIMITS } from '../core/limits.js';
import { archiveLimit, type ArchiveMembers, blobMismatch, blobPath, checkSize, missingMember } from './members.js';
import type { Descriptor } from './types.js';

/** The JSON documents of one archive: each read and verified once, all of them together within a limit. */
export class ArchiveDocuments {
  readonly label: string;
  readonly #members: ArchiveMembers;
  readonly #read = new Map<ByteString, Buffer | null>();
  readonly #verified = new Set<Digest>();
  #bytes = 0;

  constructor(members: ArchiveMembers) {
    this.label = members.origin.label;
    this.#members = members;
  }

  /** The document at `path`, or null if there is none. `descriptor`: what led to it, where something did. */
  async at(path: ByteString, descriptor?: Descriptor): Promise<Buffer | null> {
    const known = this.#read.get(path);
    if (known !== undefined) return known;
    const bytes = await this.#members.document(path, descriptor);
    this.#read.set(path, bytes);
    this.#bytes += bytes?.byteLength ?? 0;
    if (this.#bytes > LIMITS.jsonDocumentsTotal) {
      throw archiveLimit(this.label, `it holds more than ${LIMITS.jsonDocumentsTotal} bytes of JSON documents`);
    }
    return bytes;
  }

  /** The document that a descriptor names, verified against it; null if the archive lacks it. */
  async blob(descriptor: Descriptor): Promise<Buffer | null> {
    const path = blobPath(descriptor.digest);
    const bytes = await this.at(path, descriptor);
    if (bytes === null) return null;
    checkSize(displayBytes(path), descriptor.size, bytes.byteLength);
    if (!this.#verified.has(descriptor.digest)) {
      const found = sha256(bytes);
      if (found !== descriptor.digest) throw blobMismatch(displayBytes(path), descriptor.digest, found);
      this.#verified.add(descriptor.digest);
    }
    return bytes;
  }

  /** The config that a manifest names, verified. */
  async config(descriptor: Descriptor): Promise<Buffer> {
    const bytes = await this.blob(descriptor);
    if (bytes === null) throw missingMember(this.label, blobPath(descriptor.digest), 'it is the config of an image');
    return bytes;
  }
}
