import { needsRoot } from '../support.js';
import { loopFileSystem } from './file-system.js';
import { driverSuite } from './suite.js';

driverSuite({ driver: 'erofs', fileSystem: loopFileSystem('ext4'), needs: [needsRoot()], thorough: true });
driverSuite({ driver: 'erofs', fileSystem: loopFileSystem('xfs'), needs: [needsRoot()], thorough: false });
driverSuite({ driver: 'erofs', fileSystem: loopFileSystem('btrfs'), needs: [needsRoot()], thorough: false });
