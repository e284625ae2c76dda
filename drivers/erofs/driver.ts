import type { Driver, DriverContext, DriverModule } from '../driver.js';
import { ErofsLayers } from './layers.js';
import { probeErofs } from './probe.js';
import { ErofsSnapshots } from './snapshots.js';

/** Layers mounted straight from their tars, snapshots as overlay mounts: Linux with file-backed EROFS, as root. */
export const erofsDriver: DriverModule = {
  name: 'erofs',
  auto: true,
  overlays: true,
  keepsTars: true,
  probe: probeErofs,
  create: (context: DriverContext): Driver => {
    const layers = new ErofsLayers(context.places, context.options.erofs);
    return {
      name: 'erofs',
      properties: {
        positionIndependent: true,
        sharedPageCache: true,
        sizeLimit: false,
        readOnlyViews: true,
        mountInstructions: true,
        renamesLowerDirectories: context.options.overlay.redirectDir,
        hardLinksSurviveCopyUp: false,
        setsAclsOnLayerFiles: false,
        fullFidelity: true,
        maxDepth: Number.MAX_SAFE_INTEGER,
      },
      layers,
      snapshots: new ErofsSnapshots(context, layers.merged),
      trees: layers.merged,
    };
  },
};
