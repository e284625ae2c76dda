import type { EngineConfig } from '../../src/core/engine-config.js';

/** What a victim (victim.ts) is to do. */
export interface Plan {
  config: EngineConfig;
  /** The archive that is loaded, and the ref that it brings. */
  archive: string;
  ref: string;
  operation: Operation;
  /** When to die, counted from the start of the operation; null to live and tell how long it took. */
  delayMs: number | null;
}

export type Operation = 'load' | 'commit' | 'gc' | 'containers';

export const COMMITTED = 'localhost/committed:1';
export const CONTAINER = 'worker';
