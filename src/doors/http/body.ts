/** Bodies that stream: back-pressure both ways, and an idle limit instead of a total one. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { LayerdError } from '../../core/errors.js';
import { unstalled, withStallLimit } from '../../core/stall.js';

/**
 * The body of a request, read as fast as its consumer takes it. Only the time that the client lets us wait counts: a
 * consumer that is busy never makes an upload time out. Throws TIMEOUT when the client stalls, CANCELLED when it hangs up.
 */
export async function* uploadOf(request: IncomingMessage, stallMs: number): AsyncGenerator<Buffer> {
  try {
    yield* unstalled(request as AsyncIterable<Buffer>, stallMs, () => stalled('upload', stallMs));
  } catch (thrown) {
    hungUp(thrown);
  }
}

/**
 * Sends bytes as fast as the client takes them. The promise is done when all are handed to the kernel; it rejects with
 * TIMEOUT when the client stops reading, with CANCELLED when it hangs up, and with what the source throws.
 */
export async function sendAll(
  response: ServerResponse,
  source: AsyncIterable<Buffer | string>,
  stallMs: number,
): Promise<void> {
  for await (const chunk of source) {
    if (response.destroyed) throw clientGone();
    if (!response.write(chunk)) {
      await withStallLimit(drained(response), stallMs, () => stalled('download', stallMs));
    }
  }
  await new Promise<void>((resolve) => {
    response.end(resolve);
    response.once('close', resolve);
  });
}

/** Takes the first chunk, so that what fails at once can still be answered with a status; then the rest. */
export async function begun<T>(source: AsyncIterable<T>): Promise<AsyncIterable<T>> {
  const iterator = source[Symbol.asyncIterator]();
  const first = await iterator.next();
  return (async function* () {
    try {
      for (let next = first; next.done !== true; next = await iterator.next()) yield next.value;
    } finally {
      await iterator.return?.();
    }
  })();
}

function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve, reject) => {
    const onDrain = (): void => {
      response.off('close', onClose);
      resolve();
    };
    const onClose = (): void => {
      response.off('drain', onDrain);
      reject(clientGone());
    };
    response.once('drain', onDrain);
    response.once('close', onClose);
  });
}

/** What Node calls a body that ended early. */
function hungUp(thrown: unknown): never {
  if (thrown instanceof LayerdError) throw thrown;
  throw clientGone(thrown);
}

export function clientGone(cause?: unknown): LayerdError {
  return new LayerdError('CANCELLED', 'the client hung up', { cause });
}

function stalled(direction: string, limitMs: number): LayerdError {
  return new LayerdError('TIMEOUT', `the ${direction} stood still for ${limitMs} ms`, {
    details: { limitMs },
    hint: 'Send or take the body without such pauses, or raise http.stall_timeout.',
  });
}
