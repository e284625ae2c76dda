import type { ByteSource } from '../content/source.js';

/**
 * Hands bytes from the one who reads an archive to the one who takes in a layer, chunk by chunk: the writer goes on
 * when the reader asks for more, or has left. Nothing is copied or queued.
 */
export class Handoff {
  #offered: { chunk: Buffer } | { end: true } | { error: unknown } | null = null;
  #readerLeft = false;
  #wakeReader: (() => void) | null = null;
  #wakeWriter: (() => void) | null = null;

  /** What the reader reads, once. */
  readonly source: ByteSource = this.#read();

  /** Resolves when the reader has done with the chunk. */
  async write(chunk: Buffer): Promise<void> {
    if (this.#readerLeft || chunk.length === 0) return;
    this.#offer({ chunk });
    await new Promise<void>((resolve) => (this.#wakeWriter = resolve));
  }

  end(): void {
    this.#offer({ end: true });
  }

  /** The reader's next step throws `error`. */
  fail(error: unknown): void {
    this.#offer({ error });
  }

  /** Nobody will read any more: what is written from now on is dropped. */
  leave(): void {
    this.#readerLeft = true;
    this.#release();
  }

  #offer(offered: { chunk: Buffer } | { end: true } | { error: unknown }): void {
    this.#offered = offered;
    this.#wakeReader?.();
    this.#wakeReader = null;
  }

  #release(): void {
    this.#wakeWriter?.();
    this.#wakeWriter = null;
  }

  async *#read(): AsyncGenerator<Buffer> {
    try {
      for (;;) {
        if (this.#offered === null) await new Promise<void>((resolve) => (this.#wakeReader = resolve));
        const offered = this.#offered;
        if (offered === null) continue;
        if ('end' in offered) return;
        if ('error' in offered) throw offered.error;
        yield offered.chunk;
        this.#offered = null;
        this.#release();
      }
    } finally {
      this.leave();
    }
  }
}
