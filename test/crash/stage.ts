/** What scenes are made of (scenes.ts, door-scenes.ts). */
import type { ErrorCode } from '../../src/core/errors.js';
import type { DriverName } from '../../src/core/words.js';
import type { TestStore } from '../e2e/store.js';
import type { FakeRegistry } from '../registry/fake-registry.js';

/** What a scene works with. */
export interface Stage {
  store: TestStore;
  /** The archive of the image. */
  archive: string;
  driver: DriverName;
  /** Has the image too, as `app:1`; pulls from pulled.example end here. */
  registry: FakeRegistry;
  /** Notes durably that the store answered. */
  ack: (what: string) => void;
}

export interface Scene {
  prepare(stage: Stage): Promise<unknown>;
  /** May be run again after it was done, or half done. */
  run(stage: Stage): Promise<unknown>;
  /** Throws where something is not there that was answered, or that was there before. */
  holds(stage: Stage, answered: ReadonlySet<string>): void | Promise<void>;
  /** What the operation may answer when it is done again, because it was done. */
  already: readonly ErrorCode[];
  /** Leases whose names begin so outlive the process: the operation goes on under them when it is done again. */
  leaves?: string;
}
