/**
 * What every driver promises (drivers/driver.ts), as tests. They go by the properties that a driver declares, never by its
 * name. Trees are read by a program that shares nothing with layerd; what they should be says a plain model of the image
 * specification, or a plain directory in which the same things were done.
 */
import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest';
import type { Drivers } from '../../drivers/index.js';
import type { Places } from '../../src/core/places.js';
import type { DriverName } from '../../src/core/words.js';
import { describeWith, needsProgram, type Prerequisite } from '../support.js';
import type { FileSystem } from './file-system.js';
import { Rig } from './rig.js';
import { editsPart } from './parts/edits.js';
import { stacksPart } from './parts/stacks.js';

export interface SuiteOptions {
  /** The driver, and how it comes together with the others. */
  driver: DriverName;
  makeDrivers: (places: Places) => Drivers;
  fileSystem: FileSystem;
  needs?: Prerequisite[];
  /** Shown beside the driver's name. */
  way?: string;
}

/** Gives the rig of the running test. */
export type UseRig = () => Rig;

export function driverSuite(options: SuiteOptions): void {
  const { driver, fileSystem, way = '', needs = [] } = options;
  const programs = [needsProgram('python3'), needsProgram('setfattr', 'attr')];
  describeWith(`${driver}${way} on ${fileSystem.name}`, [...needs, ...fileSystem.needs, ...programs], () => {
    const rig = useRig(options);
    stacksPart(rig);
    editsPart(rig);
  });
}

function useRig({ driver, makeDrivers, fileSystem }: SuiteOptions): UseRig {
  let place: ReturnType<FileSystem['make']> | null = null;
  let rig: Rig | null = null;
  let tests = 0;
  beforeAll(() => {
    place = fileSystem.make();
  });
  afterAll(() => place?.dispose());
  beforeEach(() => {
    tests += 1;
    rig = new Rig(`${place?.path}/${tests}`, driver, makeDrivers);
  });
  afterEach(() => rig?.dispose());
  return () => {
    if (rig === null) throw new Error('a rig is there inside a test only');
    return rig;
  };
}
