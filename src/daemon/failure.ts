import type { LayerdError } from '../core/errors.js';

/** An error of the daemon's start as one line for people. */
export function failureLine(error: LayerdError): string {
  return `layerd: ${error.message}${error.hint === '' ? '' : ` (${error.hint})`}\n`;
}
