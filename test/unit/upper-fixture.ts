import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bytesOf } from '../../src/core/bytes.js';
import type { Change } from '../../src/core/words.js';
import { upperChanges, upperDiff, type UpperPlaces } from '../../src/content/upper.js';
import { close, fdPath } from '../../src/linux/files.js';
import { umount } from '../../src/linux/mount.js';
import { overlayMount, overlayMountAt, type OverlaySpec } from '../../src/linux/overlay.js';
import { describeTree, type TreeListing } from '../reference/tree.js';

const APPLY = fileURLToPath(new URL('../../../test/model/apply.py', import.meta.url));
/** When the root of every snapshot was made. */
const MADE = { sec: 1_000_000_000, nsec: 0 };

/** Runs a script of bash in a directory and fails with what it said. */
export function shell(directory: string, script: string): void {
  execFileSync('bash', ['-euc', script], { cwd: directory, stdio: ['ignore', 'pipe', 'pipe'] });
}

/** A container on real overlay, its lowers made by scripts, bottom first. Mounted from the start. */
export class Container {
  readonly merged: string;
  readonly places: UpperPlaces;
  /** How often the merged view was asked for. */
  mergedOpened = 0;
  private readonly root: string;
  private readonly spec: OverlaySpec;
  private mounted = true;

  constructor(root: string, lowers: readonly string[], options: Record<string, string> = {}) {
    this.root = root;
    this.merged = this.directory('m');
    const [upper, work, empty] = ['u', 'w', 'empty'].map((name) => this.directory(name));
    const made = lowers.map((script, index) => {
      const lower = this.directory(`l${index}`);
      shell(lower, script);
      utimesSync(lower, MADE.sec, MADE.sec);
      return lower;
    });
    if (upper === undefined || work === undefined || empty === undefined) throw new Error('three were made');
    utimesSync(upper, MADE.sec, MADE.sec);
    this.spec = {
      lowers: made.toReversed(),
      upper,
      work,
      options: { redirect_dir: 'on', metacopy: 'off', ...options },
    };
    overlayMountAt(this.spec, this.merged);
    const { mode, uid, gid } = statSync(upper);
    this.places = {
      upper,
      lowers: this.spec.lowers,
      empty,
      root: { mode: mode & 0o7777, uid, gid, mtime: MADE },
      merged: () => {
        this.mergedOpened += 1;
        return this.mounted ? { path: this.merged, close: () => {} } : this.readable();
      },
    };
  }

  /** Runs a script in the merged root. */
  run(script: string): void {
    shell(this.merged, script);
  }

  unmount(): void {
    umount(bytesOf(this.merged));
    this.mounted = false;
  }

  async changes(): Promise<Change[]> {
    const all: Change[] = [];
    for await (const change of upperChanges(this.places)) all.push(change);
    return all;
  }

  /** `KIND path` of every change. */
  async changeLines(): Promise<string[]> {
    return (await this.changes()).map(({ kind, path }) => `${kind} ${path}`);
  }

  async diff(): Promise<Buffer> {
    return gathered(upperDiff(this.places));
  }

  /** What the lowers show together, as its own tree. */
  async copyOfLowers(name: string): Promise<string> {
    const copy = this.directory(name);
    const fd = overlayMount({ lowers: [...this.spec.lowers, this.places.empty], attributes: { readOnly: true } });
    try {
      // a child has no such descriptor: it goes through ours
      execFileSync('cp', ['-a', `/proc/${process.pid}/fd/${fd}/.`, copy]);
    } finally {
      close(fd);
    }
    return copy;
  }

  /** The lowers with a layer tar on top, made without layerd. */
  async applied(tar: Buffer): Promise<TreeListing> {
    const copy = await this.copyOfLowers(`applied-${tar.length}-${Math.random()}`);
    const file = `${copy}.tar`;
    writeFileSync(file, tar);
    execFileSync('python3', ['-I', APPLY, file, copy], { stdio: ['ignore', 'ignore', 'pipe'] });
    return describeTree(copy);
  }

  private readable(): { path: string; close(): void } {
    const fd = overlayMount({
      lowers: [this.places.upper, ...this.places.lowers],
      options: { redirect_dir: 'follow' },
      attributes: { readOnly: true },
    });
    return { path: fdPath(fd), close: () => close(fd) };
  }

  private directory(name: string): string {
    const path = join(this.root, name);
    mkdirSync(path);
    return path;
  }
}

/** Chunks are copied: each is valid until the next is asked for. */
export async function gathered(source: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of source) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

/** Repeats a script of bash in a directory, as fast as it goes, while `work` runs. */
export async function duringStorm(directory: string, script: string, work: () => Promise<void>): Promise<void> {
  const loop = `while :; do ${script}\n done 2> /dev/null`;
  // a group of its own: what the script has started must end with it
  const writer = spawn('bash', ['-c', loop], { cwd: directory, stdio: 'ignore', detached: true });
  const ended = once(writer, 'close');
  try {
    await work();
  } finally {
    if (writer.pid !== undefined) process.kill(-writer.pid, 'SIGKILL');
    await ended;
  }
}
