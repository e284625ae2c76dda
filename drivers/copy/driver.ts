import type { Places } from '../../src/core/places.js';
import type { DriverOptions } from '../../src/core/engine-config.js';
import { canClone } from '../../src/linux/features.js';
import { linuxAvailable } from '../../src/linux/libc.js';
import type { Driver, DriverContext, DriverModule, ProbeResult } from '../driver.js';
import { probeBelow } from '../probing.js';
import { TarLayers } from '../tar-layers.js';
import { linuxTools, nodeTools } from '../trees/tools.js';
import { CopySnapshots } from './snapshots.js';
import { CopyTrees } from './trees.js';

/** Layers as tars, a tree per chain, a clone of it per container: everywhere. */
export const copyDriver: DriverModule = {
  name: 'copy',
  auto: true,
  overlays: false,
  keepsTars: true,
  probe: probeCopy,
  create: createCopy,
};

function createCopy(context: DriverContext): Driver {
  const ffi = usesFfi(context.options);
  const tools = ffi ? linuxTools : nodeTools;
  const trees = new CopyTrees('copy', context, tools);
  return {
    name: 'copy',
    properties: {
      positionIndependent: true,
      sharedPageCache: false,
      sizeLimit: false,
      readOnlyViews: ffi,
      mountInstructions: ffi,
      renamesLowerDirectories: true,
      hardLinksSurviveCopyUp: true,
      setsAclsOnLayerFiles: true,
      fullFidelity: ffi,
      maxDepth: Number.MAX_SAFE_INTEGER,
    },
    layers: new TarLayers({ driver: 'copy', places: context.places }),
    snapshots: new CopySnapshots(context, trees, tools),
    trees,
  };
}

function probeCopy(places: Places, options: DriverOptions): ProbeResult {
  if (!usesFfi(options)) {
    return { available: true, reason: 'by Node alone: what cannot be set on disk is kept in the catalogs' };
  }
  return probeBelow(places, (directory) => {
    const how = canClone(directory) ? 'files share their blocks until they are written' : 'every file is copied';
    return `with every attribute, as root; ${how}`;
  });
}

/** Every attribute can be set: root on Linux, with system calls of our own. */
function usesFfi(options: DriverOptions): boolean {
  return options.copy.useFfi && process.getuid?.() === 0 && linuxAvailable().available;
}
