import { crc32 } from 'node:zlib';

const FLAG_HCRC = 0x02;
const FLAG_EXTRA = 0x04;
const FLAG_NAME = 0x08;
const FLAG_COMMENT = 0x10;
const FLAGS_RESERVED = 0xe0;

/** More than this for a name, a comment and extra fields is no header of a layer. */
const MAX_HEADER_BYTES = 128 * 1024;

/**
 * The length of a gzip member's header (RFC 1952, 2.3) at the start of `bytes`: null while it is not all there,
 * 'invalid' where it is none. Its own checksum is verified.
 */
export function gzipHeaderLength(bytes: Buffer): number | null | 'invalid' {
  if (bytes.length > 0 && bytes[0] !== 0x1f) return 'invalid';
  if (bytes.length > 1 && bytes[1] !== 0x8b) return 'invalid';
  if (bytes.length < 10) return null;
  const flags = bytes.readUInt8(3);
  if (bytes[2] !== 8 || (flags & FLAGS_RESERVED) !== 0) return 'invalid';
  let end: number | null = 10;
  if (flags & FLAG_EXTRA) end = bytes.length < 12 ? null : 12 + bytes.readUInt16LE(10);
  if (flags & FLAG_NAME) end = afterZero(bytes, end);
  if (flags & FLAG_COMMENT) end = afterZero(bytes, end);
  const length: number | null = end !== null && flags & FLAG_HCRC ? end + 2 : end;
  if (end === null || length === null || length > bytes.length) {
    return bytes.length > MAX_HEADER_BYTES ? 'invalid' : null;
  }
  if (length > end && bytes.readUInt16LE(end) !== (crc32(bytes.subarray(0, end)) & 0xffff)) return 'invalid';
  return length;
}

function afterZero(bytes: Buffer, from: number | null): number | null {
  const zero = from === null ? -1 : bytes.indexOf(0, from);
  return zero === -1 ? null : zero + 1;
}
