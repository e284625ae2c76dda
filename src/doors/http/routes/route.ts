/** What the definitions of routes share. */
import type { FastifySchema } from 'fastify';
import { ERROR_STATUSES } from '../errors.js';
import { ref, type Schema } from '../schema.js';

/** The schema of a route: `answer` is the JSON of its success, and every route may answer an Error. */
export function route(
  summary: string,
  parts: { tag: string; answer?: Schema; status?: number } & FastifySchema,
): FastifySchema {
  const { tag, answer, status = 200, response, ...rest } = parts;
  return {
    summary,
    tags: [tag],
    ...rest,
    response: { ...errors, ...(answer === undefined ? {} : { [status]: answer }), ...(response as object | undefined) },
  };
}

const errors = Object.fromEntries(ERROR_STATUSES.map((status) => [status, ref('Error')]));

/** A success whose body streams. */
export function streams(contentType: string, description: string, schema: Schema): Schema {
  return { 200: { description, content: { [contentType]: { schema } } } };
}

/** Lines of a long operation: progress, then one result or error. */
export function streamLine(result: string): Schema {
  return {
    oneOf: [
      { type: 'object', required: ['progress'], properties: { progress: ref('Progress') } },
      { type: 'object', required: ['result'], properties: { result: ref(result) } },
      { type: 'object', required: ['error'], properties: { error: ref('Error') } },
    ],
  };
}

export const binary: Schema = { type: 'string', format: 'binary' };
