/** Waiting out what passes: the same thing is tried again after growing pauses, so many times. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { RegistryConfig } from '../../core/engine-config.js';
import type { LayerdError } from '../../core/errors.js';
import { cancelled, mayPass } from './problems.js';

const LONGEST_PAUSE_MS = 30_000;
/** A registry that asks for more patience than this is told to the user instead. */
const LONGEST_REQUESTED_MS = 10 * 60_000;

export type RetryPolicy = Pick<RegistryConfig, 'retries' | 'retryDelayMs'>;

/** Told before each pause. */
export type OnPause = (error: LayerdError, pauseMs: number) => void;

export class Backoff {
  private readonly policy: RetryPolicy;
  private readonly signal: AbortSignal;
  private readonly onPause: OnPause;
  private failures = 0;

  constructor(policy: RetryPolicy, signal: AbortSignal, onPause: OnPause) {
    this.policy = policy;
    this.signal = signal;
    this.onPause = onPause;
  }

  /** Something succeeded: failures count from here. */
  reset(): void {
    this.failures = 0;
  }

  /** Waits if trying again may help; throws `error` if not, or no longer. */
  async pause(error: unknown): Promise<void> {
    if (this.signal.aborted) throw cancelled(this.signal);
    if (!mayPass(error)) throw error;
    const asked = error.details['retryAfterMs'];
    if (this.failures >= this.policy.retries || (typeof asked === 'number' && asked > LONGEST_REQUESTED_MS))
      throw error;
    const doubled = Math.min(LONGEST_PAUSE_MS, this.policy.retryDelayMs * 2 ** this.failures);
    // some more or less, so that clients that failed together do not come again together
    const pauseMs = typeof asked === 'number' ? asked : doubled * (0.75 + Math.random() / 2);
    this.failures += 1;
    this.onPause(error, pauseMs);
    try {
      await sleep(pauseMs, undefined, { signal: this.signal });
    } catch {
      throw cancelled(this.signal);
    }
  }

  /** Does `work` until it succeeds. */
  async until<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await work();
      } catch (error) {
        await this.pause(error);
      }
    }
  }
}

/** Milliseconds that a Retry-After asks for: seconds, or a date (RFC 9110, 10.2.3); null where it says neither. */
export function retryAfterMs(header: string, now = Date.now()): number | null {
  if (/^\d+$/.test(header)) return Number(header) * 1000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? null : Math.max(0, date - now);
}
