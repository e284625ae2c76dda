/** Waiting for somebody else, no longer than so long. */
import type { LayerdError } from './errors.js';

/** What `work` comes to; throws `error` where that takes longer than the limit. `work` itself is not ended. */
export async function withStallLimit<T>(work: Promise<T>, limitMs: number, error: () => LayerdError): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(error()), limitMs);
  });
  try {
    return await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * The same for each step of a source: only the time that it lets us wait counts. It is not told where its consumer ends
 * early, since that would end what it is a part of: a request that is still to be answered, say.
 */
export async function* unstalled<T>(
  source: AsyncIterable<T>,
  limitMs: number,
  error: () => LayerdError,
): AsyncGenerator<T, void> {
  const steps = source[Symbol.asyncIterator]();
  for (;;) {
    const next = await withStallLimit(steps.next(), limitMs, error);
    if (next.done === true) return;
    yield next.value;
  }
}
