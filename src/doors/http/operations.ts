/** Requests that are being answered: each ends early when its client goes away, all of them when the daemon stops. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { LayerdError } from '../../core/errors.js';

interface Running {
  abort: AbortController;
  /** It goes on until somebody ends it (following events): a stopping daemon does not wait for it. */
  endless: boolean;
}

/** How long the rest of a body that nobody wants is read, so that its client gets to see the answer. */
const LINGER_MS = 5_000;

export class Operations {
  private readonly running = new Map<ServerResponse, Running>();
  private readonly waiters = new Set<() => void>();
  private stopping = false;

  /** Counts a request in until its response is closed. */
  begin(response: ServerResponse): void {
    const abort = new AbortController();
    this.running.set(response, { abort, endless: false });
    response.once('close', () => {
      this.running.delete(response);
      if (!response.writableFinished) abort.abort(new LayerdError('CANCELLED', 'the client hung up'));
      if (this.running.size === 0) for (const wake of this.waiters) wake();
    });
  }

  get count(): number {
    return this.running.size;
  }

  /** Aborts when the client hangs up or the daemon will not wait any longer. */
  signalOf(response: ServerResponse, options: { endless?: boolean } = {}): AbortSignal {
    const operation = this.running.get(response);
    if (operation === undefined) return AbortSignal.abort(new LayerdError('CANCELLED', 'the client hung up'));
    operation.endless = options.endless ?? false;
    if (operation.endless && this.stopping) operation.abort.abort(shuttingDown());
    return operation.abort.signal;
  }

  /** Waits for what runs, at most so long; aborts what is left then, and what never ends by itself at once. */
  async drain(limitMs: number): Promise<void> {
    this.stopping = true;
    this.abort(({ endless }) => endless);
    await this.idle(limitMs);
    this.abort(() => true);
    await this.idle(Math.min(limitMs, LINGER_MS));
  }

  private abort(which: (operation: Running) => boolean): void {
    for (const operation of this.running.values()) {
      if (which(operation)) operation.abort.abort(shuttingDown());
    }
  }

  private idle(limitMs: number): Promise<void> {
    if (this.running.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.waiters.delete(done);
        resolve();
      };
      const timer = setTimeout(done, limitMs);
      this.waiters.add(done);
    });
  }
}

export function shuttingDown(): LayerdError {
  return new LayerdError('SHUTTING_DOWN', 'the daemon is stopping', {
    hint: 'Try again when it is back.',
  });
}

/**
 * After an answer that came before the end of its request: reads on for a while, so that the client, which may be busy
 * sending, comes to read the answer; then closes.
 */
export function lingerThenClose(request: IncomingMessage, socket: Socket): void {
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  const done = (): void => {
    clearTimeout(timer);
    socket.destroySoon();
  };
  request.once('end', done);
  request.once('close', done);
  request.resume();
}
