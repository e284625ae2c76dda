/** The verbs of docker.graphdriver/1.0 that are JSON both ways, by name. Field names are Docker's. */
import type { Change } from '../../core/words.js';
import type { GraphDriver } from './graph-driver.js';

/** Everything that dockerd may say; a verb uses some of it. Go writes null for what is empty. */
export interface VerbRequest {
  ID?: string;
  Parent?: string;
  MountLabel?: string;
  StorageOpt?: Record<string, string> | null;
  Opts?: string[] | null;
  UIDMaps?: unknown[] | null;
  GIDMaps?: unknown[] | null;
}

type Verb = (driver: GraphDriver, request: VerbRequest, signal: AbortSignal) => Promise<object>;

const KINDS = { C: 0, A: 1, D: 2 } as const;

export const VERBS: Record<string, Verb> = {
  Init: async (driver, { Opts: options, UIDMaps: users, GIDMaps: groups }) => {
    const remapped = (users?.length ?? 0) + (groups?.length ?? 0) > 0;
    await driver.init({ options: options ?? [], remapped });
    return {};
  },
  // Diff gives the bytes that ApplyDiff took, so dockerd need not keep its own record of every tar.
  Capabilities: async () => ({ Capabilities: { ReproducesExactDiffs: true } }),
  Create: async (driver, request) => {
    await driver.create(createRequest(request), 'layer');
    return {};
  },
  CreateReadWrite: async (driver, request) => {
    await driver.create(createRequest(request), 'container');
    return {};
  },
  Remove: async (driver, { ID: id = '' }) => {
    await driver.remove(id);
    return {};
  },
  Get: async (driver, { ID: id = '', MountLabel: label = '' }) => ({ Dir: await driver.get(id, label) }),
  Put: async (driver, { ID: id = '' }) => {
    await driver.put(id);
    return {};
  },
  Exists: async (driver, { ID: id = '' }) => ({ Exists: driver.exists(id) }),
  Status: async (driver) => ({ Status: await driver.status() }),
  GetMetadata: async (driver, { ID: id = '' }) => ({ Metadata: driver.metadata(id) }),
  // dockerd stops: what is mounted for containers that live on stays.
  Cleanup: async () => ({}),
  Changes: async (driver, { ID: id = '', Parent: parent = '' }, signal) => {
    const changes: Change[] = [];
    for await (const batch of driver.changes(id, parent, signal)) changes.push(...batch);
    return { Changes: changes.map(({ kind, path }) => ({ Path: path, Kind: KINDS[kind] })) };
  },
  DiffSize: async (driver, { ID: id = '', Parent: parent = '' }) => ({ Size: await driver.diffSize(id, parent) }),
};

/** Those that speak of the driver, or of all snapshots. */
export const WITHOUT_ID: ReadonlySet<string> = new Set(['Init', 'Capabilities', 'Status', 'Cleanup']);

function createRequest(request: VerbRequest) {
  const { ID: id = '', Parent: parent = '', MountLabel: mountLabel = '', StorageOpt: storageOptions } = request;
  return { id, parent, mountLabel, storageOptions: storageOptions ?? {} };
}
