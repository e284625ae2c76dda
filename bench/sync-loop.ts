/** Writes a page and syncs it, again and again, as a worker thread; at any message it ends and tells the milliseconds of each. */
import { closeSync, fdatasyncSync, openSync, writeSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';

/** So that what it measures is the disk that others use, and not itself. */
const PAUSE_MS = 2;

const { file } = workerData as { file: string };
const fd = openSync(file, 'w');
const page = Buffer.alloc(4096, 'x');
const found: number[] = [];
const timer = setInterval(() => {
  const started = performance.now();
  writeSync(fd, page, 0, page.length, 0);
  fdatasyncSync(fd);
  found.push(performance.now() - started);
}, PAUSE_MS);
parentPort?.once('message', () => {
  clearInterval(timer);
  closeSync(fd);
  parentPort?.postMessage(found);
});
parentPort?.postMessage('ready');
