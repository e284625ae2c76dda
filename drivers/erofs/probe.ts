import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { bytesOf, type ByteString } from '../../src/core/bytes.js';
import { sha256 } from '../../src/core/digest.js';
import type { DriverOptions } from '../../src/core/engine-config.js';
import { LayerdError } from '../../src/core/errors.js';
import type { Places } from '../../src/core/places.js';
import { erofsMount } from '../../src/linux/erofs.js';
import { close, fdPath } from '../../src/linux/files.js';
import { overlayMount } from '../../src/linux/overlay.js';
import type { TarEntryType } from '../../src/tar/entry.js';
import { encodeEntry, endOfArchive, padding, type EntryToWrite } from '../../src/tar/writer.js';
import type { ProbeResult } from '../driver.js';
import { probeBelow } from '../probing.js';
import { scanTarFile, writeIndexFile } from './index-file.js';
import { LAYER_DIRECTORY } from './index-writer.js';
import { layerFiles } from './layer-files.js';

/**
 * Stores a tiny layer below the root, mounts it as it would be, reads a file of it, and writes to it through an overlay.
 */
export function probeErofs(places: Places, options: DriverOptions): ProbeResult {
  const { available, reason } = probeBelow(places, (directory) => {
    // what auto could not mount with directio it mounts without
    tryLayer(directory, options.erofs.directio === 'on');
    return 'an EROFS layer was mounted from files and written to';
  });
  return { available, reason: `Linux ${release()}: ${reason}` };
}

const CONTENT = 'a file of a layer\n';

function tryLayer(directory: string, directio: boolean): void {
  const files = layerFiles(directory);
  const tar = tinyTar();
  writeFileSync(files.tar, tar);
  writeIndexFile({ files, diffId: sha256(tar), size: tar.length, tree: scanTarFile(files.tar) }, files.index);
  const layer = erofsMount({ image: files.index, devices: [files.tar], directio });
  try {
    tryOverlay(directory, `${fdPath(layer)}/${LAYER_DIRECTORY}`);
  } finally {
    close(layer);
  }
}

/** What the layer hides must be hidden: a kernel without EROFS's xattrs would mount it and show all. */
function tryOverlay(directory: string, layer: string): void {
  const at = (name: string): string => join(directory, name);
  for (const name of ['below', 'below/opaque', 'upper', 'work']) mkdirSync(at(name));
  for (const name of ['gone', 'opaque/gone']) writeFileSync(at(`below/${name}`), '');
  const fd = overlayMount({
    lowers: [layer, at('below')],
    upper: at('upper'),
    work: at('work'),
    options: { volatile: true }, // the unmount need not wait for the disk
  });
  try {
    const root = fdPath(fd);
    const shown = readdirSync(`${root}/opaque`).concat(readdirSync(root)).sort().join(' ');
    const content = readFileSync(`${root}/opaque/file`, 'utf8');
    if (shown !== 'file opaque' || content !== CONTENT) {
      throw new LayerdError('MOUNT_FAILED', `the layer came out wrong: ${shown} ${JSON.stringify(content)}`, {
        hint: 'This kernel lacks CONFIG_EROFS_FS_XATTR, or its EROFS has a fault: use another driver.',
      });
    }
    writeFileSync(`${root}/opaque/file`, 'changed');
  } finally {
    close(fd);
  }
}

function entry(type: TarEntryType, path: string, size = 0): Buffer {
  return encodeEntry({ ...PLAIN, type, path: bytesOf(path), size });
}

/** `gone` whited out, `opaque/` opaque with one file. */
function tinyTar(): Buffer {
  return Buffer.concat([
    entry('file', '.wh.gone'),
    entry('directory', 'opaque/'),
    entry('file', 'opaque/.wh..wh..opq'),
    entry('file', 'opaque/file', CONTENT.length),
    Buffer.from(CONTENT),
    Buffer.alloc(padding(CONTENT.length)),
    endOfArchive(),
  ]);
}

const PLAIN: Omit<EntryToWrite, 'type' | 'path' | 'size'> = {
  linkPath: '' as ByteString,
  mode: 0o755,
  uid: 0,
  gid: 0,
  mtime: { sec: 0, nsec: 0 },
  devMajor: 0,
  devMinor: 0,
  xattrs: null,
};
