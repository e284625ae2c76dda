import { randomUUID } from 'node:crypto';
import type { Once } from '../core/api.js';
import { isDigest, type Digest } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import type { Lease } from '../core/words.js';
import type { StoreContext } from './context.js';
import { endLease } from './leftovers.js';

const ID = /^[a-zA-Z0-9][a-zA-Z0-9_.:/-]{0,255}$/;

/** Leases protect what is being put together from collection. */
export class Leases {
  private readonly context: StoreContext;
  /** Operations that share a lasting lease, by its id. */
  private readonly users = new Map<string, number>();

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** Without `ttlMs` the lease stays until it is removed. */
  async create(
    options: { id?: string; ttlMs?: number; labels?: Record<string, string>; holds?: string[] },
    once?: Once,
  ): Promise<Lease> {
    const id = options.id ?? randomUUID();
    if (!ID.test(id)) {
      throw new LayerdError('INVALID_ARGUMENT', `${JSON.stringify(id)} is not an id for a lease`, {
        hint: 'Letters, digits and _ . : / - ; at most 256 characters.',
      });
    }
    const lease = {
      id,
      internal: false,
      labels: options.labels ?? {},
      expires: expiry(options.ttlMs),
      holds: (options.holds ?? []).map((text) => this.digest(text)),
    };
    return this.context.writer.run('addLease', lease, once);
  }

  list(): Lease[] {
    return this.context.reader.leases().filter((lease) => lease.labels[INTERNAL] === undefined);
  }

  find(id: string): Lease {
    const lease = this.context.reader.leases().find((candidate) => candidate.id === id);
    if (lease !== undefined) return lease;
    throw new LayerdError('LEASE_NOT_FOUND', `there is no lease ${id}`, {
      details: { lease: id },
      hint: '`layerctl lease ls` lists the leases.',
    });
  }

  async update(id: string, change: { ttlMs?: number; add?: string[] }): Promise<Lease> {
    const expires = expiry(change.ttlMs);
    await this.context.writer.run('updateLease', {
      id,
      ...(expires === null ? {} : { expires }),
      add: (change.add ?? []).map((text) => this.digest(text)),
    });
    return this.find(id);
  }

  async remove(id: string, once?: Once): Promise<void> {
    await this.context.writer.run('removeLease', { id }, once);
  }

  /** Runs `work` under a lease of its own, which goes with it, whatever comes of it. */
  async during<T>(purpose: string, work: (leaseId: string) => Promise<T>): Promise<T> {
    const lease = await this.hold(purpose, []);
    try {
      return await work(lease.id);
    } finally {
      await lease.release();
    }
  }

  /**
   * Runs `work` under a lease that a failure and a crash leave behind for `ttlMs`, so that what was brought is there for
   * the next try under the same id. Success ends it; of several that share it at a time, the last.
   */
  async lasting<T>(id: string, labels: Record<string, string>, ttlMs: number, work: () => Promise<T>): Promise<T> {
    const { writer, log } = this.context;
    const renew = (): Promise<void> => writer.run('renewLease', { id, labels, expires: Date.now() + ttlMs });
    await renew();
    this.users.set(id, (this.users.get(id) ?? 0) + 1);
    const again = (): void =>
      void renew().catch((error: unknown) => log.warn({ err: error, lease: id }, 'lease not renewed'));
    const timer = setInterval(again, Math.min(ttlMs / 2, HOUR_MS)).unref();
    let ifEmpty = true;
    try {
      const result = await work();
      ifEmpty = false;
      return result;
    } finally {
      clearInterval(timer);
      const others = (this.users.get(id) ?? 1) - 1;
      if (others > 0) this.users.set(id, others);
      else this.users.delete(id);
      if (others === 0) await writer.run('dropLease', { id, ifEmpty });
    }
  }

  /** A lease of an operation of the daemon: it ends with `release()`, which never fails, or with the daemon. */
  async hold(purpose: string, holds: Digest[]): Promise<{ id: string; release(): Promise<void> }> {
    const id = `${purpose}-${randomUUID()}`;
    await this.context.writer.run('beginOperation', { id, labels: { [INTERNAL]: purpose }, holds });
    return { id, release: () => endLease(this.context, id) };
  }

  private digest(text: string): Digest {
    const { reader } = this.context;
    if (isDigest(text)) return text;
    const image = reader.imageByRef(text);
    if (image !== undefined) return image.image_id;
    throw new LayerdError('INVALID_DIGEST', `${JSON.stringify(text)} is neither a digest nor a ref`, {
      hint: 'A lease holds image ids, diff IDs and refs of what is in the store.',
    });
  }
}

const HOUR_MS = 3_600_000;

/** Marks leases of the daemon's own operations. */
const INTERNAL = 'layerd.internal';

function expiry(ttlMs: number | undefined): number | null {
  return ttlMs === undefined ? null : Date.now() + ttlMs;
}
