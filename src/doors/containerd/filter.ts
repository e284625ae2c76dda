/**
 * containerd's filter language (pkg/filters of containerd), for snapshots: `kind==active,labels."a.b/c"~=^x`. Selectors of one
 * filter are and-ed, filters or-ed.
 */
import { LayerdError } from '../../core/errors.js';
import type { SnapshotInfo } from '../../core/snapshots.js';

export type Filter = (info: SnapshotInfo) => boolean;

/** Throws INVALID_ARGUMENT. No filters at all: everything. */
export function parseFilters(filters: readonly string[]): Filter {
  if (filters.length === 0) return () => true;
  const parsed = filters.map(parseFilter);
  return (info) => parsed.some((matches) => matches(info));
}

function parseFilter(text: string): Filter {
  const scanner = new Scanner(text);
  const selectors: Filter[] = [];
  while (!scanner.ended) {
    selectors.push(selector(scanner));
    if (!scanner.ended) scanner.expect(',');
  }
  return (info) => selectors.every((matches) => matches(info));
}

function selector(scanner: Scanner): Filter {
  const path = [scanner.field()];
  while (scanner.accept('.')) path.push(scanner.field());
  const operator = scanner.operator();
  if (operator === null) return (info) => fieldOf(info, path) !== null;
  const value = scanner.value();
  if (operator === '==') return (info) => fieldOf(info, path) === value;
  if (operator === '!=') return (info) => (fieldOf(info, path) ?? '') !== value;
  const expression = regular(value);
  return (info) => expression?.test(fieldOf(info, path) ?? '') ?? false;
}

/** Null for what the snapshot does not have. */
function fieldOf(info: SnapshotInfo, [first, ...rest]: readonly string[]): string | null {
  if (first === 'name') return info.key;
  if (first === 'parent') return info.parent ?? '';
  if (first === 'kind') return info.kind;
  if (first === 'labels') return info.labels[rest.join('.')] ?? null;
  return null;
}

/** As in containerd, an expression that is none matches nothing. */
function regular(text: string): RegExp | null {
  try {
    return new RegExp(text, 'u');
  } catch {
    return null;
  }
}

const FIELD = /[A-Za-z0-9_]+/y;
const OPERATOR = /==|!=|~=/y;
const BARE_VALUE = /[^\s,]+/y;
const QUOTED = /"(?:[^"\\]|\\.)*"/y;
const SLASHED = /\/(?:[^/\\]|\\.)*\/|\|(?:[^|\\]|\\.)*\|/y;
const SPACE = /\s*/y;

class Scanner {
  private readonly text: string;
  private position = 0;

  constructor(text: string) {
    this.text = text;
    this.take(SPACE);
  }

  get ended(): boolean {
    return this.position >= this.text.length;
  }

  field(): string {
    const quoted = this.take(QUOTED);
    const field = quoted === null ? this.take(FIELD) : this.unquote(quoted);
    if (field === null) throw this.invalid('the name of a field');
    return field;
  }

  operator(): string | null {
    const operator = this.take(OPERATOR);
    if (operator === null && !this.ended && this.text[this.position] !== ',') throw this.invalid('==, != or ~=');
    return operator;
  }

  value(): string {
    const quoted = this.take(QUOTED);
    if (quoted !== null) return this.unquote(quoted);
    const slashed = this.take(SLASHED);
    if (slashed !== null) return slashed.slice(1, -1).replaceAll(`\\${slashed.charAt(0)}`, slashed.charAt(0));
    const value = this.take(BARE_VALUE);
    if (value === null) throw this.invalid('a value');
    return value;
  }

  accept(character: string): boolean {
    if (this.text[this.position] !== character) return false;
    this.position += 1;
    return true;
  }

  expect(character: string): void {
    if (!this.accept(character)) throw this.invalid(character);
    this.take(SPACE);
  }

  private take(pattern: RegExp): string | null {
    pattern.lastIndex = this.position;
    const [found] = pattern.exec(this.text) ?? [];
    if (found === undefined) return null;
    this.position += found.length;
    SPACE.lastIndex = this.position;
    this.position += SPACE.exec(this.text)?.[0].length ?? 0;
    return found;
  }

  private unquote(text: string): string {
    try {
      return JSON.parse(text) as string;
    } catch {
      throw this.invalid('a quoted text as Go writes it');
    }
  }

  private invalid(expected: string): LayerdError {
    return new LayerdError(
      'INVALID_ARGUMENT',
      `the filter ${JSON.stringify(this.text)} has something else than ${expected} at ${this.position}`,
      { details: { filter: this.text, position: this.position, expected } },
    );
  }
}
