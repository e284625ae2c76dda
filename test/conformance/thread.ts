/** A thread with drivers of its own, as the engine's workers have: makes, mounts, storms, and removes one in many. */
import { execFileSync } from 'node:child_process';
import { renameSync } from 'node:fs';
import { join } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import type { RootAttributes, SnapshotSpec, StoredLayer } from '../../drivers/driver.js';
import { createDrivers } from '../../drivers/index.js';
import type { DriverOptions } from '../../src/core/engine-config.js';
import { Places } from '../../src/core/places.js';
import type { DriverName } from '../../src/core/words.js';

export interface ThreadTask {
  driver: DriverName;
  root: string;
  run: string;
  options: DriverOptions;
  stack: readonly StoredLayer[];
  rootAttributes: RootAttributes;
  /** Snapshots to be made and written to; the first is removed again. */
  dirs: readonly string[];
}

/** Writes to everything that the image has, in most of the ways there are. */
const STORM = `find . -type f -exec sh -c 'for f; do echo more >> "$f"; truncate -s 2 "$f"; chmod 600 "$f"; touch "$f"; done' sh {} +
  ln usr/lib/x usr/lib/linked; mv usr/lib/y var/y; rm -r usr/bin; mkdir usr/bin; chmod 700 twins/left; rm -r twins/right
  echo "$1" > etc/one; rm large; echo x > "only-$1"`;

async function work(task: ThreadTask): Promise<void> {
  const places = new Places(task.root, task.run);
  const { snapshots } = createDrivers(places, task.options)(task.driver);
  for (const [index, dir] of task.dirs.entries()) {
    const base = { readOnly: false, sizeLimit: null, volatile: false };
    const spec: SnapshotSpec = { dir, stack: task.stack, root: task.rootAttributes, ...base };
    await snapshots.create(spec);
    execFileSync('sh', ['-euc', STORM, 'sh', dir], { cwd: snapshots.mount(spec) });
    if (index % 2 === 0) snapshots.unmount(spec, { force: false });
    if (index > 0) continue;
    snapshots.release(spec, { force: false });
    renameSync(places.snapshot(dir), join(places.trash, dir));
  }
}

if (parentPort !== null) await work(workerData as ThreadTask);
