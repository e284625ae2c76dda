/** What compression a blob has, by its magic bytes. */
import { LayerdError } from '../core/errors.js';

export type Compression = 'none' | 'gzip' | 'zstd';

/** The magic bytes that {@link detectCompression} needs to see. */
export const MAGIC_BYTES = 10;

/** Compressions that layers do not come in, by name, so that the error can say what was met. */
const FOREIGN: [name: string, isStart: (head: Buffer) => boolean][] = [
  ['xz', (head) => startsWith(head, 'fd377a585a00')],
  ['bzip2', (head) => startsWith(head, '425a68') && head.subarray(4, 10).toString('hex') === '314159265359'],
  ['lz4', (head) => startsWith(head, '04224d18')],
  ['lzip', (head) => startsWith(head, '4c5a495001')],
  ['compress', (head) => startsWith(head, '1f9d')],
];

/** By magic, from the first {@link MAGIC_BYTES} of a blob (or all of a shorter one). Throws COMPRESSION_UNSUPPORTED. */
export function detectCompression(head: Buffer): Compression {
  if (startsWith(head, '1f8b')) return 'gzip';
  if (startsWith(head, '28b52ffd')) return 'zstd';
  // A zstd stream may start with a skippable frame (RFC 8878, 3.1.2).
  if (head.length >= 4 && head.readUInt32LE(0) >>> 4 === 0x184d2a5) return 'zstd';
  const foreign = FOREIGN.find(([, isStart]) => isStart(head));
  if (foreign === undefined) return 'none';
  throw new LayerdError('COMPRESSION_UNSUPPORTED', `the layer is compressed with ${foreign[0]}`, {
    details: { compression: foreign[0] },
    hint: 'Layers may be plain tars, or compressed with gzip or zstd: convert the image, for example with skopeo copy.',
  });
}

function startsWith(head: Buffer, hex: string): boolean {
  return head.subarray(0, hex.length / 2).toString('hex') === hex;
}
