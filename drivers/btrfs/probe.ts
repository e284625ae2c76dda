import { closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { bytesOf } from '../../src/core/bytes.js';
import type { Places } from '../../src/core/places.js';
import { createSnapshot, createSubvolume } from '../../src/linux/btrfs.js';
import { fileSystemType } from '../../src/linux/features.js';
import type { ProbeResult } from '../driver.js';
import { probeBelow } from '../probing.js';

/** Makes a subvolume below the root and a snapshot of it, and removes both. */
export function probeBtrfs(places: Places): ProbeResult {
  mkdirSync(places.root, { recursive: true, mode: 0o700 });
  const fileSystem = fileSystemType(places.root);
  if (fileSystem !== 'btrfs') return { available: false, reason: `the root lies on ${fileSystem}, not on btrfs` };
  return probeBelow(places, (directory) => {
    trySubvolumes(directory);
    return 'a subvolume and a snapshot of it were made and removed';
  });
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
