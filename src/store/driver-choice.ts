/** Which driver new layers and containers get, and why. */
import type { ProbedDriver } from '../../drivers/index.js';
import type { EngineConfig } from '../core/engine-config.js';
import { LayerdError } from '../core/errors.js';
import type * as words from '../core/words.js';

/** How the driver came to be chosen. */
export interface DriverChoice {
  driver: words.DriverName;
  reason: string;
  probes: words.Info['drivers'];
}

/** `noted`: the driver that the store was migrated to, which is what `auto` means from then on, while it works. */
export function chooseDriver(
  config: Pick<EngineConfig, 'driver'>,
  probes: readonly ProbedDriver[],
  noted: string | null,
): DriverChoice {
  const migrated = probes.find(({ available, name }) => available && name === noted);
  const best = migrated ?? probes.find(({ available, auto }) => available && auto);
  const wanted = requireDriver(
    config.driver,
    config.driver === 'auto' ? best : probes.find((probe) => probe.name === config.driver),
  );
  const gone = noted === null ? '' : ` (${noted}, to which the store was migrated, does not)`;
  const chosen = migrated === undefined ? `the best that works here${gone}` : 'the store was migrated to it';
  const how = config.driver === 'auto' ? chosen : 'configured';
  return {
    driver: wanted.name,
    reason: `${how}: ${wanted.reason}`,
    probes: probes.map(({ name, available, reason }) => ({ name, available, reason })),
  };
}

/** Throws DRIVER_UNAVAILABLE. */
export function requireDriver(asked: EngineConfig['driver'], probed: ProbedDriver | undefined): ProbedDriver {
  if (probed?.available === true) return probed;
  const reason = probed?.reason ?? 'no driver works here';
  throw new LayerdError('DRIVER_UNAVAILABLE', `the driver ${asked} cannot be used here: ${reason}`, {
    details: { driver: asked },
    hint: 'Choose another: copy runs anywhere, and a daemon that starts with the driver auto takes the best that works.',
  });
}

/** Which driver a store that was migrated uses for what is new, now and from its next start on, in words. */
export function afterRestart(configured: EngineConfig['driver'], to: words.DriverName): string {
  const now = `what is new uses ${to} from now on`;
  if (configured === to) return `${now}, and after a restart: it is configured`;
  if (configured === 'auto') return `${now}, and after a restart: driver = "auto" follows the last migration`;
  return `${now}, and after a restart ${configured}, since that is configured: set driver = "${to}" or "auto"`;
}
