/** Runs what concerns one key one after the other, and different keys side by side. */
export class KeyedLock {
  private readonly tails = new Map<string, Promise<void>>();

  /** Whether something of this key runs. */
  isHeld(key: string): boolean {
    return this.tails.has(key);
  }

  async run<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = this.tails.get(key);
    const { promise: tail, resolve: release } = openPromise();
    this.tails.set(key, tail);
    try {
      await before;
      return await work();
    } finally {
      if (this.tails.get(key) === tail) this.tails.delete(key);
      release();
    }
  }
}

function openPromise(): { promise: Promise<void>; resolve: () => void } {
  let resolve!: () => void;
  const promise = new Promise<void>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}
