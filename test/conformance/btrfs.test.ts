import { createDrivers } from '../../drivers/index.js';
import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import { needsRoot } from '../support.js';
import { loopFileSystem } from './file-system.js';
import { driverSuite } from './suite.js';

for (const fileSystem of [loopFileSystem('btrfs')]) {
  driverSuite({
    driver: 'btrfs',
    makeDrivers: (places) => createDrivers(places, DEFAULT_ENGINE_CONFIG.driverOptions),
    fileSystem,
    needs: [needsRoot()],
  });
}
