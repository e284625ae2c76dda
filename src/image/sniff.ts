/** Tells what a member of a streamed archive is from its name and its first bytes, before anything says what it is for. */
import { detectCompression } from '../content/compression-magic.js';
import type { ByteString } from '../core/bytes.js';
import { type Digest, digestFromHex } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import { BLOCK } from '../tar/entry.js';
import { checksum, FIELD, isZeroBlock } from '../tar/header.js';
import { readOctal } from '../tar/numbers.js';
import { blobDigestOf } from './members.js';

/** What {@link sniff} needs to see: one tar header. */
export const HEAD_BYTES = BLOCK;

export type MemberKind = 'document' | 'layer' | 'other';

/** `head` is the first {@link HEAD_BYTES}, or all of a shorter member. */
export function sniff(path: ByteString, head: Buffer): MemberKind {
  const mayBeLayer = LAYER_PLACE.test(path);
  if (mayBeLayer && isTarHeader(head)) return 'layer';
  if (isJson(head)) return isAttestation(head) ? 'other' : 'document';
  return mayBeLayer && isCompressed(head) ? 'layer' : 'other';
}

/** What a member's name promises of a layer: blobs are named by their digest, skopeo's layers by their diff ID. */
export function promisedDigests(path: ByteString): { blobDigest?: Digest; diffId?: Digest } {
  const blobDigest = blobDigestOf(path);
  if (blobDigest !== null) return { blobDigest, diffId: blobDigest };
  const hex = DIFF_ID_NAME.exec(path)?.[1];
  return hex === undefined ? {} : { diffId: digestFromHex(hex) };
}

const DIFF_ID_NAME = /^([0-9a-f]{64})\.tar$/;

/** Where tools put layers: `blobs/ALGORITHM/HEX`, `ID/layer.tar`, `HEX.tar`, `HEX.tar.gz`. Not deep inside a root file system. */
const LAYER_PLACE = /^(?:blobs\/[^/]+\/[^/]+|[^/]+(?:\/[^/]+)?)$/;

function isJson(head: Buffer): boolean {
  return /^\s*[{[]/.test(head.toString('latin1'));
}

/** Statements of BuildKit about an image (provenance, lists of packages), often large and never needed. */
function isAttestation(head: Buffer): boolean {
  return /^\s*\{\s*"_type"\s*:\s*"https:\/\/in-toto\.io\//.test(head.toString('latin1'));
}

/** Compressed in a way that layers do not have counts too: if an image needs it, the error can say so. */
function isCompressed(head: Buffer): boolean {
  try {
    return detectCompression(head) !== 'none';
  } catch (error) {
    if (error instanceof LayerdError && error.code === 'COMPRESSION_UNSUPPORTED') return true;
    throw error;
  }
}

/** A header whose checksum is right, or the zeros that end a tar: an empty layer is nothing else. */
function isTarHeader(head: Buffer): boolean {
  if (head.length < HEAD_BYTES) return false;
  return isZeroBlock(head, 0) || readOctal(head, ...FIELD.checksum) === checksum(head, 0);
}
