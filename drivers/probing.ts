/** What the probes of drivers have in common. */
import { existsSync, mkdirSync, mkdtempSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { bytesOf } from '../src/core/bytes.js';
import { toLayerdError, type ErrorCode } from '../src/core/errors.js';
import type { Places } from '../src/core/places.js';
import { linuxAvailable } from '../src/linux/libc.js';
import { removeTreeSync } from '../src/linux/rmtree.js';
import type { ProbeResult } from './driver.js';

/** Failures that say nothing about a driver: another one would fail as well, or be taken for the wrong reason. */
const NOT_THE_DRIVER: ReadonlySet<ErrorCode> = new Set(['NO_SPACE', 'TOO_MANY_FILES']);

/**
 * Tries something in an empty directory below the root; what `attempt` returns is the reason that it works, and what it
 * throws the reason that it does not. Where a crash leaves the directory, it is a snapshot without a row: the next start
 * takes it away. Throws NO_SPACE and TOO_MANY_FILES.
 */
export function probeBelow(places: Places, attempt: (directory: string) => string): ProbeResult {
  const linux = linuxAvailable();
  if (!linux.available) return { available: false, reason: `system calls cannot be made: ${linux.reason}` };
  let directory: string | null = null;
  try {
    mkdirSync(places.root, { recursive: true, mode: 0o700 });
    // not recursively: Node tells ENOENT then, where the file system is read-only
    if (!existsSync(places.snapshots)) mkdirSync(places.snapshots, { mode: 0o700 });
    directory = mkdtempSync(join(places.snapshots, 'probe-'));
    return { available: true, reason: attempt(directory) };
  } catch (thrown) {
    const error = toLayerdError(thrown);
    if (NOT_THE_DRIVER.has(error.code)) throw error;
    return { available: false, reason: error.message };
  } finally {
    if (directory !== null) removeTreeSync(dirname(directory), bytesOf(basename(directory)));
  }
}
