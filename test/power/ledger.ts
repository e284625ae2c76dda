/**
 * What was acknowledged. While something is being changed it may be either way after a power cut; once the answer is
 * there it must be as the answer said, and stay so until the next change begins.
 */
import type { Content } from './images.js';

/** A thing that was acknowledged to be there; null: that it is gone. */
export type Claim = ImageClaim | ContainerClaim | null;

export interface ImageClaim {
  kind: 'image';
  imageId: string;
  content: Content;
}

export interface ContainerClaim {
  kind: 'container';
  /** What was written into it and synced. */
  written: Content;
}

/** Everything that is certain at a moment, by the name of the thing. */
export type Claims = ReadonlyMap<string, { claim: Claim; change: number }>;

export class Ledger {
  /** How many answers there were. */
  acknowledged = 0;
  private readonly certain = new Map<string, { claim: Claim; change: number }>();
  private changes = 0;
  private waiting: { count: number; wake: () => void }[] = [];

  /** Runs `work`, which changes the thing, and notes what it answers. Where it fails, the thing stays uncertain. */
  async change<T extends Claim>(thing: string, work: () => Promise<T>): Promise<T> {
    this.certain.delete(thing);
    const claim = await work();
    this.certain.set(thing, { claim, change: (this.changes += 1) });
    this.acknowledged += 1;
    this.waiting = this.waiting.filter(({ count, wake }) => {
      if (this.acknowledged < count) return true;
      wake();
      return false;
    });
    return claim;
  }

  /** Resolves with the answer after which `more` answers have come: before anything else happens. */
  async more(more: number): Promise<void> {
    const count = this.acknowledged + more;
    if (more > 0) await new Promise<void>((wake) => this.waiting.push({ count, wake }));
  }

  now(): Claims {
    return new Map(this.certain);
  }

  /** What was certain at both moments, and the same all the time between. */
  static throughout(before: Claims, after: Claims): Claims {
    return new Map([...before].filter(([thing, { change }]) => after.get(thing)?.change === change));
  }
}

/** How many things the claims say are there: what the reader of a table takes for acknowledged. */
export function countPresent(claims: Claims): number {
  return [...claims.values()].filter(({ claim }) => claim !== null).length;
}
