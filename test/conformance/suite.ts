/**
 * What every driver promises (drivers/driver.ts), as tests. They go by the properties that a driver declares, never by its
 * name. Trees are read by a program that shares nothing with layerd; what they should be says a plain model of the image
 * specification, or a plain directory in which the same things were done.
 */
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest';
import { DEFAULT_ENGINE_CONFIG, type DriverOptions } from '../../src/core/engine-config.js';
import type { DriverName } from '../../src/core/words.js';
import { describeWith, needsProgram, type Prerequisite } from '../support.js';
import type { FileSystem } from './file-system.js';
import { concurrencyPart } from './parts/concurrency.js';
import { damagePart } from './parts/damage.js';
import { editsPart } from './parts/edits.js';
import { limitsPart } from './parts/limits.js';
import { mixedPart } from './parts/mixed.js';
import { mountsPart, ODD_ROOT, oddRootPart } from './parts/mounts.js';
import { randomPart } from './parts/random.js';
import { removalPart } from './parts/removal.js';
import { stacksPart } from './parts/stacks.js';
import { sparsePart, tarsPart } from './parts/tars.js';
import { Rig } from './rig.js';

export interface SuiteOptions {
  driver: DriverName;
  fileSystem: FileSystem;
  /** Without these the default ones. */
  options?: DriverOptions;
  /** Shown beside the driver's name, where there are several ways. */
  way?: string;
  needs?: Prerequisite[];
  scope: Scope;
}

/** Everything; what depends on the file system; or what depends on the way in which containers are mounted. */
export type Scope = 'everything' | 'file system' | 'way';

/** Gives the rig of the running test. */
export type UseRig = () => Rig;

const PROGRAMS = [
  needsProgram('python3'),
  needsProgram('setfattr', 'attr'),
  needsProgram('setfacl', 'acl'),
  needsProgram('setcap', 'libcap2-bin'),
];

/** The parts of the suite, and the scopes that each is for. */
const PARTS: readonly [part: (rig: UseRig) => void, ...scopes: Scope[]][] = [
  [stacksPart, 'file system'],
  [editsPart, 'file system', 'way'],
  [sparsePart, 'file system'],
  [mountsPart, 'file system', 'way'],
  [removalPart, 'file system'],
  [concurrencyPart, 'file system'],
  [tarsPart],
  [limitsPart],
  [mixedPart],
  [damagePart],
  [randomPart],
];

export function driverSuite(suite: SuiteOptions): void {
  const { driver, fileSystem, way = '', needs = [], scope } = suite;
  const all = [...needs, ...fileSystem.needs, ...PROGRAMS];
  describeWith(`${driver}${way} on ${fileSystem.name}`, all, () => {
    const rig = useRig(suite, '');
    for (const [part, ...scopes] of PARTS) if (scope === 'everything' || scopes.includes(scope)) part(rig);
  });
  if (scope !== 'everything') return;
  describeWith(`${driver}${way} on ${fileSystem.name}, below a root of an odd name`, all, () => {
    oddRootPart(useRig(suite, ODD_ROOT));
  });
}

/** A fresh rig for every test, in a directory below `base`. */
function useRig({ driver, options, fileSystem }: SuiteOptions, base: string): UseRig {
  let place: ReturnType<FileSystem['make']> | null = null;
  let rig: Rig | null = null;
  let tests = 0;
  beforeAll(() => {
    place = fileSystem.make();
  });
  afterAll(() => place?.dispose());
  beforeEach(() => {
    tests += 1;
    rig = new Rig(join(place?.path ?? '', base, `${tests}`), driver, options ?? DEFAULT_ENGINE_CONFIG.driverOptions);
  });
  afterEach(() => {
    rig?.dispose();
    rig = null;
  });
  return () => {
    if (rig === null) throw new Error('a rig is there inside a test only');
    return rig;
  };
}
