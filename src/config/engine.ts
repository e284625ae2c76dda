import type { EngineConfig } from '../core/engine-config.js';
import type { Settings } from './settings.js';

/** The engine's part of the settings. */
export function engineConfigOf(settings: Settings): EngineConfig {
  return {
    root: settings.root,
    run: settings.run,
    driver: settings.driver,
    driverOptions: {
      overlay: {
        xino: settings['overlay.xino'],
        redirectDir: settings['overlay.redirect_dir'],
      },
      copy: { useFfi: settings['copy.use_ffi'] },
      erofs: { directio: settings['erofs.directio'] },
    },
    keepBlobs: settings.keep_blobs,
    gc: { intervalMs: settings['gc.interval'], graceMs: settings['gc.grace'] },
    events: { maxRows: settings['events.max'] },
    limits: { layerEntries: settings['limits.layer_entries'], layerBytes: settings['limits.layer_size'] },
    workers: {
      short: settings['workers.short'],
      unmount: settings['workers.unmount'],
      bulk: settings['workers.bulk'],
      sweep: settings['workers.sweep'],
    },
  };
}
