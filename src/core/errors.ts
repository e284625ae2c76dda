/**
 * Errors as data. Every failure that a user can meet is a {@link LayerdError} with a code from {@link ERROR_CODES};
 * codes never change their meaning, texts may. Doors translate the kind (HTTP status, gRPC code), never the text.
 */
import { constants } from 'node:os';

/** What a caller can do about an error, independent of any protocol. */
export type ErrorKind =
  | 'invalid' // the request or the bytes are wrong; sending them again fails again
  | 'not_found'
  | 'exists'
  | 'precondition' // the state of the store forbids it now
  | 'busy' // try again later
  | 'exhausted' // a limit or a full disk
  | 'denied'
  | 'unsupported'
  | 'data_loss' // stored bytes are not what was stored
  | 'cancelled'
  | 'internal';

/** The registry: every stable code and its kind. */
export const ERROR_CODES = {
  INVALID_ARGUMENT: 'invalid',
  INVALID_CONFIG: 'invalid',
  INVALID_REFERENCE: 'invalid',
  INVALID_DIGEST: 'invalid',
  ARCHIVE_INVALID: 'invalid',
  ARCHIVE_TRUNCATED: 'invalid',
  ARCHIVE_INCOMPLETE: 'invalid',
  ARCHIVE_LIMIT: 'exhausted',
  MANIFEST_INVALID: 'invalid',
  PLATFORM_NOT_FOUND: 'not_found',
  COMPRESSION_UNSUPPORTED: 'unsupported',
  COMPRESSION_INVALID: 'invalid',
  BLOB_DIGEST_MISMATCH: 'invalid',
  DIFF_ID_MISMATCH: 'invalid',
  TAR_INVALID: 'invalid',
  TAR_TRUNCATED: 'invalid',
  TAR_UNSAFE_PATH: 'invalid',
  TAR_UNSUPPORTED: 'unsupported',
  TAR_LIMIT: 'exhausted',
  LAYER_NOT_FOUND: 'not_found',
  LAYER_LIMIT: 'exhausted',
  LAYER_DAMAGED: 'data_loss',
  IMAGE_NOT_FOUND: 'not_found',
  IMAGE_IN_USE: 'precondition',
  CONTAINER_NOT_FOUND: 'not_found',
  CONTAINER_EXISTS: 'exists',
  CONTAINER_MOUNTED: 'precondition',
  CONTAINER_NOT_MOUNTED: 'precondition',
  CONTAINER_READ_ONLY: 'precondition',
  SNAPSHOT_NOT_FOUND: 'not_found',
  SNAPSHOT_EXISTS: 'exists',
  SNAPSHOT_PRECONDITION: 'precondition',
  LEASE_NOT_FOUND: 'not_found',
  LEASE_EXISTS: 'exists',
  AMBIGUOUS_ID: 'invalid',
  NAME_UNSUPPORTED: 'unsupported',
  DRIVER_UNAVAILABLE: 'unsupported',
  DRIVER_UNSUPPORTED: 'unsupported',
  MOUNT_FAILED: 'internal',
  MOUNT_BUSY: 'busy',
  STORE_LOCKED: 'busy',
  RUN_IN_USE: 'busy',
  STORE_NEWER: 'precondition',
  STORE_DAMAGED: 'data_loss',
  NO_SPACE: 'exhausted',
  READ_ONLY_STORE: 'precondition',
  IO_ERROR: 'internal',
  TOO_MANY_FILES: 'exhausted',
  NOT_PERMITTED: 'denied',
  TIMEOUT: 'busy',
  REGISTRY_NOT_FOUND: 'not_found',
  REGISTRY_DENIED: 'denied',
  REGISTRY_LIMITED: 'busy',
  REGISTRY_UNREACHABLE: 'busy',
  REGISTRY_UNTRUSTED: 'denied',
  REGISTRY_PROTOCOL: 'unsupported',
  CREDENTIALS_INVALID: 'invalid',
  ROUTE_NOT_FOUND: 'not_found',
  SOCKET_IN_USE: 'busy',
  DAEMON_UNREACHABLE: 'busy',
  STREAM_BROKEN: 'internal',
  CANCELLED: 'cancelled',
  SHUTTING_DOWN: 'busy',
  INTERNAL: 'internal',
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERROR_CODES;

/** JSON-safe facts about an error: ids, digests, expected and found values. */
export type ErrorDetails = Record<string, string | number | boolean | null | readonly string[]>;

/** An error's form on the wire: between threads and to clients. */
export interface ErrorBody {
  code: ErrorCode;
  message: string;
  details: ErrorDetails;
  hint: string;
}

/** What happened to which thing (message), the facts (details), and what to do about it (hint). */
export class LayerdError extends Error {
  override readonly name = 'LayerdError';
  readonly code: ErrorCode;
  readonly details: ErrorDetails;
  readonly hint: string;

  constructor(
    code: ErrorCode,
    message: string,
    options: { details?: ErrorDetails; hint?: string; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
    this.hint = options.hint ?? '';
  }

  get kind(): ErrorKind {
    return ERROR_CODES[this.code];
  }

  /** The same error with another word on what to do about it, by who knows what was being done. */
  withHint(hint: string): LayerdError {
    return new LayerdError(this.code, this.message, { details: this.details, hint, cause: this });
  }

  toBody(): ErrorBody {
    return { code: this.code, message: this.message, details: this.details, hint: this.hint };
  }

  static fromBody(body: ErrorBody): LayerdError {
    return new LayerdError(body.code, body.message, { details: body.details, hint: body.hint });
  }
}

/** Errno names that mean something to a user, whoever raised them: Node's fs or our own system calls. */
const ERRNO_CODES: Record<string, { code: ErrorCode; hint: string }> = {
  ENOSPC: { code: 'NO_SPACE', hint: 'Free space on the file system of the root, or run `layerctl gc`.' },
  EDQUOT: { code: 'NO_SPACE', hint: 'The quota of the root is used up: raise it, or run `layerctl gc`.' },
  EROFS: { code: 'READ_ONLY_STORE', hint: 'The file system of the root is mounted read-only: remount it read-write.' },
  EIO: { code: 'IO_ERROR', hint: 'The disk reported an error: look at dmesg, then run `layerctl check`.' },
  EMFILE: { code: 'TOO_MANY_FILES', hint: 'Raise the limit of open files of the daemon (LimitNOFILE).' },
  ENFILE: { code: 'TOO_MANY_FILES', hint: 'Raise the limit of open files of the machine (fs.file-max).' },
  EPERM: { code: 'NOT_PERMITTED', hint: 'layerd needs root (CAP_SYS_ADMIN) for this, or the copy driver.' },
  EACCES: { code: 'NOT_PERMITTED', hint: 'Check who owns the root directory and who the daemon runs as.' },
  EBUSY: { code: 'MOUNT_BUSY', hint: 'Something still uses the mount: close it, then try again.' },
};

/** Anything thrown, as a LayerdError: errno errors get the code of their errno, the unknown becomes INTERNAL. */
export function toLayerdError(thrown: unknown): LayerdError {
  if (thrown instanceof LayerdError) return thrown;
  if (thrown instanceof Error) {
    const errno = errnoName(thrown);
    const known = typeof errno === 'string' ? ERRNO_CODES[errno] : undefined;
    const details: ErrorDetails = typeof errno === 'string' ? { errno } : {};
    const path = (thrown as NodeJS.ErrnoException).path;
    if (typeof path === 'string') details['path'] = path;
    if (known) return new LayerdError(known.code, thrown.message, { details, hint: known.hint, cause: thrown });
    return new LayerdError('INTERNAL', thrown.message, {
      details,
      hint: 'This is a fault of layerd: please report it with the log of the daemon.',
      cause: thrown,
    });
  }
  return new LayerdError('INTERNAL', String(thrown));
}

/** True when `thrown` carries this errno name (`ENOENT`, …), whether from Node's fs or from linux/. */
export function isErrno(thrown: unknown, ...names: string[]): boolean {
  return thrown instanceof Error && names.includes(errnoName(thrown) ?? '');
}

/** libuv has no name for EDQUOT: Node then says 'UNKNOWN', and the number alone tells. */
function errnoName(error: Error): string | undefined {
  const { code, errno } = error as NodeJS.ErrnoException;
  // a thread that cannot even start says why in words only
  if (code === 'ERR_WORKER_INIT_FAILED') return /failure: (E[A-Z]+)/.exec(error.message)?.[1] ?? code;
  return errno === -constants.errno.EDQUOT ? 'EDQUOT' : code;
}
