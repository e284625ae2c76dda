/** File systems in a file, on a loop device that goes around the page cache of the file. Needs root. */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './fixtures/shell.js';

const MAKE = {
  btrfs: ['mkfs.btrfs', '--quiet', '--force', '--nodiscard'],
  // What mkfs leaves to the kernel to do later would be done while something is measured.
  ext4: ['mkfs.ext4', '-q', '-F', '-E', 'nodiscard,lazy_itable_init=0,lazy_journal_init=0'],
} as const;

export type FileSystem = keyof typeof MAKE;

export class LoopDisk {
  readonly path: string;
  private readonly image: string;
  private readonly device: string;
  private mounted = false;

  private constructor(home: string, device: string) {
    this.image = imageOf(home);
    this.path = join(home, 'd');
    this.device = device;
  }

  /**
   * A disk of that many bytes below `home`, without a file system yet. One that is filled has every block of its file
   * written, so that nothing which is written later makes the file system below look for room.
   */
  static async make(home: string, bytes: number, { filled = false } = {}): Promise<LoopDisk> {
    const image = imageOf(home);
    mkdirSync(join(home, 'd'), { recursive: true });
    if (filled) {
      const blocks = `count=${Math.ceil(bytes / 2 ** 22)}`;
      await run('dd', ['if=/dev/zero', `of=${image}`, 'bs=4M', blocks, 'oflag=direct', 'status=none']);
    } else {
      await run('truncate', ['--size', String(bytes), image]);
    }
    const device = (await run('losetup', ['--find', '--show', '--direct-io=on', image])).trim();
    return new LoopDisk(home, device);
  }

  /** Makes a new file system, mounted at {@link path}; the one before is gone. */
  async format(fileSystem: FileSystem): Promise<void> {
    await this.unmount();
    const [program, ...flags] = MAKE[fileSystem];
    await run(program, [...flags, this.device]);
    await run('mount', ['-t', fileSystem, this.device, this.path]);
    this.mounted = true;
  }

  async dispose(): Promise<void> {
    await this.unmount();
    await run('losetup', ['--detach', this.device]);
    rmSync(this.image);
  }

  private async unmount(): Promise<void> {
    if (!this.mounted) return;
    await run('umount', [this.path]);
    this.mounted = false;
  }
}

function imageOf(home: string): string {
  return join(home, 'disk');
}
