/**
 * What a failed operation could not take away: on a full or failing disk a directory may stay without a row, as after a
 * crash. It is noted in `context.leftovers`, and a collection does for it what the next start would do.
 */
import { basename } from 'node:path';
import { toLayerdError } from '../core/errors.js';
import type { TrashList } from '../disk/trash.js';
import type { StoreContext } from './context.js';
import { disagreements } from './inventory.js';

/** Moves what is noted into the trash, where it has no row; what cannot be moved now either stays noted. */
export async function clearLeftovers(context: StoreContext): Promise<void> {
  const { leftovers, pool, log } = context;
  if (leftovers.size === 0) return;
  const noted = new Set(leftovers);
  const { strays, mounts } = await disagreements(context);
  const ours = (names: readonly string[]): string[] => names.filter((name) => noted.has(name));
  try {
    // Mounts first: nothing may be trashed under them.
    const held = mounts.filter((path) => noted.has(basename(path)));
    if (held.length > 0) await pool.run('unmount', 'mounts.detach', { paths: held });
    await pool.run('short', 'trash.move', {
      layers: ours(strays.layers),
      snapshots: ours(strays.snapshots),
      trees: [],
      blobs: ours(strays.blobs),
    });
    for (const name of noted) leftovers.delete(name);
  } catch (thrown) {
    log.warn({ error: toLayerdError(thrown).toBody() }, 'what failed operations left stays until the next collection');
  }
}

/** Moves what has no row (any more) into the trash, now or later. */
export async function moveToTrash(context: StoreContext, list: TrashList): Promise<void> {
  const { leftovers, pool, log } = context;
  try {
    await pool.run('short', 'trash.move', list);
  } catch (thrown) {
    for (const name of [...list.layers, ...list.snapshots, ...list.blobs]) leftovers.add(name);
    log.warn({ error: toLayerdError(thrown).toBody() }, 'directories stay until the next collection');
  }
}
