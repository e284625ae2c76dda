import type { ByteSource } from './source.js';

export const OUTPUT_BYTES = 1024 * 1024;

/** A native encoder of one stream. Calls never overlap. */
export interface BlockEncoder {
  /** Encodes all of `input`; both stay untouched until the promise is done. `last`: nothing follows. `done` is false while it has more to give. */
  step(input: Buffer, output: Buffer, last: boolean): Promise<{ read: number; written: number; done: boolean }>;
  close(): void;
}

/** All of a stream through an encoder; each chunk is the receiver's. */
export async function* deflateBlocks(source: ByteSource, encoder: BlockEncoder): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of source) yield* encoded(encoder, chunk, false);
    yield* encoded(encoder, Buffer.alloc(0), true);
  } finally {
    encoder.close();
  }
}

async function* encoded(encoder: BlockEncoder, chunk: Buffer, last: boolean): AsyncGenerator<Buffer> {
  let input = chunk;
  for (;;) {
    const output = Buffer.allocUnsafeSlow(OUTPUT_BYTES);
    const { read, written, done } = await encoder.step(input, output, last);
    input = input.subarray(read);
    if (written > 0) yield output.subarray(0, written);
    if (done) return;
  }
}
