import { needsRoot } from '../support.js';
import { loopFileSystem } from './file-system.js';
import { driverSuite } from './suite.js';

driverSuite({ driver: 'copy', fileSystem: loopFileSystem('ext4'), needs: [needsRoot()], scope: 'everything' });
driverSuite({ driver: 'copy', fileSystem: loopFileSystem('xfs'), needs: [needsRoot()], scope: 'file system' });
driverSuite({ driver: 'copy', fileSystem: loopFileSystem('btrfs'), needs: [needsRoot()], scope: 'file system' });
