import { createHash } from 'node:crypto';
import { LayerdError } from './errors.js';

/** A content digest as the OCI image specification writes it: `sha256:` and 64 lower-case hex digits. */
export type Digest = `sha256:${string}`;

const DIGEST = /^sha256:[0-9a-f]{64}$/;

export function isDigest(text: string): text is Digest {
  return DIGEST.test(text);
}

/** Checks a digest from outside. `what` names the thing in the error. */
export function parseDigest(text: string, what = 'digest'): Digest {
  if (isDigest(text)) return text;
  throw new LayerdError('INVALID_DIGEST', `${what} is not a sha256 digest: ${JSON.stringify(text.slice(0, 200))}`, {
    hint: 'layerd takes digests of the form sha256:<64 lower-case hex digits>.',
  });
}

/** The 64 hex digits behind the colon. */
export function digestHex(digest: Digest): string {
  return digest.slice('sha256:'.length);
}

export function digestFromHex(hex: string): Digest {
  return `sha256:${hex}`;
}

/** Digest of bytes that are in memory. */
export function sha256(bytes: Uint8Array | string): Digest {
  return digestFromHex(createHash('sha256').update(bytes).digest('hex'));
}

/**
 * The chain ID of a layer on a stack (OCI image specification, config.md, "Layer ChainID"): the diff ID itself for a
 * base layer, otherwise the digest of `<chain ID of the parent> <diff ID>`.
 */
export function chainId(parent: Digest | null, diffId: Digest): Digest {
  return parent === null ? diffId : sha256(`${parent} ${diffId}`);
}

/** Chain IDs of a whole stack, bottom first. */
export function chainIds(diffIds: readonly Digest[]): Digest[] {
  const chain: Digest[] = [];
  for (const diffId of diffIds) chain.push(chainId(chain.at(-1) ?? null, diffId));
  return chain;
}
