/** JSON schemas that the type checker holds to the types they describe. */

export type Schema = Record<string, unknown>;

/** Keys of T that may be missing. */
type Optional<T> = { [K in keyof T]-?: object extends Pick<T, K> ? K : never }[keyof T];

/** One schema for every key of T, so that a key added to a type and forgotten here does not compile. */
export type Properties<T> = { [K in keyof Required<T>]: Schema };

/** An object with exactly the keys of T; `optional` lists those that may be missing. */
export function object<T extends object>(properties: Properties<T>, optional: readonly Optional<T>[] = []): Schema {
  const missing = new Set<PropertyKey>(optional);
  const required = Object.keys(properties).filter((key) => !missing.has(key));
  return { type: 'object', additionalProperties: false, properties, ...(required.length > 0 ? { required } : {}) };
}

/** An object that may lack every key of T: options and query strings. */
export function options<T extends object>(properties: Properties<T>): Schema {
  return { type: 'object', additionalProperties: false, properties };
}

export function ref(name: string): Schema {
  return { $ref: `${name}#` };
}

export function list(items: Schema): Schema {
  return { type: 'array', items };
}

export function map(values: Schema): Schema {
  return { type: 'object', additionalProperties: values };
}

export function oneWord(...words: string[]): Schema {
  return { type: 'string', enum: words };
}

export function nullable(schema: Schema & { type: string }): Schema {
  return { ...schema, type: [schema.type, 'null'] };
}

/** The same schema with a sentence on what it means. */
export function about(schema: Schema, description: string): Schema {
  return { ...schema, description };
}

export const text = { type: 'string' } as const;
/** What names a thing: never empty, and bounded. */
export const name = { type: 'string', minLength: 1, maxLength: 512 } as const;
export const yes = { type: 'boolean' } as const;
export const natural = { type: 'integer', minimum: 0 } as const;
export const number = { type: 'number' } as const;
/** Milliseconds since the epoch. */
export const time = { type: 'number', description: 'Milliseconds since the epoch.' } as const;
export const digest = { type: 'string', pattern: '^sha256:[0-9a-f]{64}$' } as const;
export const driver = oneWord('overlay2', 'erofs', 'btrfs', 'copy') as Schema & { type: string };
