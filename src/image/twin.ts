/**
 * A layer of a stream that nothing names may be one that is stored already. What is stored is read beside it: where the
 * two are the same to the end, nothing was written; where they part, the beginning is taken from what is stored.
 */
import type { ByteSource } from '../content/source.js';
import type { Digest } from '../core/digest.js';

/** A stored layer that one in a stream resembles: its tar is as long and begins alike. */
export interface Twin {
  diffId: Digest;
  /** The stored tar, from its beginning, as often as it is asked for. */
  tar(): ByteSource;
}

/**
 * Reads `source` as long as it is what the twin's tar is. Null where it is that to the end; else the whole of what
 * `source` gave and gives.
 */
export async function unlessSame(source: ByteSource, twin: Twin): Promise<ByteSource | null> {
  const coming = source[Symbol.asyncIterator]();
  const stored = new Stored(twin.tar());
  let same = 0;
  try {
    for (let next = await coming.next(); next.done !== true; next = await coming.next()) {
      const matched = await stored.matches(next.value);
      same += matched;
      if (matched < next.value.length) return joined(twin, same, next.value.subarray(matched), coming);
    }
    return (await stored.atEnd()) ? null : joined(twin, same, null, coming);
  } finally {
    await stored.close();
  }
}

async function* joined(twin: Twin, same: number, rest: Buffer | null, coming: AsyncIterator<Buffer>): ByteSource {
  let left = same;
  for await (const chunk of left === 0 ? [] : twin.tar()) {
    yield chunk.subarray(0, left);
    left -= Math.min(left, chunk.length);
    if (left === 0) break;
  }
  if (rest === null) return;
  yield rest;
  for (let next = await coming.next(); next.done !== true; next = await coming.next()) yield next.value;
}

/** Stored bytes, compared piece by piece with others. What cannot be read is not the same. */
class Stored {
  readonly #chunks: AsyncIterator<Buffer>;
  #chunk: Buffer = Buffer.alloc(0);

  constructor(source: ByteSource) {
    this.#chunks = source[Symbol.asyncIterator]();
  }

  /** How many bytes of `bytes` come next, at least: up to a piece that differs. */
  async matches(bytes: Buffer): Promise<number> {
    for (let at = 0; ;) {
      if (at === bytes.length) return at;
      if (!(await this.#fill())) return at;
      const length = Math.min(bytes.length - at, this.#chunk.length);
      if (bytes.compare(this.#chunk, 0, length, at, at + length) !== 0) return at;
      this.#chunk = this.#chunk.subarray(length);
      at += length;
    }
  }

  async atEnd(): Promise<boolean> {
    return !(await this.#fill());
  }

  async close(): Promise<void> {
    await this.#chunks.return?.();
  }

  /** False at the end. */
  async #fill(): Promise<boolean> {
    while (this.#chunk.length === 0) {
      const next = await this.#chunks.next().catch(() => ({ done: true as const, value: undefined }));
      if (next.done === true) return false;
      this.#chunk = next.value;
    }
    return true;
  }
}
