import { createCipheriv, createHash } from 'node:crypto';

/** Numbers and bytes that a seed decides. */
export class Random {
  private readonly seed: string;
  private state: number;

  constructor(seed: string) {
    this.seed = seed;
    // xorshift stays at 0 for ever once it is there
    this.state = createHash('sha256').update(seed).digest().readUInt32LE() || 1;
  }

  /** From 0 (included) to 1 (excluded). */
  fraction(): number {
    // Marsaglia's xorshift of 32 bits
    this.state ^= this.state << 13;
    this.state ^= this.state >>> 17;
    this.state ^= this.state << 5;
    return (this.state >>> 0) / 2 ** 32;
  }

  /** A whole number from 0 to `below`, which it never is. */
  below(below: number): number {
    return Math.floor(this.fraction() * below);
  }

  /** True in `share` of all cases. */
  chance(share: number): boolean {
    return this.fraction() < share;
  }

  pick<T>(choices: readonly T[]): T | undefined {
    return choices[this.below(choices.length)];
  }

  /** Another sequence, which has nothing to do with how far this one is. */
  fork(name: string): Random {
    return new Random(`${this.seed} ${name}`);
  }
}

/** Bytes that no compression makes fewer; the same for the same seed. */
export function noise(seed: string, length: number): Buffer {
  const key = createHash('sha256').update(seed).digest().subarray(0, 16);
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(length));
}
