import { needsRoot } from '../support.js';
import { loopFileSystem } from './file-system.js';
import { driverSuite } from './suite.js';

driverSuite({ driver: 'btrfs', fileSystem: loopFileSystem('btrfs'), needs: [needsRoot()], scope: 'everything' });
