import { OVERLAY_MAX_LOWERS } from '../../src/linux/overlay.js';
import type { Driver, DriverContext, DriverModule } from '../driver.js';
import { OverlaySnapshots } from '../overlay-snapshots.js';
import { Overlay2Layers } from './layers.js';
import { probeOverlay2 } from './probe.js';

/** Layers as extracted directories, snapshots as overlay mounts: any Linux, as root. */
export const overlay2Driver: DriverModule = {
  name: 'overlay2',
  auto: true,
  overlays: true,
  keepsTars: false,
  probe: probeOverlay2,
  create: (context: DriverContext): Driver => ({
    name: 'overlay2',
    properties: {
      positionIndependent: true,
      sharedPageCache: true,
      sizeLimit: false,
      readOnlyViews: true,
      mountInstructions: true,
      renamesLowerDirectories: context.options.overlay.redirectDir,
      hardLinksSurviveCopyUp: false,
      setsAclsOnLayerFiles: true,
      fullFidelity: true,
      maxDepth: OVERLAY_MAX_LOWERS,
    },
    layers: new Overlay2Layers(context.places),
    snapshots: new OverlaySnapshots(context),
    trees: null,
  }),
};
