/** Where disks are made, cut and looked at: a file system that clones files at once, in a file of its own. */
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../bench/fixtures/shell.js';
import { cloneFile } from '../../src/linux/extents.js';
import { BASE, unmountBelow } from '../conformance/file-system.js';

export type DiskFormat = 'ext4' | 'xfs';

const DISK_BYTES = 1024 ** 3;
/** Sparse: it takes what is written. */
const STAGE_BYTES = 64 * DISK_BYTES;

const MAKERS: Record<DiskFormat, readonly string[]> = {
  ext4: ['mkfs.ext4', '-q', '-F', '-E', 'nodiscard,lazy_itable_init=1,lazy_journal_init=1'],
  xfs: ['mkfs.xfs', '-q', '-K', '-m', 'reflink=1'],
};
/** A clone of a disk has the same UUID as the disk. */
const MOUNT_OPTIONS: Record<DiskFormat, string> = { ext4: 'loop', xfs: 'loop,nouuid' };

export class Stage {
  /** Everything that the stage consists of; names below it are short, as overlay likes them. */
  readonly home: string;
  private count = 0;

  private constructor(home: string) {
    this.home = home;
  }

  static async make(): Promise<Stage> {
    const stage = new Stage(mkdtempSync(join(BASE, 'lpc-')));
    try {
      const image = join(stage.home, 'stage');
      writeFileSync(image, '');
      truncateSync(image, STAGE_BYTES);
      await run('mkfs.xfs', ['-q', '-K', '-m', 'reflink=1', image]);
      mkdirSync(stage.disks);
      await run('mount', ['-o', 'loop', image, stage.disks]);
      return stage;
    } catch (thrown) {
      stage.remove();
      throw thrown;
    }
  }

  private get disks(): string {
    return join(this.home, 'd');
  }

  /** A directory that does not exist yet, on the machine's own file system. */
  fresh(): string {
    const path = join(this.home, String((this.count += 1)));
    mkdirSync(path);
    return path;
  }

  /** The path of a file on the stage that does not exist yet. */
  file(): string {
    return join(this.disks, String((this.count += 1)));
  }

  /** An empty disk of 1 GiB, formatted. */
  async disk(format: DiskFormat, bytes = DISK_BYTES): Promise<string> {
    const path = this.file();
    writeFileSync(path, '');
    truncateSync(path, bytes);
    const [program = '', ...args] = MAKERS[format];
    await run(program, [...args, path]);
    return path;
  }

  /** Takes everything away, whatever is mounted. */
  remove(): void {
    unmountBelow(this.home);
    rmSync(this.home, { recursive: true, force: true });
  }
}

/** Mounts a disk in a file. */
export async function mountDisk(file: string, format: DiskFormat, target: string): Promise<void> {
  await run('mount', ['-t', format, '-o', MOUNT_OPTIONS[format], file, target]);
}

/** The content of `from` at this instant, as the file `to`. */
export function cloneTo(from: string, to: string): void {
  const source = openSync(from, 'r');
  try {
    const target = openSync(to, 'wx');
    try {
      cloneFile(source, target);
    } finally {
      closeSync(target);
    }
  } finally {
    closeSync(source);
  }
}
