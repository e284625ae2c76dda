/**
 * Requests that must not take effect twice. A client that does not know whether its request arrived sends it again with
 * the same `idempotency-key`, and gets the answer of the first: also from a daemon that was restarted meanwhile.
 */
import type { FastifyRequest } from 'fastify';
import type { EngineApi, Once } from '../../core/api.js';
import { LayerdError } from '../../core/errors.js';
import { sha256 } from '../../core/digest.js';

interface Running {
  request: string;
  answer: Promise<unknown>;
}

export class OnceOnly {
  private readonly engine: Pick<EngineApi, 'answered'>;
  /** Requests that are worked on; what is finished the engine remembers. */
  private readonly running = new Map<string, Running>();

  constructor(engine: Pick<EngineApi, 'answered'>) {
    this.engine = engine;
  }

  /** Runs `work` unless this client's key was seen. Failures are not kept: trying again tries again. */
  run<T>(request: FastifyRequest, uid: number | null, work: (once?: Once) => Promise<T>): Promise<T> {
    const given = request.headers['idempotency-key'];
    if (typeof given !== 'string') return work();
    const once: Once = {
      key: sha256(`${uid ?? ''} ${given}`),
      request: sha256(`${request.method} ${request.url}\n${JSON.stringify(request.body ?? null)}`),
    };
    const seen = this.running.get(once.key) ?? this.engine.answered(once.key);
    if (seen === undefined) return this.begin(once, work(once));
    if (seen.request !== once.request) throw reused(given);
    return Promise.resolve(seen.answer as T);
  }

  private begin<T>({ key, request }: Once, answer: Promise<T>): Promise<T> {
    this.running.set(key, { request, answer });
    return answer.finally(() => this.running.delete(key));
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
