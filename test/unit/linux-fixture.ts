import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach } from 'vitest';
import { bytesOf } from '../../src/core/bytes.js';
import { umount } from '../../src/linux/mount.js';
import { mountsBelow } from '../../src/linux/mountinfo.js';

/** A fresh directory per test; what a failed test left mounted there is taken away first. */
export function scratchDirectory(): () => string {
  let current: string | null = null;
  afterEach(() => {
    if (current === null) return;
    for (const { mountPoint } of mountsBelow(current).toReversed()) umount(mountPoint, { detach: true });
    rmSync(current, { recursive: true, force: true });
    current = null;
  });
  return () => (current ??= mkdtempSync(join(tmpdir(), 'layerd-linux-')));
}

/** Writes files (path → content) below `root`, with their directories; a path that ends in / is a directory. */
export function writeTree(root: string, files: Record<string, string>): string {
  for (const [path, content] of Object.entries(files)) {
    const full = join(root, path);
    mkdirSync(path.endsWith('/') ? full : dirname(full), { recursive: true });
    if (!path.endsWith('/')) writeFileSync(full, content);
  }
  return root;
}

/** The path as bytes, joined. */
export function at(...parts: string[]): ReturnType<typeof bytesOf> {
  return bytesOf(join(...parts));
}

/** Runs a program and returns what it printed. */
export function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Makes a btrfs in a file of `directory` and mounts it at `mnt` there; it goes with the scratch directory. */
export function mountBtrfs(directory: string): string {
  const image = join(directory, 'btrfs.img');
  const target = join(directory, 'mnt');
  mkdirSync(target);
  run('truncate', '-s', '128M', image);
  run('mkfs.btrfs', '-q', image);
  run('mount', '-o', 'loop', image, target);
  return target;
}

/** What `body` throws; a body that throws nothing fails the test. */
export function thrownBy(body: () => void): unknown {
  try {
    body();
  } catch (thrown) {
    return thrown;
  }
  throw new Error('nothing was thrown');
}
