/** What a server answered: its head, and a body that is read within limits of time and size. */
import type { IncomingMessage } from 'node:http';
import { LayerdError } from '../../core/errors.js';
import { protocolError, unreachable, connectionFailed } from './problems.js';

/** Fewer bytes than this within the time that a registry may let us wait are as good as none. */
const TRICKLE_BYTES = 16 * 1024;
/** A body that nobody wants is read to its end if it is no longer: the connection can then be used again. */
const LEFTOVER_BYTES = 64 * 1024;
/** What a server may send while nobody reads: what has gathered is then taken as one chunk, at the cost of one. */
const AHEAD_BYTES = 1024 * 1024;

export class Answer {
  readonly status: number;
  /** Where it came from in the end, redirects followed. */
  readonly url: URL;
  private readonly message: IncomingMessage;
  private readonly stallMs: number;
  private readonly hasBody: boolean;

  /** `hasBody`: false for the answer to a HEAD, whose length is that of a body which does not come. */
  constructor(message: IncomingMessage, url: URL, stallMs: number, hasBody: boolean) {
    this.status = message.statusCode ?? 0;
    this.url = url;
    this.message = message;
    this.stallMs = stallMs;
    this.hasBody = hasBody;
    // what breaks while nobody reads is told to the next reader
    message.on('error', () => undefined);
  }

  /** '' where there is none. */
  header(name: string): string {
    const value = this.message.headers[name];
    return Array.isArray(value) ? (value[0] ?? '') : (value ?? '');
  }

  /** Every header of that name, as some servers send several challenges. */
  headers(name: string): string[] {
    return this.message.headersDistinct[name] ?? [];
  }

  /**
   * The body as it comes. Only the time that the server lets us wait counts, not that of a busy reader. Throws
   * REGISTRY_UNREACHABLE where it breaks off, stands still or trickles.
   */
  async *stream(): AsyncGenerator<Buffer> {
    const inbox = new Inbox(this.message);
    let waited = 0;
    let came = 0;
    try {
      for (;;) {
        const from = performance.now();
        const chunk = await this.withinLimit(inbox.next(), this.stallMs - waited);
        if (chunk === null) return;
        waited += performance.now() - from;
        came += chunk.length;
        if (came >= TRICKLE_BYTES) waited = came = 0;
        else if (waited >= this.stallMs) throw this.stalled();
        yield chunk;
      }
    } finally {
      this.message.destroy();
    }
  }

  /** All of a body that must be small. Throws REGISTRY_PROTOCOL above `limit` bytes. */
  async bytes(limit: number): Promise<Buffer> {
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of this.stream()) {
      size += chunk.length;
      if (size > limit) throw protocolError(this.url.host, `a document of more than ${limit} bytes`);
      chunks.push(chunk);
    }
    return Buffer.concat(chunks, size);
  }

  /** The body does not matter. */
  async discard(): Promise<void> {
    const length = this.header('content-length');
    if (this.hasBody && length !== '' && Number(length) > LEFTOVER_BYTES) this.message.destroy();
    else await this.bytes(LEFTOVER_BYTES).catch(() => undefined);
  }

  private async withinLimit<T>(work: Promise<T>, limitMs: number): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(this.stalled()), Math.max(1, limitMs));
    });
    try {
      return await Promise.race([work, limit]);
    } catch (error) {
      throw error instanceof LayerdError ? error : connectionFailed(this.url.host, error as Error);
    } finally {
      clearTimeout(timer);
    }
  }

  private stalled(): LayerdError {
    return unreachable(this.url.host, `it sent (nearly) nothing for ${this.stallMs} ms`, { limitMs: this.stallMs });
  }
}

/** What has arrived of a body and was not taken yet. All of it is given before a failure is told. */
class Inbox {
  private readonly message: IncomingMessage;
  private chunks: Buffer[] = [];
  private size = 0;
  private over = false;
  private failure: Error | null = null;
  private wake: (() => void) | null = null;

  constructor(message: IncomingMessage) {
    this.message = message;
    message.on('data', (chunk: Buffer) => {
      this.chunks.push(chunk);
      this.size += chunk.length;
      if (this.size >= AHEAD_BYTES) message.pause();
      this.wake?.();
    });
    message.once('end', () => this.finish(null));
    message.once('error', (error) => this.finish(error));
    message.once('close', () => this.finish(brokenOff()));
    // it may have broken before anybody wanted its body
    if (message.destroyed) this.finish(message.errored ?? brokenOff());
  }

  /** What has gathered, as one chunk; null at the end. Throws what broke it off. */
  async next(): Promise<Buffer | null> {
    while (this.size === 0) {
      if (this.failure !== null) throw this.failure;
      if (this.over) return null;
      await new Promise<void>((resolve) => (this.wake = resolve));
      this.wake = null;
    }
    const { chunks, size } = this;
    const [first] = chunks;
    this.chunks = [];
    this.size = 0;
    this.message.resume();
    return chunks.length === 1 && first !== undefined ? first : Buffer.concat(chunks, size);
  }

  private finish(failure: Error | null): void {
    if (this.over) return;
    this.over = true;
    this.failure = failure;
    this.wake?.();
  }
}

function brokenOff(): Error {
  return Object.assign(new Error('the connection ended in the middle'), { code: 'ECONNRESET' });
}
