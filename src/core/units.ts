/** Durations, sizes and counts as people write and read them. Pure; null where a text is neither. */

const DURATION_UNITS: readonly (readonly [string, number])[] = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1_000],
  ['ms', 1],
];

const SIZE_UNITS: readonly (readonly [string, number])[] = [
  ['T', 1024 ** 4],
  ['G', 1024 ** 3],
  ['M', 1024 ** 2],
  ['K', 1024],
];

/** `90s`, `10m`, `1h30m`, `0` → milliseconds. */
export function parseDuration(text: string): number | null {
  if (text === '0') return 0;
  if (!/^(?:\d+(?:ms|[dhms]))+$/.test(text)) return null;
  let total = 0;
  for (const [, count, unit] of text.matchAll(/(\d+)(ms|[dhms])/g)) {
    total += Number(count) * (DURATION_UNITS.find(([name]) => name === unit)?.[1] ?? Number.NaN);
  }
  return Number.isSafeInteger(total) ? total : null;
}

/** The shortest text that {@link parseDuration} reads back as the same number. */
export function formatDuration(ms: number): string {
  let rest = ms;
  let text = '';
  for (const [unit, factor] of DURATION_UNITS) {
    const count = Math.floor(rest / factor);
    if (count > 0) text += `${count}${unit}`;
    rest -= count * factor;
  }
  return text === '' ? '0' : text;
}

/** `512`, `64K`, `10G`, `1.5T`, with an optional `B` or `iB`: powers of 1024 → bytes. */
export function parseSize(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)(?:([KMGT])?(?:i?B)?)$/i.exec(text.trim());
  if (match === null) return null;
  const unit = match[2]?.toUpperCase();
  const factor = SIZE_UNITS.find(([name]) => name === unit)?.[1] ?? 1;
  const bytes = Number(match[1]) * factor;
  return Number.isSafeInteger(bytes) ? bytes : null;
}

/** The shortest text that {@link parseSize} reads back as the same number. */
export function formatSize(bytes: number): string {
  for (const [unit, factor] of SIZE_UNITS) {
    if (bytes >= factor && bytes % factor === 0) return `${bytes / factor}${unit}`;
  }
  return String(bytes);
}

/** `1 container`, `2 containers`. */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** Milliseconds since `began` (of `performance.now()`), to the microsecond, for logs and reports. */
export function elapsedMs(began: number): number {
  return Math.round((performance.now() - began) * 1000) / 1000;
}
