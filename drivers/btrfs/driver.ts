import type { Driver, DriverContext, DriverModule } from '../driver.js';
import { TarLayers } from '../tar-layers.js';
import { linuxTools } from '../trees/tools.js';
import { probeBtrfs } from './probe.js';
import { BtrfsSnapshots } from './snapshots.js';
import { BtrfsTrees } from './trees.js';

/** Layers as tars, a read-only subvolume per chain, a snapshot of it per container: a root on btrfs. */
export const btrfsDriver: DriverModule = {
  name: 'btrfs',
  auto: false,
  overlays: false,
  keepsTars: true,
  probe: probeBtrfs,
  create: createBtrfs,
};

function createBtrfs(context: DriverContext): Driver {
  const trees = new BtrfsTrees('btrfs', context, linuxTools);
  return {
    name: 'btrfs',
    properties: {
      positionIndependent: true,
      sharedPageCache: false,
      sizeLimit: true,
      readOnlyViews: true,
      mountInstructions: true,
      renamesLowerDirectories: true,
      hardLinksSurviveCopyUp: true,
      setsAclsOnLayerFiles: true,
      fullFidelity: true,
      maxDepth: Number.MAX_SAFE_INTEGER,
    },
    layers: new TarLayers({ driver: 'btrfs', places: context.places }),
    snapshots: new BtrfsSnapshots(context, trees, linuxTools),
    trees,
  };
}
