/** The explicit list of drivers, and how they come together. */
import { LayerdError } from '../src/core/errors.js';
import type { DriverOptions } from '../src/core/engine-config.js';
import type { Places } from '../src/core/places.js';
import type { DriverName } from '../src/core/words.js';
import { btrfsDriver } from './btrfs/driver.js';
import { copyDriver } from './copy/driver.js';
import type { Driver, DriverModule, ProbeResult, StoredLayer } from './driver.js';
import { erofsDriver } from './erofs/driver.js';
import { overlay2Driver } from './overlay2/driver.js';

/** In the order in which `auto` prefers those that it may choose. */
export const DRIVERS: readonly DriverModule[] = [erofsDriver, overlay2Driver, btrfsDriver, copyDriver];

/** Drivers by name; made when first asked for. */
export type Drivers = (name: DriverName) => Driver;

export function createDrivers(places: Places, options: DriverOptions): Drivers {
  const made = new Map<DriverName, Driver>();
  const byName: Drivers = (name) => {
    let driver = made.get(name);
    if (driver === undefined) {
      driver = moduleOf(name).create({
        places,
        options,
        keeperOf: (layer: StoredLayer) => byName(layer.driver).layers,
      });
      made.set(name, driver);
    }
    return driver;
  };
  return byName;
}

export interface ProbedDriver extends ProbeResult {
  name: DriverName;
  /** See DriverModule. */
  auto: boolean;
  overlays: boolean;
  keepsTars: boolean;
}

/** Tries every driver on this machine for these places. */
export function probeDrivers(places: Places, options: DriverOptions): ProbedDriver[] {
  return DRIVERS.map((module) => {
    const { name, auto, overlays, keepsTars } = module;
    return { name, auto, overlays, keepsTars, ...module.probe(places, options) };
  });
}

function moduleOf(name: DriverName): DriverModule {
  const module = DRIVERS.find((candidate) => candidate.name === name);
  if (module !== undefined) return module;
  throw new LayerdError('DRIVER_UNAVAILABLE', `there is no driver named ${name}`, {
    details: { driver: name, known: DRIVERS.map((candidate) => candidate.name) },
    hint: 'Choose one of the known drivers, or auto.',
  });
}
