import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import { needsRoot } from '../support.js';
import { loopFileSystem } from './file-system.js';
import { driverSuite } from './suite.js';

driverSuite({ driver: 'overlay2', fileSystem: loopFileSystem('ext4'), needs: [needsRoot()], scope: 'everything' });
driverSuite({ driver: 'overlay2', fileSystem: loopFileSystem('xfs'), needs: [needsRoot()], scope: 'file system' });
driverSuite({ driver: 'overlay2', fileSystem: loopFileSystem('btrfs'), needs: [needsRoot()], scope: 'file system' });

const { driverOptions } = DEFAULT_ENGINE_CONFIG;
driverSuite({
  driver: 'overlay2',
  way: ' without redirect_dir, with xino',
  options: { ...driverOptions, overlay: { ...driverOptions.overlay, xino: 'on', redirectDir: false } },
  fileSystem: loopFileSystem('ext4'),
  needs: [needsRoot()],
  scope: 'way',
});
