import { randomUUID } from 'node:crypto';
import { isDigest, type Digest } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import type { Lease } from '../core/words.js';
import type { StoreContext } from './context.js';

const ID = /^[a-zA-Z0-9][a-zA-Z0-9_.:/-]{0,255}$/;

/** Leases protect what is being put together from collection. */
export class Leases {
  private readonly context: StoreContext;

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** Without `ttlMs` the lease stays until it is removed. */
  async create(options: {
    id?: string;
    ttlMs?: number;
    labels?: Record<string, string>;
    holds?: string[];
  }): Promise<Lease> {
    const id = options.id ?? randomUUID();
    if (!ID.test(id)) {
      throw new LayerdError('INVALID_ARGUMENT', `${JSON.stringify(id)} is not an id for a lease`, {
        hint: 'Letters, digits and _ . : / - ; at most 256 characters.',
      });
    }
    await this.context.writer.run('addLease', {
      id,
      internal: false,
      labels: options.labels ?? {},
      expires: expiry(options.ttlMs),
      holds: (options.holds ?? []).map((text) => this.digest(text)),
    });
    return this.find(id);
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

  async remove(id: string): Promise<void> {
    await this.context.writer.run('removeLease', { id });
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

  /** A lease of an operation of the daemon: it ends with `release()`, or with the daemon. */
  async hold(purpose: string, holds: Digest[]): Promise<{ id: string; release(): Promise<void> }> {
    const id = `${purpose}-${randomUUID()}`;
    await this.context.writer.run('addLease', {
      id,
      internal: true,
      labels: { [INTERNAL]: purpose },
      expires: null,
      holds,
    });
    return { id, release: () => this.context.writer.run('removeLease', { id }) };
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

/** Marks leases of the daemon's own operations. */
const INTERNAL = 'layerd.internal';

function expiry(ttlMs: number | undefined): number | null {
  return ttlMs === undefined ? null : Date.now() + ttlMs;
}
