/** Makes something when it is first asked for, once; where that failed, the next caller has it tried again. */
export function lazily<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | null = null;
  return async () => {
    made ??= make();
    try {
      return await made;
    } catch (thrown) {
      made = null;
      throw thrown;
    }
  };
}
