/** One of several threads that want the same layer mounted at once. */
import { workerData } from 'node:worker_threads';
import type { StoredLayer } from '../../drivers/driver.js';
import { ErofsLayers } from '../../drivers/erofs/layers.js';
import { Places } from '../../src/core/places.js';

const { root, run, layer } = workerData as { root: string; run: string; layer: StoredLayer };
const layers = new ErofsLayers(new Places(root, run), { directio: 'auto' });
for (let i = 0; i < 50; i += 1) layers.lower(layer);
