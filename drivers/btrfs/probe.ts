import { closeSync, mkdirSync, mkdtempSync, openSync } from 'node:fs';
import { basename, join } from 'node:path';
import { bytesOf } from '../../src/core/bytes.js';
import { toLayerdError } from '../../src/core/errors.js';
import type { Places } from '../../src/core/places.js';
import { createSnapshot, createSubvolume } from '../../src/linux/btrfs.js';
import { fileSystemType } from '../../src/linux/features.js';
import { linuxAvailable } from '../../src/linux/libc.js';
import { removeTreeSync } from '../../src/linux/rmtree.js';
import type { ProbeResult } from '../driver.js';

/** Makes a subvolume below the root and a snapshot of it, and removes both. */
export function probeBtrfs(places: Places): ProbeResult {
  const linux = linuxAvailable();
  if (!linux.available) return { available: false, reason: `system calls cannot be made: ${linux.reason}` };
  let directory: string | null = null;
  try {
    mkdirSync(places.root, { recursive: true, mode: 0o700 });
    const fileSystem = fileSystemType(places.root);
    if (fileSystem !== 'btrfs') return { available: false, reason: `the root lies on ${fileSystem}, not on btrfs` };
    directory = mkdtempSync(join(places.root, 'probe-'));
    trySubvolumes(directory);
    removeTreeSync(places.root, bytesOf(basename(directory)));
    return { available: true, reason: 'a subvolume and a snapshot of it were made and removed' };
  } catch (thrown) {
    if (directory !== null) removeTreeSync(places.root, bytesOf(basename(directory)));
    return { available: false, reason: toLayerdError(thrown).message };
  }
}

function trySubvolumes(directory: string): void {
  const parent = openSync(directory, 'r');
  try {
    createSubvolume(parent, bytesOf('tree'));
    const tree = openSync(join(directory, 'tree'), 'r');
    try {
      createSnapshot(tree, parent, bytesOf('snapshot'), { readOnly: true });
    } finally {
      closeSync(tree);
    }
  } finally {
    closeSync(parent);
  }
}
