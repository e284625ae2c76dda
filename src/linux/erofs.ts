/** Mounting EROFS images straight from files (Linux ≥ 6.12, CONFIG_EROFS_FS_BACKED_BY_FILE), without a loop device. */
import { bytesOf } from '../core/bytes.js';
import { AT_FDCWD, close, fdPath, O_PATH, openat } from './files.js';
import {
  FSCONFIG_STRING_MAX,
  fsconfigCreate,
  fsconfigFlag,
  fsconfigString,
  fsmount,
  fsopen,
  mountFailed,
} from './mount.js';

export interface ErofsSpec {
  /** Path of the image, a regular file or a block device. */
  image: string;
  /** Further files that the image's device table refers to, in its order. */
  devices: readonly string[];
  /** Reads past the page cache of the files (Linux ≥ 6.15). */
  directio?: boolean;
}

/**
 * A detached, read-only mount of the image: nosuid, nodev, noexec. Read it relative to the descriptor, or attach() it.
 * Throws MOUNT_FAILED with the kernel's words.
 */
export function erofsMount(spec: ErofsSpec): number {
  const fds: number[] = [];
  try {
    return configure(spec, fds);
  } catch (thrown) {
    throw mountFailed(`the image ${spec.image}`, thrown);
  } finally {
    fds.forEach(close);
  }
}

function configure({ image, devices, directio = false }: ErofsSpec, fds: number[]): number {
  const fsFd = fsopen('erofs');
  try {
    fsconfigFlag(fsFd, 'ro');
    setFile(fsFd, 'source', image, fds);
    for (const device of devices) setFile(fsFd, 'device', device, fds);
    if (directio) fsconfigFlag(fsFd, 'directio');
    fsconfigCreate(fsFd);
    return fsmount(fsFd, { readOnly: true, nosuid: true, nodev: true, noexec: true });
  } finally {
    close(fsFd);
  }
}

/** The kernel opens the file when the superblock is made: descriptors that stand for long paths must live until then. */
function setFile(fsFd: number, key: string, path: string, fds: number[]): void {
  const bytes = bytesOf(path);
  if (bytes.length < FSCONFIG_STRING_MAX) {
    fsconfigString(fsFd, key, bytes);
    return;
  }
  const fd = openat(AT_FDCWD, bytes, O_PATH);
  fds.push(fd);
  fsconfigString(fsFd, key, fdPath(fd));
}
