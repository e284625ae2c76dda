/**
 * How requests are checked and answers written. Bodies are taken as they are; what comes as text (query, path, headers) is
 * converted to the type of its schema. A schema is compiled, and the compiler loaded, when it is first needed: doing all of
 * it at once would take most of the daemon's start. Answers need no compiled serialiser: the type checker holds them to
 * their schemas, and a test does.
 */
import { createRequire } from 'node:module';
import type * as AjvModule from 'ajv';
import type { FastifyInstance, FastifyServerOptions, FastifySchemaCompiler } from 'fastify';
import { invalidRequest } from './errors.js';
import { isPlainlyRight } from './plain-check.js';
import { COMPONENTS } from './words.js';

const require = createRequire(import.meta.url);

interface Validators {
  strict: AjvModule.Ajv;
  converting: AjvModule.Ajv;
}

let loaded: Validators | null = null;

function validators(): Validators {
  if (loaded !== null) return loaded;
  const { Ajv } = require('ajv') as typeof AjvModule;
  const shared = { allErrors: false, removeAdditional: false, useDefaults: true, allowUnionTypes: true } as const;
  loaded = { strict: new Ajv(shared), converting: new Ajv({ ...shared, coerceTypes: 'array' }) };
  return loaded;
}

const compileValidator: FastifySchemaCompiler<Record<string, unknown>> = ({ schema, httpPart = 'body' }) => {
  return (data: unknown) => {
    if (isPlainlyRight(schema, data, httpPart !== 'body')) return { value: data };
    const { strict, converting } = validators();
    const ajv = httpPart === 'body' ? strict : converting;
    const validate = ajv.compile(schema);
    if (validate(data)) return { value: data };
    return { error: invalidRequest((validate.errors ?? []).map((fault) => `${httpPart}${inWords(fault)}`).join(', ')) };
  };
};

/** A fault with what is needed to put it right. */
function inWords({ instancePath, keyword, params, message = '' }: AjvModule.ErrorObject): string {
  const fault = params as Record<string, unknown>;
  if (keyword === 'additionalProperties') {
    return `${instancePath} has the property ${JSON.stringify(fault['additionalProperty'])}, which is not known`;
  }
  if (keyword === 'enum' && Array.isArray(fault['allowedValues'])) {
    return `${instancePath} must be one of ${fault['allowedValues'].join(', ')}`;
  }
  return `${instancePath} ${message}`;
}

const compileSerializer = () => (data: unknown) => JSON.stringify(data);

/** For fastify's options: without it the framework loads compilers of its own, whether they are used or not. */
export const schemaController: NonNullable<FastifyServerOptions['schemaController']> = {
  compilersFactory: { buildValidator: () => compileValidator as never, buildSerializer: () => compileSerializer },
};

/** Makes the words of the API known to schemas of routes. */
export function addComponents(app: FastifyInstance): void {
  for (const [name, schema] of Object.entries(COMPONENTS)) app.addSchema({ $id: name, ...schema });
}
