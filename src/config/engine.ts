import type { EngineConfig, RegistryConfig } from '../core/engine-config.js';
import { splitWords } from './kinds.js';
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
    buildCache: { maxAgeMs: settings['build_cache.max_age'], maxBytes: settings['build_cache.max_size'] },
    events: { maxRows: settings['events.max'] },
    limits: { layerEntries: settings['limits.layer_entries'], layerBytes: settings['limits.layer_size'] },
    workers: {
      short: settings['workers.short'],
      unmount: settings['workers.unmount'],
      bulk: settings['workers.bulk'],
      sweep: settings['workers.sweep'],
    },
    registry: registryConfigOf(settings),
  };
}

function registryConfigOf(settings: Settings): RegistryConfig {
  return {
    mirrors: splitWords(settings['registry.mirrors']).map((word) => {
      const equals = word.indexOf('=');
      return { registry: word.slice(0, equals), url: word.slice(equals + 1) };
    }),
    insecure: splitWords(settings['registry.insecure']),
    proxies: {
      http: offOr(settings['registry.http_proxy']),
      https: offOr(settings['registry.https_proxy']),
      except: splitWords(settings['registry.no_proxy']),
    },
    credentialsFile: offOr(settings['registry.credentials_file']),
    certificates: offOr(settings['registry.certificates']),
    transfers: settings['registry.transfers'],
    retries: settings['registry.retries'],
    retryDelayMs: settings['registry.retry_delay'],
    stallMs: settings['registry.stall_timeout'],
    partialTtlMs: settings['registry.partial_ttl'],
    chunkBytes: settings['registry.chunk_size'],
  };
}

function offOr(value: string): string | null {
  return value === 'off' ? null : value;
}
