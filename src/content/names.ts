/**
 * Names as a layer tar writes them: cleaning of paths, and the names that stand for something else (whiteouts, opaque
 * markers, other reserved ones). Source: OCI image-spec, layer.md, "Whiteouts".
 */
import { displayBytes, type ByteString } from '../core/bytes.js';
import { LayerdError, type ErrorCode } from '../core/errors.js';

/** Most bytes that Linux allows in one component of a path (NAME_MAX). */
const NAME_MAX = 255;
/** Most bytes that Linux allows in the target of a symbolic link (PATH_MAX without the NUL). */
const LINK_TARGET_MAX = 4095;

export const WHITEOUT_PREFIX = '.wh.';
const RESERVED_PREFIX = '.wh..wh.';
export const OPAQUE_MARKER = '.wh..wh..opq' as ByteString;

/** What the last component of an entry's path stands for. */
export type NameMeaning = 'plain' | 'whiteout' | 'opaque' | 'reserved' | 'invalid';

/** 'invalid': a whiteout of nothing, of the directory itself, or of its parent. */
export function meaningOf(name: ByteString): NameMeaning {
  if (!name.startsWith(WHITEOUT_PREFIX)) return 'plain';
  if (name === OPAQUE_MARKER) return 'opaque';
  if (name.startsWith(RESERVED_PREFIX)) return 'reserved';
  const target = whiteoutTarget(name);
  return target === '' || target === '.' || target === '..' ? 'invalid' : 'whiteout';
}

/** The name that a whiteout removes. */
export function whiteoutTarget(name: ByteString): ByteString {
  return name.slice(WHITEOUT_PREFIX.length) as ByteString;
}

/** The name of the whiteout that removes `name`. */
export function whiteoutOf(name: ByteString): ByteString {
  return (WHITEOUT_PREFIX + name) as ByteString;
}

/** A failure that names the entry of the tar it speaks of. */
export function entryError(code: ErrorCode, entry: ByteString, problem: string, hint: string): LayerdError {
  const shown = displayBytes(entry);
  return new LayerdError(code, `entry "${shown}" of the layer ${problem}`, { details: { entry: shown }, hint });
}

const REBUILD = 'The layer was not written as the image specification demands: build it again with another tool.';

/**
 * The components of an entry's path, as Go's filepath.Clean has them: no empty ones, no `.`, every `..` resolved. `[]`
 * is the root of the layer. `entry` is the name for messages (that of the entry where `path` is its link's target).
 * Throws TAR_UNSAFE_PATH where `..` leaves the root, TAR_INVALID for no name or a NUL in it, NAME_UNSUPPORTED where a
 * component is longer than 255 bytes.
 */
export function cleanPath(path: ByteString, entry: ByteString = path): ByteString[] {
  if (path === '') throw entryError('TAR_INVALID', entry, 'has an empty name', REBUILD);
  const components = path.split('/') as ByteString[];
  if (!components.every(isOrdinary)) return cleanComponents(components, entry);
  return components;
}

/** A component that stays as it is. */
export function isOrdinary(component: ByteString): boolean {
  return (
    component !== '' && component.length <= NAME_MAX && component !== '.' && component !== '..' && !hasNul(component)
  );
}

function hasNul(bytes: ByteString): boolean {
  return bytes.includes('\0');
}

function cleanComponents(components: ByteString[], entry: ByteString): ByteString[] {
  const clean: ByteString[] = [];
  for (const component of components) {
    if (component === '' || component === '.') continue;
    if (component === '..') {
      if (clean.pop() === undefined) {
        throw entryError('TAR_UNSAFE_PATH', entry, 'points out of the layer with ".."', 'Do not trust its origin.');
      }
      continue;
    }
    checkComponent(component, entry);
    clean.push(component);
  }
  return clean;
}

/** A whiteout's name may be longer than a file's: it is the removed name that a file system holds. */
function checkComponent(component: ByteString, entry: ByteString): void {
  if (hasNul(component)) throw entryError('TAR_INVALID', entry, 'has a NUL byte in its name', REBUILD);
  const { length } = meaningOf(component) === 'whiteout' ? whiteoutTarget(component) : component;
  if (length <= NAME_MAX) return;
  const problem = `has a name of ${length} bytes; Linux allows ${NAME_MAX}`;
  throw entryError('NAME_UNSUPPORTED', entry, problem, 'Build the layer with shorter names.');
}

/**
 * A component that becomes a directory on the way to `entry`. Throws as {@link cleanPath} does, and TAR_INVALID for a
 * name that stands for a whiteout: a directory of that name could never be written into a layer again.
 */
export function checkDirectoryName(component: ByteString, entry: ByteString): void {
  checkComponent(component, entry);
  if (meaningOf(component) === 'plain') return;
  throw entryError('TAR_INVALID', entry, `lies below "${displayBytes(component)}", a name kept for whiteouts`, REBUILD);
}

/** Throws TAR_INVALID or NAME_UNSUPPORTED where no symbolic link can have this target on Linux. */
export function checkLinkTarget(target: ByteString, entry: ByteString): void {
  if (target === '') throw entryError('TAR_INVALID', entry, 'is a symbolic link without a target', REBUILD);
  if (hasNul(target))
    throw entryError('TAR_INVALID', entry, 'is a symbolic link with a NUL byte in its target', REBUILD);
  if (target.length <= LINK_TARGET_MAX) return;
  const problem = `is a symbolic link to ${target.length} bytes; Linux allows ${LINK_TARGET_MAX}`;
  throw entryError('NAME_UNSUPPORTED', entry, problem, 'Build the layer with a shorter link.');
}
