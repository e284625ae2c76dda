/**
 * Requests that must not take effect twice. A client that does not know whether its request arrived sends it again with
 * the same `idempotency-key`, and gets the answer of the first.
 */
import type { FastifyRequest } from 'fastify';
import { LayerdError } from '../../core/errors.js';
import { sha256 } from '../../core/digest.js';

interface Remembered {
  /** What was asked, so that a key used for something else is noticed. */
  request: string;
  answer: Promise<unknown>;
}

/** The newest so many answers are kept, for as long as the daemon runs. */
const KEPT = 1024;

export class OnceOnly {
  private readonly answers = new Map<string, Remembered>();

  /** Runs `work` unless this client's key was seen. Failures are not kept: trying again tries again. */
  run<T>(request: FastifyRequest, uid: number | null, work: () => Promise<T>): Promise<T> {
    const given = request.headers['idempotency-key'];
    if (typeof given !== 'string') return work();
    const key = `${uid ?? ''} ${given}`;
    const asked = sha256(`${request.method} ${request.url}\n${JSON.stringify(request.body ?? null)}`);
    const seen = this.answers.get(key);
    if (seen === undefined) return this.remember(key, asked, work());
    if (seen.request !== asked) throw reused(given);
    return seen.answer as Promise<T>;
  }

  private remember<T>(key: string, request: string, answer: Promise<T>): Promise<T> {
    this.answers.set(key, { request, answer });
    answer.catch(() => this.answers.delete(key));
    const [oldest] = this.answers.keys();
    if (this.answers.size > KEPT && oldest !== undefined) this.answers.delete(oldest);
    return answer;
  }
}

function reused(key: string): LayerdError {
  return new LayerdError(
    'INVALID_ARGUMENT',
    `the idempotency key ${JSON.stringify(key)} was used for another request`,
    {
      details: { key },
      hint: 'Choose a new random key for every request that is not a repetition.',
    },
  );
}
