/** Errors as HTTP answers: the status follows from the kind, the body is the error's own. */
import type { FastifyError } from 'fastify';
import { LayerdError, toLayerdError, type ErrorKind } from '../../core/errors.js';

const STATUS: Record<ErrorKind, number> = {
  invalid: 400,
  denied: 403,
  not_found: 404,
  exists: 409,
  precondition: 409,
  busy: 503,
  exhausted: 507,
  unsupported: 501,
  data_loss: 500,
  // nginx's word for a request that its client gave up; nobody is left to read it
  cancelled: 499,
  internal: 500,
};

/** Every status that an error can have, for the OpenAPI document. */
export const ERROR_STATUSES: readonly number[] = [...new Set(Object.values(STATUS))].sort((a, b) => a - b);

export function statusOf(error: LayerdError): number {
  return STATUS[error.kind];
}

/** Whatever a handler or the framework threw, as a LayerdError. */
export function requestError(thrown: unknown): LayerdError {
  if (thrown instanceof LayerdError) return thrown;
  if (isFastifyError(thrown))
    return thrown.statusCode === 415 ? notJson(thrown) : invalidRequest(thrown.message, thrown);
  return toLayerdError(thrown);
}

/** A request that does not fit its schema. */
export function invalidRequest(message: string, cause?: FastifyError): LayerdError {
  return new LayerdError('INVALID_ARGUMENT', message, {
    details: cause === undefined ? {} : { reason: cause.code },
    hint: 'GET /v1/openapi.json describes every request.',
    cause,
  });
}

/** A body of a type that the route does not take. */
function notJson(cause: FastifyError): LayerdError {
  return new LayerdError('INVALID_ARGUMENT', 'the body is not said to be JSON', {
    details: { reason: cause.code },
    hint: 'Send it with the header content-type: application/json. Archives go to POST /v1/images/load, with any type.',
    cause,
  });
}

/** Errors of the framework about the request itself: they carry a status below 500. */
function isFastifyError(thrown: unknown): thrown is FastifyError {
  if (!(thrown instanceof Error)) return false;
  const { code, statusCode } = thrown as Partial<FastifyError>;
  return typeof code === 'string' && statusCode !== undefined && statusCode < 500;
}

export function routeNotFound(method: string, url: string): LayerdError {
  return new LayerdError('ROUTE_NOT_FOUND', `there is no ${method} ${url.split('?')[0] ?? url}`, {
    hint: 'GET /v1/openapi.json lists every route. Names that contain a slash stand URL-encoded in a path.',
  });
}
