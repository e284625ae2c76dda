/**
 * A container's cycle by bare system calls, as a worker thread: directories, an overlay over some lowers, one write, unmount,
 * and all of it gone. No row, no sync but the one that unmounting an overlay is. `start` begins it; the answer is its
 * milliseconds.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { bytesOf } from '../src/core/bytes.js';
import { umount } from '../src/linux/mount.js';
import { overlayMountAt, overlayWay } from '../src/linux/overlay.js';

export interface BareWork {
  /** A directory of the thread's own. */
  home: string;
  lowers: string[];
  cycles: number;
}

const { home, lowers, cycles } = workerData as BareWork;
overlayWay();
parentPort?.once('message', () => {
  const started = performance.now();
  for (let index = 0; index < cycles; index += 1) cycle(join(home, String(index)));
  parentPort?.postMessage(performance.now() - started);
});
parentPort?.postMessage('ready');

function cycle(directory: string): void {
  const [upper, work, merged] = [join(directory, 'u'), join(directory, 'w'), join(directory, 'm')];
  for (const path of [directory, upper, work, merged]) mkdirSync(path);
  overlayMountAt({ lowers, upper, work, options: { index: 'off' } }, merged);
  writeFileSync(join(merged, 'written'), 'x');
  umount(bytesOf(merged));
  rmSync(directory, { recursive: true });
}
