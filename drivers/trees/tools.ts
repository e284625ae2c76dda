/** How trees are handled on disk: by system calls of our own (root on Linux), or by Node alone. */
import { closeSync, fsyncSync, mkdirSync, openSync, rmSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { createPlainDirectory } from '../../src/content/node-writer.js';
import { bytesOf } from '../../src/core/bytes.js';
import { removeTreeSync } from '../../src/linux/rmtree.js';
import { syncfs } from '../../src/linux/sync.js';
import { Disk } from './disk.js';
import { LinuxDisk } from './linux-disk.js';

export interface TreeTools {
  openDisk(path: string): Disk;
  /** Makes an empty directory that inherits nothing from its parent. */
  makeDirectory(path: string): void;
  /** Makes what was written at or below `path` durable; by Node alone each file was made so by itself. */
  sync(path: string): void;
  /** Removes `path` with all below it, of whatever kind. */
  remove(path: string): void;
  /** A tree can be mounted at a second place. */
  canMount: boolean;
}

export const linuxTools: TreeTools = {
  openDisk: (path) => new LinuxDisk(path),
  makeDirectory: createPlainDirectory,
  sync: (path) => withOpen(path, syncfs),
  remove: (path) => void removeTreeSync(dirname(path), bytesOf(basename(path))),
  canMount: true,
};

export const nodeTools: TreeTools = {
  openDisk: (path) => new Disk(path),
  makeDirectory: (path) => mkdirSync(path, { mode: 0o700 }),
  sync: (path) => withOpen(path, fsyncSync),
  remove: (path) => rmSync(path, { recursive: true, force: true }),
  canMount: false,
};

function withOpen(path: string, work: (fd: number) => void): void {
  const fd = openSync(path, 'r');
  try {
    work(fd);
  } finally {
    closeSync(fd);
  }
}
