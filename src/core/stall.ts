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
