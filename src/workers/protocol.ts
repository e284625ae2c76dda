/** What the pool and its threads say to each other. */
import type { MessagePort } from 'node:worker_threads';
import type { DriverOptions, EngineConfig } from '../core/engine-config.js';
import type { ErrorBody } from '../core/errors.js';

export interface WorkerSettings {
  root: string;
  run: string;
  driverOptions: DriverOptions;
  limits: EngineConfig['limits'];
}

export type ToWorker = { call: number; job: string; args: unknown; ports: MessagePort[] } | { abort: number };

export type FromWorker =
  { call: number; result: unknown } | { call: number; error: ErrorBody } | { call: number; progress: unknown };
