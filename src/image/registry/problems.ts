/** What goes wrong with registries, in words. */
import { isErrno, LayerdError, type ErrorCode, type ErrorDetails } from '../../core/errors.js';

/** Failures that may pass: the same request may succeed later. */
const PASSING = new Set<ErrorCode>(['REGISTRY_UNREACHABLE', 'REGISTRY_LIMITED']);

export function mayPass(error: unknown): error is LayerdError {
  return error instanceof LayerdError && PASSING.has(error.code);
}

/** The connection failed, or was never made. */
export function connectionFailed(host: string, cause: Error): LayerdError {
  if (isTrustFailure(cause)) {
    return new LayerdError(
      'REGISTRY_UNTRUSTED',
      `nobody whom this machine trusts vouches for ${host}: ${cause.message}`,
      {
        details: { registry: host, reason: errnoOf(cause) },
        hint: 'Put the certificate of its authority into HOST:PORT/ca.crt below registry.certificates, or name the registry in registry.insecure.',
        cause,
      },
    );
  }
  // the alerts of TLS that say that what we showed, or did not show, is not enough
  if (/ALERT_(?:CERTIFICATE_REQUIRED|BAD_CERTIFICATE|HANDSHAKE_FAILURE|UNKNOWN_CA)$/.test(errnoOf(cause))) {
    return new LayerdError('REGISTRY_DENIED', `${host} wants to be shown a certificate: ${cause.message}`, {
      details: { registry: host, reason: errnoOf(cause) },
      hint: 'Put it and its key into HOST:PORT/client.cert and HOST:PORT/client.key below registry.certificates.',
      cause,
    });
  }
  return unreachable(host, cause.message, { reason: errnoOf(cause) }, cause);
}

export function unreachable(host: string, what: string, details: ErrorDetails = {}, cause?: unknown): LayerdError {
  return new LayerdError('REGISTRY_UNREACHABLE', `${host} fails: ${what}`, {
    details: { registry: host, ...details },
    hint: 'Is the name right, and the network there?',
    cause,
  });
}

export function cancelled(signal: AbortSignal): LayerdError {
  if (signal.reason instanceof LayerdError) return signal.reason;
  return new LayerdError('CANCELLED', 'the transfer was given up', { cause: signal.reason });
}

/** An answer that the protocol does not allow. */
export function protocolError(host: string, what: string, details: ErrorDetails = {}): LayerdError {
  return new LayerdError('REGISTRY_PROTOCOL', `${host} does not answer as a registry should: ${what}`, {
    details: { registry: host, ...details },
    hint: 'Is it a registry (OCI distribution, or Docker Registry v2), and is nothing between that changes its answers?',
  });
}

/** A status that says no. `said`: the registry's own words. */
export function refused(
  host: string,
  status: number,
  what: string,
  said: string,
  retryAfterMs: number | null,
): LayerdError {
  const { code, hint } = meaningOf(status);
  const words = said === '' ? `status ${status}` : said;
  return new LayerdError(code, `${host} refuses ${what}: ${words}`, {
    details: { registry: host, status, ...(retryAfterMs === null ? {} : { retryAfterMs }) },
    hint,
  });
}

function meaningOf(status: number): { code: ErrorCode; hint: string } {
  if (status === 401 || status === 403) {
    return {
      code: 'REGISTRY_DENIED',
      hint: 'Are the name and the credentials right? Registries often say this of repositories that are not there, too.',
    };
  }
  if (status === 404) return { code: 'REGISTRY_NOT_FOUND', hint: 'Look at the name, the tag and the platform.' };
  if (status === 429) return { code: 'REGISTRY_LIMITED', hint: 'Wait, log in, or use a mirror (registry.mirrors).' };
  if (status === 408 || (status >= 500 && status !== 501)) {
    return { code: 'REGISTRY_UNREACHABLE', hint: 'The registry is in trouble: try again later.' };
  }
  return { code: 'REGISTRY_PROTOCOL', hint: 'The registry does not do what is needed here.' };
}

const TRUST_FAILURES = [
  'CERT_HAS_EXPIRED',
  'CERT_NOT_YET_VALID',
  'CERT_REVOKED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'ERR_TLS_CERT_ALTNAME_INVALID',
  'INVALID_CA',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
];

function isTrustFailure(error: Error): boolean {
  return isErrno(error, ...TRUST_FAILURES);
}

function errnoOf(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? '';
}
