/** The public face of the client: `import { LayerdClient } from 'layerd/client'`. */
export { DEFAULT_SOCKET, LayerdClient, type ClientOptions, type Watch } from './client.js';
export { LayerdError, type ErrorBody, type ErrorCode, type ErrorKind } from '../core/errors.js';
export type { LoadOptions, OnProgress, SaveOptions } from '../core/api.js';
export type { Digest } from '../core/digest.js';
export type * from '../core/words.js';
