/**
 * A byte stream between two threads with back-pressure: one MessagePort each way. The writer may be WINDOW_BYTES ahead
 * of the reader; the reader gives credit back as it takes chunks. Either side may end it early: the writer by `fail`,
 * the reader by leaving its loop, which makes the writer's next `write` throw CANCELLED.
 */
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { LayerdError, toLayerdError, type ErrorBody } from '../core/errors.js';

const WINDOW_BYTES = 4 * 1024 * 1024;

type FromWriter = { chunk: Uint8Array } | { end: true } | { error: ErrorBody };
type FromReader = { credit: number } | { stop: true };

export interface ByteChannel {
  writer: MessagePort;
  reader: MessagePort;
}

export function byteChannel(): ByteChannel {
  const { port1, port2 } = new MessageChannel();
  return { writer: port1, reader: port2 };
}

/** Sends all of `source` through the port; settles when the reader has it or has left. Throws what `source` throws. */
export async function pumpBytes(source: AsyncIterable<Buffer>, port: MessagePort): Promise<void> {
  const writer = new ChannelWriter(port);
  try {
    for await (const chunk of source) await writer.write(chunk);
    writer.end();
  } catch (thrown) {
    const error = toLayerdError(thrown);
    if (!writer.stopped) writer.fail(error);
    throw error;
  }
}

class ChannelWriter {
  stopped = false;
  private ahead = 0;
  private wake: (() => void) | null = null;
  private readonly port: MessagePort;

  constructor(port: MessagePort) {
    this.port = port;
    port.on('message', (message: FromReader) => {
      if ('stop' in message) this.stopped = true;
      else this.ahead -= message.credit;
      this.wake?.();
    });
    port.on('close', () => {
      this.stopped = true;
      this.wake?.();
    });
  }

  async write(chunk: Buffer): Promise<void> {
    while (this.ahead >= WINDOW_BYTES && !this.stopped) {
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
    this.wake = null;
    if (this.stopped) throw new LayerdError('CANCELLED', 'the reader of the stream went away');
    this.ahead += chunk.length;
    // A copy of just these bytes, handed over: the chunk is often a slice of a larger buffer, or one that is used again.
    const own = Uint8Array.from(chunk);
    this.port.postMessage({ chunk: own } satisfies FromWriter, [own.buffer]);
  }

  end(): void {
    this.post({ end: true });
  }

  fail(error: LayerdError): void {
    this.post({ error: error.toBody() });
  }

  private post(message: FromWriter): void {
    this.port.postMessage(message);
  }
}

/** What the other side pumps in. To be iterated once. */
export async function* readBytes(port: MessagePort): AsyncGenerator<Buffer> {
  const queue: FromWriter[] = [];
  let wake: (() => void) | null = null;
  let closed = false;
  port.on('message', (message: FromWriter) => {
    queue.push(message);
    wake?.();
  });
  port.on('close', () => {
    closed = true;
    wake?.();
  });
  try {
    for (;;) {
      const message = queue.shift();
      if (message === undefined) {
        if (closed) throw new LayerdError('CANCELLED', 'the writer of the stream went away');
        await new Promise<void>((resolve) => (wake = resolve));
        wake = null;
      } else if ('chunk' in message) {
        const { buffer, byteOffset, byteLength } = message.chunk;
        yield Buffer.from(buffer, byteOffset, byteLength);
        port.postMessage({ credit: byteLength } satisfies FromReader);
      } else if ('error' in message) {
        throw LayerdError.fromBody(message.error);
      } else {
        return;
      }
    }
  } finally {
    port.postMessage({ stop: true } satisfies FromReader);
    port.close();
  }
}
