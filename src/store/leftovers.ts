/**
 * What a failed operation could not take away: on a full or failing disk a directory may stay without a row, or a lease
 * without an operation, as after a crash. It is noted, and a collection does for it what the next start would do.
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

/** Ends the lease of an operation, now or later: what the operation answers is not changed by it. */
export async function endLease(context: StoreContext, id: string): Promise<void> {
  context.overdue.add(id);
  try {
    await endOverdue(context);
  } catch (thrown) {
    context.log.warn({ lease: id, error: toLayerdError(thrown).toBody() }, 'a lease stays until the next collection');
  }
}

/** Ends the leases that should have ended before, so that a collection finds what they held. */
export async function endOverdue({ overdue, writer }: StoreContext): Promise<void> {
  for (const id of overdue) {
    await writer.run('endOperation', { id });
    overdue.delete(id);
  }
}

/** Moves what has no row (any more) into the trash, now or later. */
export async function moveToTrash(context: StoreContext, list: TrashList): Promise<void> {
  const { leftovers, pool, log } = context;
  noteLeftovers(context, list);
  try {
    await pool.run('short', 'trash.move', list);
    for (const name of namesOf(list)) leftovers.delete(name);
  } catch (thrown) {
    log.warn({ error: toLayerdError(thrown).toBody() }, 'directories stay until the next collection');
  }
}

/** Has the next collection take away what is there of this without a row. */
export function noteLeftovers({ leftovers }: StoreContext, list: TrashList): void {
  for (const name of namesOf(list)) leftovers.add(name);
}

/** Trees are a cache: a collection finds those that nobody needs without being told. */
function namesOf({ layers, snapshots, blobs }: TrashList): string[] {
  return [...layers, ...snapshots, ...blobs];
}
