/** How things look to people. Pure. */

const BYTE_UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'] as const;

/** `0 B`, `12.3 MB`: three digits that count, powers of 1000 like other container tools. */
export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  // 999.5 would round to 1000 of the smaller unit
  while (value >= 999.5 && unit < BYTE_UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  const text = unit === 0 || value >= 99.95 ? value.toFixed(0) : value.toFixed(value >= 9.995 ? 1 : 2);
  return `${text} ${BYTE_UNITS[unit] ?? ''}`;
}

/** The 12 hex digits that people pass on; names that are no digests stay. */
export function shortId(id: string): string {
  const hex = id.startsWith('sha256:') ? id.slice('sha256:'.length) : id;
  return /^[0-9a-f]{64}$/.test(hex) ? hex.slice(0, 12) : id;
}

const AGE_UNITS: readonly (readonly [string, number])[] = [
  ['year', 365 * 86_400],
  ['month', 30 * 86_400],
  ['week', 7 * 86_400],
  ['day', 86_400],
  ['hour', 3_600],
  ['minute', 60],
  ['second', 1],
];

/** `3 hours ago`; `in 5 minutes` for what is to come. Times are milliseconds since the epoch. */
export function age(time: number, now = Date.now()): string {
  const seconds = Math.round(Math.abs(now - time) / 1000);
  const [unit, factor] = AGE_UNITS.find(([, length]) => seconds >= 2 * length) ?? ['second', 1];
  const count = Math.floor(seconds / factor);
  const span = `${count} ${unit}${count === 1 ? '' : 's'}`;
  return now >= time ? `${span} ago` : `in ${span}`;
}

function two(value: number): string {
  return String(value).padStart(2, '0');
}

/** `0:07`, `12:34`, `1:02:03`. */
export function clock(seconds: number): string {
  const whole = Math.ceil(seconds);
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${two(whole % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
}

export interface Column<T> {
  title: string;
  value: (row: T) => string;
  /** Numbers stand right. */
  right?: boolean;
}

/** Aligned columns under their titles. The last column is not padded. */
export function table<T>(rows: readonly T[], columns: readonly Column<T>[]): string {
  const cells = [columns.map(({ title }) => title), ...rows.map((row) => columns.map(({ value }) => value(row)))];
  const widths = columns.map((_, index) => Math.max(...cells.map((line) => (line[index] ?? '').length)));
  return cells
    .map((line) =>
      line
        .map((cell, index) => {
          const width = widths[index] ?? 0;
          return columns[index]?.right === true ? cell.padStart(width) : cell.padEnd(width);
        })
        .join('   ')
        .trimEnd(),
    )
    .map((line) => `${line}\n`)
    .join('');
}

/** `key: value` lines, aligned. */
export function facts(pairs: readonly (readonly [string, string])[]): string {
  const width = Math.max(...pairs.map(([key]) => key.length)) + 1;
  return pairs.map(([key, value]) => `${`${key}:`.padEnd(width + 1)}${value}\n`).join('');
}

/** `1 layer`, `2 layers`. */
export function counted(count: number, thing: string): string {
  return `${count} ${thing}${count === 1 ? '' : 's'}`;
}
