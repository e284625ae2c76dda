import type { ByteSource } from './source.js';

/** Bytes that are in memory already. */
// eslint-disable-next-line typescript/require-await -- a ByteSource is asynchronous by its type
export async function* bytesSource(bytes: Buffer): ByteSource {
  if (bytes.length > 0) yield bytes;
}
