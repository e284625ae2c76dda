/** What the tests of registries share: a store, a fake registry, images that can be told from each other. */
import { randomBytes } from 'node:crypto';
import { DEFAULT_ENGINE_CONFIG, type RegistryConfig } from '../../src/core/engine-config.js';
import { LayerdError } from '../../src/core/errors.js';
import type { Progress, PullResult, PushResult } from '../../src/core/words.js';
import type { PullOptions, PushOptions } from '../../src/core/api.js';
import { never, TestStore } from '../e2e/store.js';
import { testImage, testLayer, type TestImage, type TestLayer } from '../unit/image-synthetic.js';
import { FakeRegistry } from './fake-registry.js';

/** Impatient, so that what is waited out is waited out at once; nothing of the tester's own is looked at. */
export const IMPATIENT: RegistryConfig = {
  ...DEFAULT_ENGINE_CONFIG.registry,
  credentialsFile: null,
  certificates: null,
  retries: 3,
  retryDelayMs: 1,
  stallMs: 10_000,
};

export interface Rig {
  registry: FakeRegistry;
  store: TestStore;
  pull: (
    ref: string,
    options?: PullOptions,
    watch?: { progress?: Progress[]; signal?: AbortSignal },
  ) => Promise<PullResult>;
  push: (name: string, options?: PushOptions, watch?: { progress?: Progress[] }) => Promise<PushResult>;
}

/** Runs `work` with a fresh store (of the driver that needs nothing) and a fresh registry. */
export async function withRig(work: (rig: Rig) => Promise<void>, change: Partial<RegistryConfig> = {}): Promise<void> {
  const registry = await FakeRegistry.start();
  const config = { ...IMPATIENT, ...change };
  const store = await TestStore.open({ driver: 'copy', registry: config });
  try {
    await work({
      registry,
      store,
      pull: (ref, options = {}, { progress = [], signal = never } = {}) =>
        store.engine.pull(ref, options, (step) => void progress.push(step), signal),
      push: (name, options = {}, { progress = [] } = {}) =>
        store.engine.push(name, options, (step) => void progress.push(step), never),
    });
  } finally {
    await store.remove();
    await registry.close();
  }
}

/** A layer of random bytes: what cannot be compressed has many places to break at. */
export function bigLayer(bytes = 3 * 1024 * 1024): TestLayer {
  return testLayer(randomBytes(bytes / 2).toString('hex'), false);
}

/** An image with a large layer between small ones, compressed and not. */
export function someImage(): TestImage {
  return testImage([testLayer(`base ${randomBytes(8).toString('hex')}`, true), bigLayer(), testLayer('top', true)]);
}

export async function failureOf(promise: Promise<unknown>): Promise<LayerdError> {
  const thrown: unknown = await promise.then(
    () => null,
    (error: unknown) => error,
  );
  if (thrown instanceof LayerdError) return thrown;
  throw new Error(`expected a LayerdError, got ${String(thrown)}`);
}
