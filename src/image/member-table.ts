import type { ByteString } from '../core/bytes.js';
import { LayerdError } from '../core/errors.js';
import { LIMITS } from '../core/limits.js';
import type { TarEntry } from '../tar/entry.js';
import { archiveLimit, linkTarget, memberPath } from './members.js';

/**
 * The members of a tar by normalised name: files, and links that lead to them. A name that comes twice means its last
 * member; a link may come before what it leads to.
 */
export class MemberTable<T> {
  readonly #label: string;
  readonly #members = new Map<ByteString, { file: T } | { link: ByteString }>();
  #count = 0;

  constructor(label: string) {
    this.#label = label;
  }

  /** Takes a member in; gives its normalised name if it is a regular file that can be found by it. */
  add(entry: TarEntry, file: T): ByteString | null {
    this.#count++;
    if (this.#count > LIMITS.archiveMembers) {
      throw archiveLimit(this.#label, `it has more than ${LIMITS.archiveMembers} members`);
    }
    const path = memberPath(entry.path);
    if (path === null) return null;
    if (entry.type === 'file' && entry.sparse === null) {
      this.#members.set(path, { file });
      return path;
    }
    const link = targetOf(path, entry);
    if (link !== null) this.#members.set(path, { link });
    return null;
  }

  /** The file at `path`, through links; null if there is none. */
  find(path: ByteString): T | null {
    let at = path;
    for (let steps = 0; steps <= LIMITS.archiveLinks; steps++) {
      const member = this.#members.get(at);
      if (member === undefined) return null;
      if ('file' in member) return member.file;
      at = member.link;
    }
    return null;
  }

  /** All regular files, in the order of the archive. */
  files(): T[] {
    return [...this.#members.values()].flatMap((member) => ('file' in member ? [member.file] : []));
  }

  /** All names, in the order of the archive. */
  names(): ByteString[] {
    return [...this.#members.keys()];
  }
}

function targetOf(path: ByteString, entry: TarEntry): ByteString | null {
  if (entry.type === 'symlink') return linkTarget(path, entry.linkPath);
  return entry.type === 'hardlink' ? memberPath(entry.linkPath) : null;
}

/** What the tar scanner says of a layer, said of the archive. */
export function archiveError(label: string, error: unknown): unknown {
  if (!(error instanceof LayerdError)) return error;
  if (error.code === 'TAR_TRUNCATED') {
    return new LayerdError('ARCHIVE_TRUNCATED', `${label} ends in the middle: ${error.message}`, {
      details: { ...error.details, archive: label },
      hint: 'The archive was not written or fetched to its end: make or fetch it again.',
      cause: error,
    });
  }
  if (error.code === 'COMPRESSION_INVALID') {
    const { code, message, details, hint } = error;
    return new LayerdError(code, `${label}: ${message}`, {
      details: { ...details, archive: label },
      hint,
      cause: error,
    });
  }
  if (!error.code.startsWith('TAR_')) return error;
  return new LayerdError('ARCHIVE_INVALID', `${label} is not a tar archive: ${error.message}`, {
    details: { ...error.details, archive: label },
    hint: 'layerd loads docker-archives and OCI layouts, as tar (also gzip or zstd) or directory.',
    cause: error,
  });
}
