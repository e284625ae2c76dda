/** What a container changed, out of its overlay's upper directory: as a list and as a layer tar. */
import { bytesOf, displayBytes, toBuffer, type ByteString } from '../core/bytes.js';
import { LayerdError } from '../core/errors.js';
import type { Change, ChangeKind } from '../core/words.js';
import { statFd } from '../linux/stat.js';
import { OPAQUE_MARKER, WHITEOUT_PREFIX, whiteoutOf } from './names.js';
import { isSettableXattr } from './xattr-rules.js';
import type { RootAttributes } from './sink.js';
import { publicXattrs, tarOf, type TarItem, type TreeTarOptions } from './tree-tar-writer.js';
import { UpperWalk, type UpperItem, type UpperPlaces } from './upper-walk.js';

export type { UpperPlaces } from './upper-walk.js';

const ROOT = '' as ByteString;

/**
 * What differs from the lowers, in byte order of the paths. Everything that the upper holds counts as changed, also the
 * directories on the way to a change; of a removed directory only itself is named.
 */
export async function* upperChanges(places: UpperPlaces): AsyncGenerator<Change, void> {
  yield* listed(findChanges(places, Number.POSITIVE_INFINITY) ?? []);
}

/** The same at once, where there are at most so many; else null. */
export function fewUpperChanges(places: UpperPlaces, most: number): Change[] | null {
  const found = findChanges(places, most);
  return found === null ? null : [...listed(found)];
}

interface FoundChange {
  path: ByteString;
  kind: ChangeKind;
}

function findChanges(places: UpperPlaces, most: number): FoundChange[] | null {
  const found: FoundChange[] = [];
  const walk = new UpperWalk(places, { compares: true, most });
  for (const item of walk.items()) {
    if (found.length >= most || walk.incomplete) return null;
    const kind = changeKind(item, places);
    if (kind !== null) found.push({ path: item.path, kind });
  }
  return walk.incomplete ? null : found;
}

/** In byte order of the paths. */
function* listed(found: FoundChange[]): Generator<Change, void> {
  found.sort((a, b) => (a.path < b.path ? -1 : 1));
  for (const { path, kind } of found) yield changeOf(kind, path);
}

/**
 * The same as a layer tar: whiteouts for what is gone, opaque markers where nothing of a lower directory shows, a
 * renamed directory in full. Ends with the end-of-archive blocks; nothing else if nothing changed. Sockets are left out.
 * Throws NAME_UNSUPPORTED for a file whose name a layer would take for a whiteout.
 */
export function upperDiff(places: UpperPlaces, options: TreeTarOptions = {}): AsyncGenerator<Buffer, void> {
  return tarOf(diffItems(places), options);
}

function changeKind(item: UpperItem, places: UpperPlaces): ChangeKind | null {
  if (item.kind !== 'directory' && item.kind !== 'name') return item.kind === 'opaque' ? null : 'D';
  if (item.kind === 'directory' && item.path === ROOT) {
    return rootDifference(item.fd, places) === 'attributes' ? 'C' : null;
  }
  return item.existed ? 'C' : 'A';
}

/** A change of a path ('' is the root), shown as people read it, with its bytes where that is not the same. */
export function changeOf(kind: ChangeKind, path: ByteString): Change {
  const absolute = `/${path}` as ByteString;
  const shown = displayBytes(absolute);
  if (bytesOf(shown) === absolute) return { kind, path: shown };
  return { kind, path: shown, bytes: toBuffer(absolute).toString('base64') };
}

function* diffItems(places: UpperPlaces): Generator<TarItem, void> {
  let heldRoot: TarItem | null = null;
  for (const item of new UpperWalk(places, { compares: false }).items()) {
    if (item.kind === 'directory' && item.path === ROOT) {
      const difference = rootDifference(item.fd, places);
      if (difference === 'attributes') yield item;
      if (difference === 'time') heldRoot = item;
      continue;
    }
    if (heldRoot !== null) {
      yield heldRoot;
      heldRoot = null;
    }
    yield tarItem(item);
  }
}

function tarItem(item: UpperItem): TarItem {
  if (item.kind === 'directory' || item.kind === 'name') {
    checkName(item.path);
    return item;
  }
  if (item.kind === 'hidden') throw new Error('the opaque marker stands for all that it hides');
  if (item.kind === 'opaque') return { kind: 'marker', path: `${item.path}/${OPAQUE_MARKER}` as ByteString };
  const start = item.path.lastIndexOf('/') + 1;
  const name = whiteoutOf(item.path.slice(start) as ByteString);
  return { kind: 'marker', path: (item.path.slice(0, start) + name) as ByteString };
}

/**
 * How the root differs from what it was made as. A time alone is no change: every new name in the root sets it, so that
 * it goes along where something else has changed.
 */
function rootDifference(fd: number, { root }: UpperPlaces): 'attributes' | 'time' | null {
  const { mode, uid, gid, mtime } = statFd(fd);
  const same = (mode & 0o7777) === root.mode && uid === root.uid && gid === root.gid;
  if (!same || !sameXattrs(publicXattrs(fd), root)) return 'attributes';
  return mtime.sec === root.mtime.sec && mtime.nsec === root.mtime.nsec ? null : 'time';
}

function sameXattrs(found: ReadonlyMap<ByteString, Buffer> | null, { xattrs = [] }: RootAttributes): boolean {
  const expected = xattrs.filter(([name]) => isSettableXattr(name, 'directory'));
  if ((found?.size ?? 0) !== expected.length) return false;
  return expected.every(([name, value]) => found?.get(name)?.equals(toBuffer(value)) === true);
}

/** Throws NAME_UNSUPPORTED for a file whose name would become a whiteout in the layer, and remove another one. */
export function checkName(path: ByteString): void {
  const name = path.slice(path.lastIndexOf('/') + 1);
  if (!name.startsWith(WHITEOUT_PREFIX)) return;
  const shown = displayBytes(`/${path}` as ByteString);
  throw new LayerdError(
    'NAME_UNSUPPORTED',
    `${shown} cannot be part of a layer: its name stands for a whiteout there`,
    {
      details: { path: shown },
      hint: 'Rename the file, remove it, or keep it on a volume.',
    },
  );
}
