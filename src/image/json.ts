/**
 * JSON that comes from outside: parsed within limits, then read field by field, so that every complaint names the
 * document and the field. The bytes stay as they are: what a reader does not know is kept with them.
 */
import { isDigest, type Digest } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import { LIMITS } from '../core/limits.js';

/** What JSON.parse makes of an object. */
export type JsonObject = { readonly [name: string]: unknown };

const strictUtf8 = new TextDecoder('utf-8', { fatal: true });

/** Parses one document; `name` stands for it in errors. Throws MANIFEST_INVALID. */
export function parseJson(name: string, bytes: Uint8Array): Field {
  if (bytes.byteLength > LIMITS.jsonDocument) throw documentTooLarge(name, bytes.byteLength);
  const depth = nesting(bytes);
  if (depth > LIMITS.jsonDepth) {
    throw manifestInvalid(name, '', `nested at most ${LIMITS.jsonDepth} deep`, `nested ${depth} deep`);
  }
  try {
    return new Field(name, '', JSON.parse(strictUtf8.decode(bytes)));
  } catch (error) {
    const found = error instanceof SyntaxError ? error.message : 'bytes that are not UTF-8';
    throw manifestInvalid(name, '', 'JSON', found);
  }
}

export function documentTooLarge(name: string, size: number): LayerdError {
  return manifestInvalid(name, '', `at most ${LIMITS.jsonDocument} bytes`, `${size} bytes`);
}

export function manifestInvalid(document: string, field: string, expected: string, found: string): LayerdError {
  const place = field === '' ? document : `${field} of ${document}`;
  return new LayerdError('MANIFEST_INVALID', `${place} is not valid: expected ${expected}, found ${found}`, {
    details: { document, field, expected, found },
    hint: 'The document is broken or of another kind: make the archive again with the tool that made it.',
  });
}

/** A value in a document, with the way that led to it. Null counts as absent, as Go's encoder writes empty lists. */
export class Field {
  readonly document: string;
  readonly path: string;
  readonly value: unknown;

  constructor(document: string, path: string, value: unknown) {
    this.document = document;
    this.path = path;
    this.value = value;
  }

  get present(): boolean {
    return this.value !== undefined && this.value !== null;
  }

  /** The field `name` of this object; it may be absent. */
  at(name: string): Field {
    const object = this.object();
    const path = this.path === '' ? name : `${this.path}.${name}`;
    return new Field(this.document, path, Object.hasOwn(object, name) ? object[name] : undefined);
  }

  object(): JsonObject {
    if (typeof this.value === 'object' && this.value !== null && !Array.isArray(this.value)) {
      return this.value as JsonObject;
    }
    throw this.wrong('an object');
  }

  /** The elements of this list; none if it is absent. */
  items(limit: number = LIMITS.descriptors): Field[] {
    if (!this.present) return [];
    if (!Array.isArray(this.value)) throw this.wrong('a list');
    const values: unknown[] = this.value;
    if (values.length > limit) throw this.wrong(`at most ${limit} elements`, `${values.length}`);
    return values.map((value, index) => new Field(this.document, `${this.path}[${index}]`, value));
  }

  /** The values of this object by name; none if it is absent. */
  entries(): [string, Field][] {
    if (!this.present) return [];
    return Object.keys(this.object()).map((name) => [name, this.at(name)]);
  }

  text(): string {
    if (typeof this.value === 'string') return this.value;
    throw this.wrong('a string');
  }

  optionalText(): string | undefined {
    return this.present ? this.text() : undefined;
  }

  optionalFlag(): boolean {
    if (!this.present) return false;
    if (typeof this.value === 'boolean') return this.value;
    throw this.wrong('true or false');
  }

  texts(): string[] {
    return this.items().map((item) => item.text());
  }

  optionalTexts(): string[] | undefined {
    return this.present ? this.texts() : undefined;
  }

  /** An object of strings. */
  textMap(): Record<string, string> {
    return Object.fromEntries(this.entries().map(([name, field]) => [name, field.text()]));
  }

  size(): number {
    if (typeof this.value === 'number' && Number.isSafeInteger(this.value) && this.value >= 0) return this.value;
    throw this.wrong('a size in bytes');
  }

  digest(): Digest {
    const text = this.text();
    if (isDigest(text)) return text;
    throw this.wrong('a sha256 digest');
  }

  /** The complaint about this field. */
  wrong(expected: string, found = describe(this.value)): LayerdError {
    return manifestInvalid(this.document, this.path, expected, found);
  }
}

function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  const text = JSON.stringify(value);
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN = new Set([0x5b, 0x7b]);
const CLOSE = new Set([0x5d, 0x7d]);

/** How deep brackets nest outside of strings: told from the bytes, before anything is built from them. */
function nesting(bytes: Uint8Array): number {
  let depth = 0;
  let deepest = 0;
  let inString = false;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i] as number;
    if (inString) {
      if (byte === BACKSLASH) i++;
      else if (byte === QUOTE) inString = false;
    } else if (byte === QUOTE) inString = true;
    else if (OPEN.has(byte)) deepest = Math.max(deepest, ++depth);
    else if (CLOSE.has(byte)) depth--;
  }
  return deepest;
}
