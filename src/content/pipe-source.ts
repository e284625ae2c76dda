import type { FileHandle } from 'node:fs/promises';
import { setTimeout } from 'node:timers/promises';
import { isErrno } from '../core/errors.js';
import type { ByteSource } from './source.js';

/** What a pipe holds at most, if nobody has changed it. */
const PIPE_BYTES = 64 * 1024;
/** How soon an empty pipe is looked at again. */
const WAIT_MS = 5;

/**
 * What is written into a pipe, to its end; `handle` is open for reading with O_NONBLOCK, and stays open. Waits for a first
 * writer as long as it takes, but never on a thread: a handle that is closed meanwhile ends the wait with its error.
 */
export async function* pipeSource(handle: FileHandle): ByteSource {
  let begun = false;
  for (;;) {
    const chunk = Buffer.allocUnsafeSlow(PIPE_BYTES);
    const length = await readNow(handle, chunk);
    if (length > 0) yield chunk.subarray(0, length);
    else if (length === 0 && begun) return;
    else await setTimeout(WAIT_MS);
    begun ||= length > 0;
  }
}

/** How many bytes there were: 0 where nobody has the pipe open for writing, -1 where a writer has written nothing yet. */
async function readNow(handle: FileHandle, chunk: Buffer): Promise<number> {
  try {
    return (await handle.read(chunk, 0, chunk.length, null)).bytesRead;
  } catch (thrown) {
    if (isErrno(thrown, 'EAGAIN')) return -1;
    throw thrown;
  }
}
