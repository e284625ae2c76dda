import { LayerdError } from '../core/errors.js';
import type { ByteSource } from './source.js';

/**
 * The same bytes until `signal` aborts: then CANCELLED at once, even if the source never gives another chunk. (A signal
 * aborted with a LayerdError throws that one.)
 */
export async function* abortable(source: ByteSource, signal: AbortSignal): AsyncGenerator<Buffer> {
  const chunks = source[Symbol.asyncIterator]();
  let waiting = false;
  try {
    for (;;) {
      waiting = true;
      const next = await orAborted(chunks.next(), signal);
      waiting = false;
      if (next.done === true) return;
      yield next.value;
    }
  } finally {
    const closed = Promise.resolve(chunks.return?.());
    // A source that hangs settles late or never, and what it has to say then is of no interest.
    if (waiting && signal.aborted) closed.catch(() => undefined);
    else await closed;
  }
}

async function orAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  let onAbort = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(reasonOf(signal));
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    work.catch(() => undefined); // raced above; after an abort nobody else looks
    aborted.catch(() => undefined);
  }
}

function reasonOf(signal: AbortSignal): LayerdError {
  if (signal.reason instanceof LayerdError) return signal.reason;
  return new LayerdError('CANCELLED', 'the operation was cancelled', { cause: signal.reason });
}
