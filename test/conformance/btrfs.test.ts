import { createDrivers } from '../../drivers/index.js';
import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import { loopFileSystem } from './file-system.js';
import { driverSuite } from './suite.js';

driverSuite({
  driver: 'btrfs',
  makeDrivers: (places) => createDrivers(places, DEFAULT_ENGINE_CONFIG.driverOptions),
  fileSystem: loopFileSystem('btrfs'),
});
