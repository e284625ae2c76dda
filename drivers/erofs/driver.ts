import { OVERLAY_MAX_LOWERS } from '../../src/linux/overlay.js';
import type { Driver, DriverContext, DriverModule } from '../driver.js';
import { OverlaySnapshots } from '../overlay-snapshots.js';
import { ErofsLayers } from './layers.js';
import { probeErofs } from './probe.js';

/** Layers mounted straight from their tars, snapshots as overlay mounts: Linux with file-backed EROFS, as root. */
export const erofsDriver: DriverModule = {
  name: 'erofs',
  auto: true,
  probe: probeErofs,
  create: (context: DriverContext): Driver => ({
    name: 'erofs',
    properties: {
      positionIndependent: true,
      sharedPageCache: true,
      sizeLimit: false,
      mountInstructions: true,
      renamesLowerDirectories: context.options.overlay.redirectDir,
      hardLinksSurviveCopyUp: context.options.overlay.index,
      fullFidelity: true,
      maxDepth: OVERLAY_MAX_LOWERS,
    },
    layers: new ErofsLayers(context.places, context.options.erofs),
    snapshots: new OverlaySnapshots(context),
    trees: null,
  }),
};
