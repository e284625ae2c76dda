import type { ByteSource } from './source.js';

/**
 * The same bytes in chunks of at least `minimum` (but for the last, and those before a large one): small chunks are
 * copied together, large ones pass as they are. Work that costs per chunk (a hash update, a call on another thread) then
 * costs per half MiB, however the bytes came in.
 */
export async function* gathered(source: ByteSource, minimum: number): AsyncGenerator<Buffer> {
  let buffer: Buffer | null = null;
  let filled = 0;
  for await (const chunk of source) {
    if (chunk.length >= minimum) {
      if (buffer !== null && filled > 0) yield buffer.subarray(0, filled);
      filled = 0;
      yield chunk;
      continue;
    }
    if (buffer === null)
      buffer = Buffer.allocUnsafeSlow(chunk.length); // often there is no more
    else if (buffer.length < filled + chunk.length) buffer = enlarged(buffer, filled, 2 * minimum);
    filled += chunk.copy(buffer, filled);
    if (filled < minimum) continue;
    yield buffer.subarray(0, filled);
    filled = 0;
  }
  if (buffer !== null && filled > 0) yield buffer.subarray(0, filled);
}

function enlarged(buffer: Buffer, filled: number, length: number): Buffer {
  const larger = Buffer.allocUnsafeSlow(length);
  buffer.copy(larger, 0, 0, filled);
  return larger;
}
