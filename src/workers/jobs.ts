/**
 * What worker threads do: the calls of drivers and content, by name. Arguments and results are structured-cloneable;
 * bytes go through ports. This is the only file that joins drivers to threads.
 */
import { createDrivers, probeDrivers } from '../../drivers/index.js';
import { Places } from '../core/places.js';
import { layerJobs } from './layer-jobs.js';
import { snapshotJobs } from './snapshot-jobs.js';
import { diskJobs } from './disk-jobs.js';
import type { WorkerSettings } from './protocol.js';

/** Makes the jobs of one thread, with drivers of its own. */
export function createJobs(settings: WorkerSettings) {
  const places = new Places(settings.root, settings.run);
  const drivers = createDrivers(places, settings.driverOptions);
  return {
    ...layerJobs(drivers, places, settings.limits),
    ...snapshotJobs(drivers, places),
    ...diskJobs(drivers, places),

    /** Tries every driver on this machine. */
    'drivers.probe': async () => probeDrivers(places, settings.driverOptions),
  };
}

type Jobs = ReturnType<typeof createJobs>;
export type JobName = keyof Jobs;
export type JobArgs<K extends JobName> = Parameters<Jobs[K]>[0];
export type JobResult<K extends JobName> = Awaited<ReturnType<Jobs[K]>>;
