/** What the tests of the erofs driver share: layers stored from tars, mounts of them, and judges that are not ours. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { StoredLayer } from '../../drivers/driver.js';
import { ErofsLayers } from '../../drivers/erofs/layers.js';
import { layerFiles, type LayerFiles } from '../../drivers/erofs/layer-files.js';
import { fileSource } from '../../src/content/file-source.js';
import { ingest } from '../../src/content/ingest.js';
import { bytesOf, type ByteString } from '../../src/core/bytes.js';
import { Places } from '../../src/core/places.js';
import { erofsMount } from '../../src/linux/erofs.js';
import { close } from '../../src/linux/files.js';
import { attach, umount } from '../../src/linux/mount.js';
import { mountAt, mountsBelow } from '../../src/linux/mountinfo.js';
import { entrySpec, layerTar, type EntrySpec } from '../model/spec.js';
import type { Prerequisite } from '../support.js';

/** A directory of its own for a test, gone afterwards. */
export class Scratch {
  readonly path = mkdtempSync(join(tmpdir(), 'layerd-erofs-'));
  readonly places = new Places(join(this.path, 'root'), join(this.path, 'run'));

  constructor() {
    mkdirSync(this.places.layers, { recursive: true });
  }

  at(name: string): string {
    return join(this.path, name);
  }

  directory(name: string): string {
    mkdirSync(this.at(name), { recursive: true });
    return this.at(name);
  }

  /** Mounts an index; the path of the layer inside. */
  mount(files: LayerFiles, options: { directio?: boolean } = {}): string {
    const target = mkdtempSync(join(this.path, 'mount-'));
    const fd = erofsMount({ image: files.index, devices: [files.tar], ...options });
    try {
      attach(fd, bytesOf(target));
    } finally {
      close(fd);
    }
    return join(target, 'd');
  }

  [Symbol.dispose](): void {
    for (const { mountPoint } of mountsBelow(this.path).toReversed()) umount(mountPoint, { detach: true });
    execFileSync('rm', ['-rf', this.path]); // paths beyond PATH_MAX too
  }
}

/** Puts the root upon an ext4 of its own, on a disk (a loop device) with sectors of that size. */
export function useDisk({ places, path }: Scratch, { sectorBytes = 512 } = {}): void {
  const script = `
    truncate -s 64M "$1" && mkfs.ext4 -q -b 4096 "$1"
    device=$(losetup --find --show --sector-size "$3" "$1")
    mount "$device" "$2"
    losetup --detach "$device" # once it is unmounted`;
  execFileSync('sh', ['-euc', script, 'sh', join(path, 'disk'), places.root, String(sectorBytes)]);
  mkdirSync(places.layers);
}

/** Whether the mount of a layer, whose root is given, reads around the page cache of the tar. */
export function readsDirectly(root: string): boolean {
  return mountAt(dirname(root))?.superOptions.includes(bytesOf('directio')) ?? false;
}

/** Stores a tar as a layer named `dir`. */
export async function store(scratch: Scratch, tar: string, dir = 'layer'): Promise<StoredLayer> {
  const layers = new ErofsLayers(scratch.places, { directio: 'auto' });
  const ingested = await ingest(fileSource(tar, 0, statSync(tar).size), layers.begin(dir), {});
  const { diffId, size, opaqueRoot } = ingested;
  return { driver: 'erofs', dir, diffId, size, opaqueRoot };
}

export function filesOf(scratch: Scratch, { dir }: StoredLayer): LayerFiles {
  return layerFiles(scratch.places.layer(dir));
}

/** An entry of a layer; the path is Latin-1: one char, one byte. */
export type Entry = { path: string } & Partial<Omit<EntrySpec, 'path'>>;

export function tarOf(entries: readonly Entry[]): Buffer {
  return layerTar(entries.map(({ path, ...more }) => entrySpec(path as ByteString, more)));
}

/** fsck.erofs before 1.7 does not know blocks of 512 bytes. */
export function needsFsckErofs(): Prerequisite {
  const shown: string | null = spawnSync('fsck.erofs', ['-V'], { encoding: 'utf8' }).stdout; // null: no such program
  const [, major = 0, minor = 0] = /erofs-utils\) (\d+)\.(\d+)/.exec(shown ?? '') ?? [];
  const met = Number(major) > 1 || (Number(major) === 1 && Number(minor) >= 7);
  return { name: 'fsck.erofs ≥ 1.7', met, enable: 'sudo scripts/erofs-utils.sh' };
}

/** Whether the running kernel mounts EROFS images from files. */
export function needsErofs(): Prerequisite {
  const [major = 0, minor = 0] = execFileSync('uname', ['-r'], { encoding: 'utf8' }).split('.').map(Number);
  const known = spawnSync('grep', ['-qw', 'erofs', '/proc/filesystems']).status === 0;
  return {
    name: 'file-backed EROFS',
    met: known && (major > 6 || (major === 6 && minor >= 12)),
    enable: 'boot Linux ≥ 6.12',
  };
}

/** Complaints of fsck.erofs about an index; '' if it has none. */
export function fsck({ index, tar }: LayerFiles, ...options: string[]): string {
  return fsckMerged(index, [tar], ...options);
}

/** The same of an index over several tars. */
export function fsckMerged(index: string, tars: readonly string[], ...options: string[]): string {
  const devices = tars.map((tar) => `--device=${tar}`);
  const { status, stdout, stderr } = spawnSync('fsck.erofs', [...devices, ...options, index], { encoding: 'utf8' });
  return status === 0 ? '' : `exit ${status}: ${stdout}${stderr}`;
}
