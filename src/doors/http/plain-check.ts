/**
 * The check that nearly every request passes, without the schema compiler, which takes a tenth of a second to load: flat
 * objects of texts, numbers, truths and lists of them that are right. Whatever else comes is the compiler's to judge, and to
 * put in words.
 */
import type { Schema } from './schema.js';

/** Words of a schema that are understood here; with any other the compiler is asked. */
const UNDERSTOOD = new Set([
  'type',
  'description',
  'enum',
  'minLength',
  'maxLength',
  'minimum',
  'maximum',
  'pattern',
  'items',
]);
const WHOLE = /^(?:0|[1-9]\d{0,14})$/;

type Fields = Record<string, unknown>;

/**
 * Whether `data` is what `schema` asks for, for sure; false also where it takes more to tell. `convert`: values came as
 * text, and those that are right take the type that the schema gives them, in place.
 */
export function isPlainlyRight(schema: Schema, data: unknown, convert: boolean): boolean {
  if (!isFields(data) || !mayBeObject(schema) || !isFields(schema['properties'])) return false;
  const { properties, required = [], additionalProperties = true, ...others } = schema as ObjectSchema;
  if (Object.keys(others).some((word) => word !== 'type' && word !== 'description')) return false;
  if (required.some((key) => !Object.hasOwn(data, key)) || typeof additionalProperties !== 'boolean') return false;
  const values = new Map<string, unknown>();
  for (const [key, value] of Object.entries(data)) {
    const property = Object.hasOwn(properties, key) ? properties[key] : undefined;
    if (property === undefined && !additionalProperties) return false;
    if (property === undefined) continue;
    const right = convert ? converted(property, value) : value;
    if (!isRight(property, right)) return false;
    values.set(key, right);
  }
  if (Object.values(properties).some((property) => 'default' in property)) return false;
  for (const [key, value] of values) data[key] = value;
  return true;
}

interface ObjectSchema extends Schema {
  properties: Record<string, Schema>;
  required?: string[];
  additionalProperties?: unknown;
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function mayBeObject({ type }: Schema): boolean {
  return type === 'object' || (Array.isArray(type) && type.includes('object'));
}

function converted({ type }: Schema, value: unknown): unknown {
  if (typeof value !== 'string') return undefined;
  if (type === 'integer') return WHOLE.test(value) ? Number(value) : undefined;
  if (type === 'boolean') return value === 'true' ? true : value === 'false' ? false : undefined;
  return value;
}

function isRight(schema: Schema, value: unknown): boolean {
  if (!Object.keys(schema).every((word) => UNDERSTOOD.has(word))) return false;
  const { type, minimum = -Infinity, maximum = Infinity, minLength = 0, maxLength = Infinity } = schema as Bounds;
  const { items, pattern } = schema as Bounds;
  const words: unknown = schema['enum'];
  if (words !== undefined && !(Array.isArray(words) && words.includes(value))) return false;
  if (type === 'boolean') return typeof value === 'boolean';
  if (type === 'integer')
    return Number.isSafeInteger(value) && (value as number) >= minimum && (value as number) <= maximum;
  if (type === 'array')
    return Array.isArray(value) && items !== undefined && value.every((item: unknown) => isRight(items, item));
  // a schema counts characters, which are at most as many as these, and more than none if there is any
  return (
    type === 'string' &&
    typeof value === 'string' &&
    value.length <= maxLength &&
    (minLength === 0 || (minLength === 1 && value.length > 0)) &&
    (pattern === undefined || new RegExp(pattern, 'u').test(value))
  );
}

interface Bounds {
  type?: unknown;
  items?: Schema;
  pattern?: string;
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
}
