/**
 * Mounting overlay file systems. Three ways, the best that the kernel knows:
 *  - 'fd' (Linux ≥ 6.13): every layer is handed over as a descriptor; no path is parsed, no length counts.
 *  - 'string' (≥ 6.7): `lowerdir+` once per layer; paths that are long or need escapes go as /proc/self/fd/N.
 *  - 'mount': mount(2) with one page of options, on kernels before.
 * Paths are text (of the configuration), not bytes of archives.
 */
import { mkdtempSync, readFileSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bytesOf, type ByteString } from '../core/bytes.js';
import { isErrno, LayerdError } from '../core/errors.js';
import { AT_FDCWD, close, fdPath, O_PATH, openat } from './files.js';
import {
  attach,
  FSCONFIG_STRING_MAX,
  fsconfigCreate,
  fsconfigFd,
  fsconfigFlag,
  fsconfigString,
  fsmount,
  fsopen,
  mount,
  MOUNT_DATA_MAX,
  mountFailed,
  mountFlags,
  openTree,
  umount,
  type MountAttributes,
} from './mount.js';

export interface OverlaySpec {
  /** Directories, top first. At least one with an upper, at least two without. */
  lowers: readonly string[];
  /** Makes it writable, together with `work` on the same file system, empty and used by no other mount. */
  upper?: string;
  work?: string;
  /** Options of overlay (index, metacopy, redirect_dir, volatile, …); `true` for those without a value. */
  options?: Readonly<Record<string, string | true>>;
  /** What mountinfo shows as the source. */
  source?: string;
  attributes?: MountAttributes;
}

export type OverlayWay = 'fd' | 'string' | 'mount';

/** The kernel's limit (OVL_MAX_STACK). */
export const OVERLAY_MAX_LOWERS = 500;

let probed: OverlayWay | null = null;

/** The best way that this kernel knows; tried once. Throws MOUNT_FAILED where it has no overlay at all. */
export function overlayWay(): OverlayWay {
  probed ??= (['fd', 'string'] as const).find(acceptsLowers) ?? 'mount';
  return probed;
}

/**
 * A detached overlay mount: read it relative to the descriptor, or {@link attach} it. The last close of a detached one
 * unmounts it, which waits for the dirty data of the upper's file system. Throws LAYER_LIMIT for more than 500 lowers,
 * MOUNT_FAILED with the kernel's words.
 */
export function overlayMount(spec: OverlaySpec, way: OverlayWay = overlayWay()): number {
  checkSpec(spec);
  try {
    return way === 'mount' ? detachedByMount(spec) : detachedByConfiguration(spec, way);
  } catch (thrown) {
    throw mountFailed(describe(spec), thrown);
  }
}

/** Mounts an overlay at a directory; works on kernels without detached mounts too. Errors as {@link overlayMount}. */
export function overlayMountAt(spec: OverlaySpec, target: string, way: OverlayWay = overlayWay()): void {
  if (way === 'mount') {
    checkSpec(spec);
    try {
      mountByOptions(spec, target);
    } catch (thrown) {
      throw mountFailed(`${describe(spec)} at ${target}`, thrown);
    }
    return;
  }
  const fd = overlayMount(spec, way);
  try {
    attach(fd, bytesOf(target));
  } catch (thrown) {
    throw mountFailed(`${describe(spec)} at ${target}`, thrown);
  } finally {
    close(fd);
  }
}

function checkSpec({ lowers, upper, work }: OverlaySpec): void {
  if (lowers.length > OVERLAY_MAX_LOWERS) {
    throw new LayerdError(
      'LAYER_LIMIT',
      `an overlay holds ${OVERLAY_MAX_LOWERS} lower layers at most, not ${lowers.length}`,
      {
        details: { limit: OVERLAY_MAX_LOWERS, found: lowers.length },
        hint: 'Build the image with fewer layers, or squash it.',
      },
    );
  }
  const least = upper === undefined ? 2 : 1;
  if (lowers.length < least || (upper === undefined) !== (work === undefined)) {
    throw new LayerdError(
      'INVALID_ARGUMENT',
      'an overlay needs two lowers, or one and an upper with its work directory',
      {
        details: { lowers: lowers.length, upper: upper ?? null, work: work ?? null },
      },
    );
  }
}

function describe({ lowers, upper }: OverlaySpec): string {
  return `an overlay of ${lowers.length} ${lowers.length === 1 ? 'layer' : 'layers'} (top ${lowers[0]})${upper === undefined ? '' : ` under ${upper}`}`;
}

function acceptsLowers(way: 'fd' | 'string'): boolean {
  let fsFd;
  try {
    fsFd = fsopen('overlay');
  } catch (thrown) {
    if (isErrno(thrown, 'ENOSYS')) return false;
    throw mountFailed('any overlay', thrown);
  }
  try {
    setDirectory(fsFd, 'lowerdir+', '/', way);
    return true;
  } catch (thrown) {
    if (isErrno(thrown, 'EINVAL')) return false;
    throw thrown;
  } finally {
    close(fsFd);
  }
}

function detachedByConfiguration(spec: OverlaySpec, way: 'fd' | 'string'): number {
  const fsFd = fsopen('overlay');
  try {
    fsconfigString(fsFd, 'source', bytesOf(spec.source ?? 'overlay'));
    for (const [key, value] of Object.entries(spec.options ?? {})) {
      if (value === true) fsconfigFlag(fsFd, key);
      else fsconfigString(fsFd, key, bytesOf(value));
    }
    for (const lower of spec.lowers) setDirectory(fsFd, 'lowerdir+', lower, way);
    if (spec.upper !== undefined) setDirectory(fsFd, 'upperdir', spec.upper, way);
    if (spec.work !== undefined) setDirectory(fsFd, 'workdir', spec.work, way);
    fsconfigCreate(fsFd);
    return fsmount(fsFd, spec.attributes);
  } finally {
    close(fsFd);
  }
}

/** The kernel resolves the directory in this call, whichever way it is named. */
function setDirectory(fsFd: number, key: string, path: string, way: 'fd' | 'string'): void {
  const bytes = bytesOf(path);
  if (way === 'string' && bytes.length < FSCONFIG_STRING_MAX && !NEEDS_ESCAPE.test(bytes)) {
    fsconfigString(fsFd, key, bytes);
    return;
  }
  const fd = openat(AT_FDCWD, bytes, O_PATH);
  try {
    if (way === 'fd') fsconfigFd(fsFd, key, fd);
    else fsconfigString(fsFd, key, fdPath(fd));
  } finally {
    close(fd);
  }
}

/** What overlay reads as a separator in option strings. */
const NEEDS_ESCAPE = /[\\:,]/;

/** mount(2) knows no detached mounts: it goes to a directory of its own for a moment, a clone of it stays. */
function detachedByMount(spec: OverlaySpec): number {
  const target = mkdtempSync(join(tmpdir(), 'layerd-overlay-'));
  try {
    mountByOptions(spec, target);
    try {
      return openTree(AT_FDCWD, bytesOf(target), { clone: true });
    } finally {
      umount(bytesOf(target), { detach: true });
    }
  } finally {
    rmdirSync(target);
  }
}

function mountByOptions(spec: OverlaySpec, target: string): void {
  const plain = optionString(spec, (path) => bytesOf(escapeOption(path)));
  if (plain.length <= MOUNT_DATA_MAX) {
    mountOverlay(spec, target, plain);
    return;
  }
  const fds: number[] = [];
  try {
    const short = optionString(spec, (path) => {
      const fd = openat(AT_FDCWD, bytesOf(path), O_PATH);
      fds.push(fd);
      return fdPath(fd);
    });
    mountOverlay(spec, target, short);
  } finally {
    fds.forEach(close);
  }
}

function mountOverlay(spec: OverlaySpec, target: string, data: ByteString): void {
  const flags = mountFlags(spec.attributes ?? {});
  mount({ source: bytesOf(spec.source ?? 'overlay'), target: bytesOf(target), type: 'overlay', flags, data });
}

function optionString(spec: OverlaySpec, name: (path: string) => ByteString): ByteString {
  const options = [`lowerdir=${spec.lowers.map(name).join(':')}`];
  if (spec.upper !== undefined) options.push(`upperdir=${name(spec.upper)}`);
  if (spec.work !== undefined) options.push(`workdir=${name(spec.work)}`);
  for (const [key, value] of Object.entries(spec.options ?? {})) {
    options.push(value === true ? key : `${key}=${bytesOf(value)}`);
  }
  return options.join(',') as ByteString;
}

/** A path as it may stand in an option string of overlay. */
export function escapeOption(path: string): string {
  return path.replaceAll(/[\\:,]/g, (char) => `\\${char}`);
}

/** What the kernel does where a mount does not say (`Y`, `N`); null where it has no such parameter, or overlay is not loaded. */
export function overlayParameter(name: string): string | null {
  try {
    return readFileSync(`/sys/module/overlay/parameters/${name}`, 'latin1').trim();
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return null;
    throw thrown;
  }
}
