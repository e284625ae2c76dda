/** At most so many transfers at once; the others wait in the order in which they came. */
export class Transfers {
  private free: number;
  private readonly waiting: (() => void)[] = [];

  constructor(atOnce: number) {
    this.free = atOnce;
  }

  /** `onWait` is called where the work has to wait. */
  async run<T>(work: () => Promise<T>, onWait: () => void): Promise<T> {
    if (this.free > 0) this.free -= 1;
    else {
      onWait();
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    }
    try {
      return await work();
    } finally {
      const next = this.waiting.shift();
      if (next === undefined) this.free += 1;
      else next();
    }
  }
}
