/**
 * What lost its row is renamed into the trash at once and unlinked later: removal takes as long as a rename, whatever
 * the number of files, and a crash leaves the trash to the next start.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, lstatSync, mkdirSync, readdirSync, renameSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { setImmediate as pause } from 'node:timers/promises';
import { join } from 'node:path';
import { bytesOf } from '../core/bytes.js';
import { isErrno, toLayerdError } from '../core/errors.js';
import type { Places } from '../core/places.js';
import { linuxAvailable } from '../linux/libc.js';
import { removeTree } from '../linux/rmtree.js';

/** Names below l/, s/, t/, b/ and i/ that nothing refers to any more. */
export interface TrashList {
  layers: readonly string[];
  snapshots: readonly string[];
  trees: readonly string[];
  blobs: readonly string[];
  images?: readonly string[];
}

/** Renames all of it into the trash; what is not there any more is no error. */
export function moveToTrash(places: Places, list: TrashList): void {
  moveInto(places.trash, places, list);
}

/** Renames all of it into lost/, where it stays until somebody removes it. */
export function setAside(places: Places, list: TrashList): void {
  moveInto(places.lost, places, list);
}

function moveInto(directory: string, places: Places, list: TrashList): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  for (const name of list.layers) moveOne(directory, places.layer(name), `l-${name}`);
  for (const name of list.snapshots) moveOne(directory, places.snapshot(name), `s-${name}`);
  for (const name of list.trees) moveOne(directory, places.tree(name), `t-${name}`);
  for (const name of list.blobs) moveOne(directory, places.blob(name), `b-${name}`);
  for (const name of list.images ?? []) moveOne(directory, places.image(name), `i-${name}`);
}

function moveOne(directory: string, from: string, name: string): void {
  try {
    // The suffix lets a name come twice before the first is unlinked.
    renameSync(from, join(directory, `${name}-${randomBytes(4).toString('hex')}`));
  } catch (thrown) {
    if (!isErrno(thrown, 'ENOENT')) throw thrown;
  }
}

export interface Emptied {
  /** Entries of the trash that were removed. */
  removed: number;
  bytes: number;
  remaining: number;
  /** Entries that could not be removed now, and why: a mount that someone left inside, say. */
  held: string[];
}

/** Unlinks up to `entries` entries of the trash, letting others run in between; ends early by the signal. */
export async function emptyTrash(places: Places, entries: number, signal: AbortSignal): Promise<Emptied> {
  const names = namesIn(places.trash);
  const emptied: Emptied = { removed: 0, bytes: 0, remaining: names.length, held: [] };
  for (const name of names) {
    if (emptied.removed === entries) break;
    try {
      emptied.bytes += await remove(places.trash, name, signal);
      emptied.removed += 1;
      emptied.remaining -= 1;
    } catch (thrown) {
      signal.throwIfAborted();
      emptied.held.push(toLayerdError(thrown).message);
    }
  }
  return emptied;
}

async function remove(directory: string, name: string, signal: AbortSignal): Promise<number> {
  if (linuxAvailable().available) {
    const throttle = async (): Promise<void> => {
      await pause();
      signal.throwIfAborted();
    };
    const { bytes } = await removeTree(directory, bytesOf(name), { throttle });
    return bytes;
  }
  const path = join(directory, name);
  try {
    await rm(path, { recursive: true, force: true });
  } catch (thrown) {
    if (!isErrno(thrown, 'EACCES')) throw thrown;
    unlock(Buffer.from(path));
    await rm(path, { recursive: true, force: true });
  }
  return 0;
}

/** Opens directories to their owner, who is not root and has locked himself out. */
function unlock(path: Buffer): void {
  chmodSync(path, 0o700);
  for (const name of readdirSync(path, { encoding: 'buffer' })) {
    const below = Buffer.concat([path, Buffer.from('/'), name]);
    if (lstatSync(below).isDirectory()) unlock(below);
  }
}

function namesIn(path: string): string[] {
  try {
    return readdirSync(path);
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return [];
    throw thrown;
  }
}
