import { constants } from 'node:fs';
import { toBuffer, type ByteString } from '../core/bytes.js';
import { LayerdError } from '../core/errors.js';
import { displayBytes } from '../core/bytes.js';
import { close, O_CLOEXEC, O_PATH, openat } from '../linux/files.js';

const OPEN = O_PATH | O_CLOEXEC | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/** Deeper trees are refused by name: every level is an open descriptor. */
const MAX_DEPTH = 2000;

/**
 * Walks to directories below a root by descriptors, one component at a time and never through a symbolic link, so that
 * no name leads outside and paths may be longer than PATH_MAX. Keeps the way to the last directory open: entries of an
 * archive mostly lie beside each other.
 */
export class DirectoryCursor {
  private readonly names: string[] = [];
  private readonly fds: number[] = [];
  /** Where the way leads; null where that is to be found out. */
  private path: ByteString | null = null;
  private readonly rootFd: number;

  /** `rootFd` stays the caller's. */
  constructor(rootFd: number) {
    this.rootFd = rootFd;
  }

  /** The descriptor (O_PATH) of the directory at `path`; the cursor's, valid until the next call. */
  at(path: ByteString): number {
    if (path === '') {
      this.leave(0);
      return this.rootFd;
    }
    if (path === this.path) return this.fds.at(-1) ?? this.rootFd;
    const parts = path.split('/');
    let shared = 0;
    while (shared < parts.length && shared < this.names.length && parts[shared] === this.names[shared]) shared += 1;
    this.leave(shared);
    if (parts.length > MAX_DEPTH) throw tooDeep(path);
    for (const part of parts.slice(shared)) {
      const fd = openat(this.fds.at(-1) ?? this.rootFd, toBuffer(part as ByteString), OPEN);
      this.names.push(part);
      this.fds.push(fd);
    }
    this.path = path;
    return this.fds.at(-1) ?? this.rootFd;
  }

  /** The descriptor of the directory that holds `path`, and the last name of it. */
  parentOf(path: ByteString): { dirFd: number; name: ByteString } {
    const slash = path.lastIndexOf('/');
    const parent = (slash < 0 ? '' : path.slice(0, slash)) as ByteString;
    return { dirFd: this.at(parent), name: path.slice(slash + 1) as ByteString };
  }

  /** Must be called before a directory on the way may be removed or renamed, and at the end. */
  close(): void {
    this.leave(0);
  }

  private leave(depth: number): void {
    this.path = null;
    while (this.fds.length > depth) {
      const fd = this.fds.pop();
      this.names.pop();
      if (fd !== undefined) close(fd);
    }
  }
}

function tooDeep(path: ByteString): LayerdError {
  return new LayerdError('TAR_LIMIT', `${displayBytes(path).slice(0, 200)}… lies more than ${MAX_DEPTH} levels deep`, {
    details: { limit: MAX_DEPTH },
    hint: 'No layer of a real image is that deep; the archive is damaged or hostile.',
  });
}
