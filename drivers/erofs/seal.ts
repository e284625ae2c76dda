/**
 * The last block of an index file, behind the image: which writer wrote it, and the digest of what it wrote. `check`
 * holds an index of this writer against what its tar gives; one of another writer (an older layerd, or a newer one) has
 * other bytes for the same tar, and is held against its seal.
 */
import { isDigest, type Digest } from '../../src/core/digest.js';
import { BLOCK_BYTES } from './format.js';

/** Of the writer in this folder. Raised with every change that gives other bytes for the same tar; a test watches it. */
export const INDEX_VERSION = 1;

export interface Seal {
  version: number;
  /** Of all bytes before the seal. */
  digest: Digest;
}

export const SEAL_BYTES = BLOCK_BYTES;

/** A line of text, filled up with zeros. */
export function encodeSeal({ version, digest }: Seal): Buffer {
  const block = Buffer.alloc(SEAL_BYTES);
  block.write(`layerd index ${version} ${digest}\n`, 'latin1');
  return block;
}

/** Null for bytes that are no seal. */
export function decodeSeal(block: Buffer): Seal | null {
  const [, version, digest] = /^layerd index (\d{1,9}) (\S+)\n/.exec(block.toString('latin1')) ?? [];
  if (version === undefined || digest === undefined || !isDigest(digest)) return null;
  const seal: Seal = { version: Number(version), digest };
  return encodeSeal(seal).equals(block) ? seal : null;
}
