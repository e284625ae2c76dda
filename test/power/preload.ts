/** A library that is preloaded into a program under test, and lets its system calls on one file system fail (preload.c). */
import { openSync, readSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../../bench/fixtures/shell.js';

const SOURCE = fileURLToPath(new URL('../../../test/power/preload.c', import.meta.url));

/** Kinds of calls; their sums are allowed. `name`: what makes, links or renames a name. */
export const CALLS = { write: 1, sync: 2, read: 4, name: 8 } as const;

export interface CallsToFail {
  kinds: number;
  /** The first call that fails, counted from 1, and how many do in a row. */
  first: number;
  times: number;
  errno: number;
  /** A path on the file system that it is about. */
  on: string;
}

const CONTROL_BYTES = 32;
const SEEN_AT = 20;

export class Preload {
  /** For the environment of the program. */
  readonly environment: Readonly<Record<string, string>>;
  private readonly fd: number;

  private constructor(library: string, control: string) {
    writeFileSync(control, Buffer.alloc(CONTROL_BYTES));
    this.fd = openSync(control, 'r+');
    this.environment = { LD_PRELOAD: library, LAYERD_TEST_CONTROL: control };
  }

  /** Compiles the library into `directory`, which must be on a file system in memory or of the machine. */
  static async build(directory: string): Promise<Preload> {
    const library = join(directory, 'preload.so');
    await run('cc', ['-O2', '-shared', '-fPIC', '-o', library, SOURCE]);
    return new Preload(library, join(directory, 'control'));
  }

  /** From now on nothing that the program syncs is synced. */
  dropSyncs(): void {
    this.write({ dropSyncs: true });
  }

  /** From now on these calls fail. */
  fail(calls: CallsToFail): void {
    this.write({ dropSyncs: false, calls });
  }

  /** Nothing fails any more. */
  relent(): void {
    this.write({ dropSyncs: false });
  }

  /** How many calls of the kinds there were since {@link fail}. */
  get seen(): number {
    const bytes = Buffer.alloc(CONTROL_BYTES);
    readSync(this.fd, bytes, 0, CONTROL_BYTES, 0);
    return bytes.readInt32LE(SEEN_AT);
  }

  private write({ dropSyncs, calls }: { dropSyncs: boolean; calls?: CallsToFail }): void {
    const control = Buffer.alloc(CONTROL_BYTES);
    const words = [Number(dropSyncs), calls?.kinds ?? 0, calls?.first ?? 0, calls?.times ?? 0, calls?.errno ?? 0, 0];
    for (const [index, word] of words.entries()) control.writeInt32LE(word, index * 4);
    if (calls !== undefined) control.writeBigUInt64LE(statSync(calls.on, { bigint: true }).dev, 24);
    writeSync(this.fd, control, 0, CONTROL_BYTES, 0);
  }
}
