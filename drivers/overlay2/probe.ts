import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Places } from '../../src/core/places.js';
import { bytesOf } from '../../src/core/bytes.js';
import { AT_FDCWD, close, fdPath, mknodat } from '../../src/linux/files.js';
import { overlayMount, overlayWay } from '../../src/linux/overlay.js';
import { setXattr } from '../../src/linux/xattr.js';
import type { ProbeResult } from '../driver.js';
import { probeBelow } from '../probing.js';

/** Mounts a tiny overlay below the root, with a whiteout, an opaque directory and a write through it. */
export function probeOverlay2(places: Places): ProbeResult {
  return probeBelow(places, (directory) => {
    tryOverlay(directory);
    return `an overlay was mounted and written to (layers given by ${WAYS[overlayWay()]})`;
  });
}

const WAYS = { fd: 'descriptor', string: 'path', mount: 'option string' } as const;

function tryOverlay(directory: string): void {
  const at = (name: string): string => join(directory, name);
  for (const name of ['a', 'b', 'b/opaque', 'u', 'w']) mkdirSync(at(name));
  writeFileSync(at('a/gone'), '');
  mknodat(AT_FDCWD, bytesOf(at('b/gone')), 0o020000, 0, 0);
  setXattr(bytesOf(at('b/opaque')), bytesOf('trusted.overlay.opaque'), Buffer.from('y'));
  const fd = overlayMount({ lowers: [at('b'), at('a')], upper: at('u'), work: at('w') });
  try {
    writeFileSync(`${fdPath(fd)}/written`, 'yes');
  } finally {
    close(fd);
  }
  readFileSync(at('u/written'));
}
