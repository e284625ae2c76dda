import { LayerdError, type ErrorCode, type ErrorDetails, type ErrorKind } from '../core/errors.js';

/** Exit codes of layerctl; they are documented in its help and never change their meaning. */
export const EXIT = {
  ok: 0,
  error: 1,
  usage: 2,
  notFound: 3,
  /** It exists already, is in use, or the state of the store forbids it now. */
  conflict: 4,
  unreachable: 5,
  /** Stored bytes are not what was stored. */
  damage: 6,
  /** `run`: the program in the container never ran. Else the exit code is the program's own. */
  notRun: 125,
  /** 128 + SIGINT, as shells have it. */
  interrupted: 130,
} as const;

export const EXIT_HELP = `
Exit codes: 0 done, 1 error, 2 wrong usage, 3 not found, 4 conflict or in use, 5 no daemon, 6 damage found, 130 interrupted.
\`layerctl run\` exits as the program in the container does, and with 125 if that never ran.`;

/** A wrong use of the command line that the parser could not see. */
export class UsageError extends LayerdError {
  constructor(message: string, hint = '', details: ErrorDetails = {}) {
    super('INVALID_ARGUMENT', message, { details, hint });
  }
}

const BY_KIND: Record<ErrorKind, number> = {
  invalid: EXIT.error,
  not_found: EXIT.notFound,
  exists: EXIT.conflict,
  precondition: EXIT.conflict,
  busy: EXIT.conflict,
  exhausted: EXIT.error,
  denied: EXIT.error,
  unsupported: EXIT.error,
  data_loss: EXIT.damage,
  cancelled: EXIT.interrupted,
  internal: EXIT.error,
};

/** What may be tried again later is not all in use: a network that fails says nothing of the store. */
const BY_CODE: Partial<Record<ErrorCode, number>> = {
  DAEMON_UNREACHABLE: EXIT.unreachable,
  REGISTRY_UNREACHABLE: EXIT.error,
  REGISTRY_LIMITED: EXIT.error,
};

export function exitCodeOf(error: LayerdError): number {
  if (error instanceof UsageError) return EXIT.usage;
  return BY_CODE[error.code] ?? BY_KIND[error.kind];
}
