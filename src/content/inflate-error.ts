import { LayerdError } from '../core/errors.js';
import type { Compression } from './compression-magic.js';

/** What is wrong with a compressed stream, and after how many of its bytes that was seen. */
export function invalidStream(compression: Compression, what: string, offset: number, cause?: unknown): LayerdError {
  return new LayerdError('COMPRESSION_INVALID', `the ${compression} stream ${what} (near byte ${offset})`, {
    details: { compression, offset },
    hint: 'The blob is damaged or was cut off: fetch or make it again.',
    cause,
  });
}

export function truncatedStream(compression: Compression, offset: number, cause?: unknown): LayerdError {
  return invalidStream(compression, 'ends before it is complete', offset, cause);
}

export function trailingBytes(compression: Compression, offset: number): LayerdError {
  return invalidStream(compression, 'is followed by bytes that do not belong to it', offset);
}
