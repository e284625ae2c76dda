/** Chance that a seed decides, so that a failure can be repeated. */
import { createHash } from 'node:crypto';

export class Random {
  private count = 0;
  private readonly seed: string;

  constructor(seed: string) {
    this.seed = seed;
  }

  /** From 0 to below 1. */
  next(): number {
    return createHash('sha256').update(`${this.seed} ${this.count++}`).digest().readUInt32BE() / 2 ** 32;
  }

  /** A whole number from 0 to below `limit`. */
  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new RangeError('there is nothing to pick from');
    return item;
  }
}

/** LAYERD_SEED repeats a run. */
export const SEED = process.env['LAYERD_SEED'] ?? String(Date.now() % 1_000_000);

/** LAYERD_CRASH=full: the long form of these tests, for `npm run test:crash`. */
export const FULL = process.env['LAYERD_CRASH'] === 'full';
