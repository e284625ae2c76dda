/**
 * Names in archives and file systems are bytes. A {@link ByteString} carries them in a JavaScript string, one char
 * (0–255) per byte: it can be a Map key, compares in byte order with `<`, and costs one byte per char in V8.
 * Never decode it as UTF-8 except to show it ({@link displayBytes}).
 */
export type ByteString = string & { readonly __bytes: unique symbol };

/** The bytes of a buffer as a ByteString. */
export function fromBuffer(bytes: Uint8Array): ByteString {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1') as ByteString;
}

/** A ByteString as a buffer, for calls of node:fs and linux/. */
export function toBuffer(bytes: ByteString): Buffer {
  return Buffer.from(bytes, 'latin1');
}

/** The UTF-8 bytes of ordinary text (a constant in code, a path from the configuration). */
export function bytesOf(text: string): ByteString {
  return Buffer.from(text, 'utf8').toString('latin1') as ByteString;
}

/** Joins components with `/`; empty ones are left out. */
export function joinBytes(...parts: ByteString[]): ByteString {
  return parts.filter((part) => part !== '').join('/') as ByteString;
}

const strictUtf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * For people and JSON: the text itself where the bytes are UTF-8 without control characters; otherwise bytes that are
 * not printable ASCII, and backslashes, stand as `\xNN`. Distinct names stay distinct.
 */
export function displayBytes(bytes: ByteString): string {
  try {
    const text = strictUtf8.decode(toBuffer(bytes));
    // eslint-disable-next-line no-control-regex
    if (!/[\u0000-\u001f\u007f\\]/.test(text)) return text;
  } catch {
    // not UTF-8: shown escaped below
  }
  return bytes.replace(/[^\x20-\x5b\x5d-\x7e]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
