/**
 * Reading a cold mount as fast as the disk can. The kernel gives every EROFS mount a readahead of 128 KiB, whatever its
 * files lie on. (The index is in the page cache when it is mounted: it has been read to see whether it is sound.)
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { bytesOf } from '../../src/core/bytes.js';
import { isErrno } from '../../src/core/errors.js';
import { AT_FDCWD } from '../../src/linux/files.js';
import { statAt, type DeviceNumber } from '../../src/linux/stat.js';

/** The mount's settings are in sysfs under a name with a running number that nothing else tells. */
const SETTINGS = '/sys/class/bdi';
/** What the kernel gives every mount. */
const KERNEL_KIB = 128;
/** For file systems of no single disk: what btrfs gives itself. */
const DISKLESS_KIB = 4096;
/** In a small tar no file gains from it, and sysfs costs more than the mount. */
const WORTHWHILE_BYTES = 1024 * 1024;

/**
 * Runs `mount`, which makes one EROFS mount of these files, and gives the mount the readahead of their disk. Nobody else
 * must mount meanwhile (but for programs that are not ours: they get it as well).
 */
export function withReadahead<T>(tars: readonly string[], mount: () => T): T {
  const [largest] = tars.map((path) => statAt(AT_FDCWD, bytesOf(path))).toSorted((a, b) => b.size - a.size);
  if (largest === undefined || largest.size < WORTHWHILE_BYTES) return mount();
  const kib = readaheadBelow(largest.dev);
  if (kib <= KERNEL_KIB) return mount();
  const before = new Set(erofsSettings());
  const mounted = mount();
  for (const name of erofsSettings()) if (!before.has(name)) setReadahead(name, kib);
  return mounted;
}

/** Readahead of the disk of a file system, in KiB. */
function readaheadBelow({ major, minor }: DeviceNumber): number {
  const disk = `/sys/dev/block/${major}:${minor}`;
  for (const settings of [`${disk}/bdi`, `${disk}/../bdi`]) {
    const text = ignoring(['ENOENT'], () => readFileSync(`${settings}/read_ahead_kb`, 'utf8'));
    if (text !== undefined) return Number(text);
  }
  return DISKLESS_KIB;
}

function erofsSettings(): string[] {
  const names = ignoring(['ENOENT', 'EACCES'], () => readdirSync(SETTINGS)) ?? [];
  return names.filter((name) => name.startsWith('erofs-'));
}

/** Where sysfs cannot be written, as in some containers, or the mount is gone already, it stays as it is. */
function setReadahead(name: string, kib: number): void {
  ignoring(['EROFS', 'EACCES', 'EPERM', 'ENOENT'], () =>
    writeFileSync(`${SETTINGS}/${name}/read_ahead_kb`, String(kib)),
  );
}

function ignoring<T>(errors: string[], work: () => T): T | undefined {
  try {
    return work();
  } catch (thrown) {
    if (isErrno(thrown, ...errors)) return undefined;
    throw thrown;
  }
}
