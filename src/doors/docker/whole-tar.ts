import { LayerdError } from '../../core/errors.js';

/** Two blocks of zeros end a tar. */
const END_BYTES = 1024;

/** The same bytes; throws TAR_TRUNCATED behind the last where they are no tar with its end. */
export async function* wholeTar(tar: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let zeros = 0;
  for await (const chunk of tar) {
    zeros = zerosAtEnd(chunk, zeros);
    yield chunk;
  }
  if (zeros >= END_BYTES) return;
  throw new LayerdError('TAR_TRUNCATED', 'the layer ends before its tar does', {
    hint: 'The connection broke: send the layer again from its beginning.',
  });
}

/** How many zeros end the stream after this chunk, counted no further than needed. */
function zerosAtEnd(chunk: Buffer, before: number): number {
  const from = Math.max(0, chunk.length - END_BYTES);
  let at = chunk.length;
  while (at > from && chunk[at - 1] === 0) at--;
  const zeros = chunk.length - at;
  return zeros === chunk.length ? Math.min(END_BYTES, before + zeros) : zeros;
}
