/**
 * Beginnings of blobs in b/HEX.part, which an interrupted transfer leaves for the next one. The row comes before the
 * file: a file with a row may be of any length, or not be there, and what it holds is only believed when the whole blob
 * has been verified. A lease keeps it; without one the collector takes it.
 */
import { stat } from 'node:fs/promises';
import { digestHex, type Digest } from '../core/digest.js';
import { isErrno } from '../core/errors.js';
import type { StoreContext } from './context.js';

/** Shorter blobs are fetched again sooner than they are written and found. */
const WORTH_KEEPING_BYTES = 1024 * 1024;

export interface PartialBlob {
  /** The file below b/. */
  name: string;
  /** Bytes of the blob that are there, from its first. */
  have: number;
}

export class Partials {
  private readonly context: StoreContext;

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** Puts what is there of a blob (or will be) under a lease; null for one that is not worth it. Its bearer is alone with it. */
  async claim(digest: Digest | undefined, length: number, leaseId: string): Promise<PartialBlob | null> {
    if (digest === undefined || length < WORTH_KEEPING_BYTES) return null;
    const { writer, places } = this.context;
    await writer.run('holdPartial', { digest, leaseId });
    const name = partialName(digest);
    const have = await sizeOf(places.blob(name));
    // longer than the blob: it is not a beginning of it
    return { name, have: have > length ? 0 : have };
  }
}

/** The file of a blob's beginning below b/. */
export function partialName(digest: Digest): string {
  return `${digestHex(digest)}.part`;
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return 0;
    throw error;
  }
}
