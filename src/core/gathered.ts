/** Calls that come within one turn of the event loop, done together. */
export class Gathered<Item, Result> {
  private calls: { item: Item; resolve: (result: Promise<Result>) => void }[] = [];
  private readonly work: (items: readonly Item[]) => Promise<Result>[];

  /** `work` answers each of the items, in their order. */
  constructor(work: (items: readonly Item[]) => Promise<Result>[]) {
    this.work = work;
  }

  run(item: Item): Promise<Result> {
    return new Promise((resolve) => {
      if (this.calls.push({ item, resolve }) === 1) setImmediate(() => this.flush());
    });
  }

  private flush(): void {
    const { calls } = this;
    this.calls = [];
    const answers = this.work(calls.map(({ item }) => item));
    for (const [index, { resolve }] of calls.entries()) {
      resolve(answers[index] ?? Promise.reject(new Error('a call was not answered')));
    }
  }
}
