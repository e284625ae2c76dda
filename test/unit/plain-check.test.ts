import { Ajv } from 'ajv';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isPlainlyRight } from '../../src/doors/http/plain-check.js';

const SCHEMA = {
  type: 'object',
  additionalProperties: false,
  required: ['name'],
  properties: {
    name: { type: 'string', minLength: 1, maxLength: 5, description: 'Short.' },
    force: { type: 'boolean' },
    fd: { type: 'integer', minimum: 3, maximum: 99 },
    form: { type: 'string', enum: ['docker', 'oci'] },
    digest: { type: 'string', pattern: '^sha256:' },
    list: { type: 'array', items: { type: 'string', minLength: 1 } },
    many: { anyOf: [{ type: 'string' }, { type: 'array', items: { type: 'string' } }] },
  },
};
const NULLABLE = { ...SCHEMA, type: ['object', 'null'] };
const OPEN = { type: 'object', properties: { 'x-fd': { type: 'integer', minimum: 0 } } };

const shared = { allErrors: false, removeAdditional: false, useDefaults: true, allowUnionTypes: true } as const;
const strict = new Ajv(shared);
const converting = new Ajv({ ...shared, coerceTypes: 'array' });

/** What the compiler says, and what it makes of the data. */
function compiled(schema: object, data: object, convert: boolean): { valid: boolean; data: object } {
  const copy = structuredClone(data);
  const valid = (convert ? converting : strict).compile(schema)(copy);
  return { valid, data: copy };
}

const text = fc.oneof(
  fc.constantFrom(
    '',
    'a',
    'docker',
    'true',
    'false',
    '3',
    '42',
    '-1',
    '1e3',
    '0x5',
    '03',
    ' 7',
    '12345678901234567890',
    'sha256:a',
  ),
  fc.string({ maxLength: 7, unit: 'grapheme' }),
);
const value = fc.oneof(
  text,
  fc.boolean(),
  fc.integer({ min: -5, max: 120 }),
  fc.double(),
  fc.constant(null),
  fc.array(text),
);
const keys = ['name', 'force', 'fd', 'form', 'digest', 'list', 'many', 'x-fd', 'other'] as const;
const record = (values: fc.Arbitrary<unknown>): fc.Arbitrary<Record<string, unknown>> =>
  fc.dictionary(fc.constantFrom(...keys), values, { noNullPrototype: true });

describe('the check without the compiler', () => {
  it('takes nothing that the compiler refuses, and makes the same of it', () => {
    const cases = fc.record({
      schema: fc.constantFrom(SCHEMA, NULLABLE, OPEN),
      convert: fc.boolean(),
      data: record(value),
    });
    fc.assert(
      fc.property(cases, ({ schema, convert, data }) => {
        const found = structuredClone(data);
        const right = isPlainlyRight(schema, found, convert);
        const told = compiled(schema, data, convert);
        if (right) expect({ valid: true, data: found }).toEqual(told);
        else expect(found).toEqual(data);
      }),
      { numRuns: 3000 },
    );
  });

  it('takes what usually comes', () => {
    const headers = { host: 'localhost', 'x-fd': '12' };
    expect(isPlainlyRight(OPEN, headers, true)).toBe(true);
    expect(headers).toEqual({ host: 'localhost', 'x-fd': 12 });
    const query = { name: 'a', force: 'true', form: 'oci' };
    expect(isPlainlyRight(SCHEMA, query, true)).toBe(true);
    expect(query).toEqual({ name: 'a', force: true, form: 'oci' });
    expect(isPlainlyRight(SCHEMA, { name: 'a', fd: 5, digest: 'sha256:0' }, false)).toBe(true);
    expect(isPlainlyRight(NULLABLE, { name: 'a', list: ['b', 'c'] }, false)).toBe(true);
  });

  it('leaves to the compiler what it does not understand', () => {
    expect(isPlainlyRight(SCHEMA, { name: 'a', digest: 'md5:' }, false)).toBe(false);
    expect(isPlainlyRight(SCHEMA, { name: 'a', list: [''] }, false)).toBe(false);
    expect(isPlainlyRight(SCHEMA, { name: 'a', many: 'b' }, false)).toBe(false);
    expect(isPlainlyRight({ ...SCHEMA, minProperties: 1 }, { name: 'a' }, false)).toBe(false);
    expect(isPlainlyRight({ type: 'object', properties: { a: { type: 'string', default: 'b' } } }, {}, false)).toBe(
      false,
    );
    expect(isPlainlyRight({ $ref: 'Other#' }, {}, false)).toBe(false);
  });
});
