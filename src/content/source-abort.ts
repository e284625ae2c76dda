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
      const next = await nextOrAborted(chunks, signal);
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

function nextOrAborted(chunks: AsyncIterator<Buffer>, signal: AbortSignal): Promise<IteratorResult<Buffer>> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(reasonOf(signal));
    if (signal.aborted) {
      onAbort();
      return;
    }
    signal.addEventListener('abort', onAbort, { once: true });
    chunks
      .next()
      .finally(() => signal.removeEventListener('abort', onAbort))
      .then(resolve, reject);
  });
}

function reasonOf(signal: AbortSignal): LayerdError {
  if (signal.reason instanceof LayerdError) return signal.reason;
  return new LayerdError('CANCELLED', 'the operation was cancelled', { cause: signal.reason });
}
