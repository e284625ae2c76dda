import type { ErrorDetails } from '../core/errors.js';

export type TarFaultCode = 'TAR_INVALID' | 'TAR_UNSUPPORTED' | 'TAR_LIMIT' | 'TAR_TRUNCATED';

const HINTS: Record<TarFaultCode, string> = {
  TAR_INVALID: 'The archive is damaged or was made by a faulty tool: fetch or build it again.',
  TAR_UNSUPPORTED: 'Make the archive again with a common tool and without this feature.',
  TAR_LIMIT: 'The archive is beyond what layerd takes in: build the layer with less of it.',
  TAR_TRUNCATED: 'The archive ended too early: fetch or send it again, whole.',
};

/**
 * What is wrong with an archive, thrown by the parts of the codec that do not know which entry they work for. The
 * scanner and the writer turn it into the LayerdError that names the entry; it never leaves this directory.
 */
export class TarFault extends Error {
  readonly code: TarFaultCode;
  readonly details: ErrorDetails;

  constructor(code: TarFaultCode, message: string, details: ErrorDetails = {}) {
    super(message);
    this.code = code;
    this.details = details;
  }

  get hint(): string {
    return HINTS[this.code];
  }
}

export function invalid(message: string, details?: ErrorDetails): TarFault {
  return new TarFault('TAR_INVALID', message, details);
}

export function unsupported(message: string, details?: ErrorDetails): TarFault {
  return new TarFault('TAR_UNSUPPORTED', message, details);
}

/** Throws unless `found` is within the limit. `what` says what is counted, with its unit. */
export function checkLimit(what: string, found: number, limit: number): void {
  if (found <= limit) return;
  throw new TarFault('TAR_LIMIT', `${what}: ${found}, the limit is ${limit}`, { found, limit });
}
