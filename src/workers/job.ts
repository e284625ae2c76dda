import type { MessagePort } from 'node:worker_threads';
import { LayerdError } from '../core/errors.js';

/** What a job is given beside its arguments. */
export interface JobContext {
  signal: AbortSignal;
  ports: MessagePort[];
  progress(progress: unknown): void;
}

/** The port a job streams through; a job called without it fails clearly. */
export function portOf(context: JobContext): MessagePort {
  const port = context.ports[0];
  if (port === undefined) throw new LayerdError('INTERNAL', 'the job was called without its port');
  return port;
}
