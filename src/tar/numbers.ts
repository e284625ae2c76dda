/** Numbers as tar headers write them. All of these answer NaN for what is not a number or not a safe integer. */
import type { TarTime } from './entry.js';

const NUL = 0;
const SPACE = 0x20;

/**
 * A numeric header field: octal digits, or base-256 (GNU, star) where the top bit of the first byte is set; then it is
 * a big-endian two's complement number and may be negative.
 */
export function readNumeric(bytes: Buffer, at: number, length: number): number {
  const first = bytes[at] ?? 0;
  return first < 0x80 ? readOctal(bytes, at, length) : readBase256(bytes, at, length);
}

/**
 * Octal digits, with NULs and spaces before and behind; an empty field is 0. Digits end at the first NUL, whatever
 * follows (writers leave residue there), but behind a space only NULs and spaces may follow.
 */
export function readOctal(bytes: Buffer, at: number, length: number): number {
  const end = at + length;
  let pos = at;
  while (pos < end && isBlank(bytes[pos])) pos++;
  let value = 0;
  for (; pos < end; pos++) {
    const digit = (bytes[pos] ?? 0) - 0x30;
    if (digit < 0 || digit > 7) break;
    value = value * 8 + digit;
  }
  if (pos < end && bytes[pos] !== NUL && !isBlankUntil(bytes, pos, end)) return NaN;
  return value;
}

function isBlank(byte: number | undefined): boolean {
  return byte === NUL || byte === SPACE;
}

function isBlankUntil(bytes: Buffer, from: number, end: number): boolean {
  for (let pos = from; pos < end; pos++) if (!isBlank(bytes[pos])) return false;
  return true;
}

function readBase256(bytes: Buffer, at: number, length: number): number {
  const first = bytes[at] ?? 0;
  const negative = (first & 0x40) !== 0;
  const invert = negative ? 0xff : 0x00;
  let value = (first ^ invert) & 0x7f;
  for (let pos = at + 1; pos < at + length; pos++) value = value * 256 + ((bytes[pos] ?? 0) ^ invert);
  return safe(negative ? -value - 1 : value);
}

/** A decimal integer of a PAX record, with an optional sign. */
export function parseDecimal(text: string): number {
  return /^[+-]?[0-9]+$/.test(text) ? safe(Number(text)) : NaN;
}

function safe(value: number): number {
  // + 0 turns -0 into 0
  return Number.isSafeInteger(value) ? value + 0 : NaN;
}

/** A time of a PAX record: seconds with an optional fraction of any length, rounded down to nanoseconds; null if bad. */
export function parsePaxTime(text: string): TarTime | null {
  const match = /^([+-]?[0-9]+)(?:\.([0-9]*))?$/.exec(text);
  if (match === null) return null;
  const [, whole = '', fraction = ''] = match;
  const sec = parseDecimal(whole);
  if (Number.isNaN(sec)) return null;
  const nsec = Number(fraction.slice(0, 9).padEnd(9, '0'));
  if (!whole.startsWith('-')) return { sec, nsec };
  // the fraction counts away from zero: its floor is the next nanosecond where digits were cut off
  const back = nsec + (/[1-9]/.test(fraction.slice(9)) ? 1 : 0);
  if (back === 0) return { sec, nsec: 0 };
  return back === 1_000_000_000 ? { sec: sec - 1, nsec: 0 } : { sec: sec - 1, nsec: 1_000_000_000 - back };
}

/** The shortest decimal form of a time, as PAX records have it. */
export function formatPaxTime(time: TarTime): string {
  if (time.nsec === 0) return String(time.sec);
  const negative = time.sec < 0;
  const sec = negative ? -(time.sec + 1) : time.sec;
  let fraction = negative ? 1_000_000_000 - time.nsec : time.nsec;
  let digits = 9;
  for (; fraction % 10 === 0; digits--) fraction /= 10;
  return `${negative ? '-' : ''}${sec}.${String(fraction).padStart(digits, '0')}`;
}
