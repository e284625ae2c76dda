import type { Writable } from 'node:stream';

/** Waits until a stream takes more, or takes nothing any more: whoever writes on looks which it is. */
export function drained(stream: Writable): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      stream.off('drain', done);
      stream.off('close', done);
      resolve();
    };
    stream.once('drain', done);
    stream.once('close', done);
  });
}
