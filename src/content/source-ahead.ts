import { setImmediate } from 'node:timers/promises';

/**
 * The same chunks, each made once the consumer waits for what it began with the one before, on other threads: for what is
 * made on this thread, and overwrites no chunk but the one before last.
 */
export async function* madeAhead(chunks: Iterable<Buffer>): AsyncGenerator<Buffer, void> {
  const source = chunks[Symbol.iterator]();
  const make = async (): Promise<IteratorResult<Buffer>> => {
    await setImmediate();
    return source.next();
  };
  let making = make();
  try {
    for (;;) {
      const next = await making;
      if (next.done === true) return;
      making = make();
      making.catch(() => undefined); // looked at when the consumer comes back
      yield next.value;
    }
  } finally {
    await making.catch(() => undefined);
    source.return?.();
  }
}
