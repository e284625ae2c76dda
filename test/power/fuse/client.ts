/** The tests' side of a disk in a process of its own (server.ts). */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { unmountBelow } from '../../conformance/file-system.js';
import type { Random } from '../random.js';

/** Which requests fail: `after` so many of their kind have passed, `times` in a row, with `errno`. */
export interface Injection {
  request: 'read' | 'write' | 'fsync';
  errno: number;
  after: number;
  times: number;
}

export type Order = { cut: { to: string; seed: string } } | { inject: Injection };
export interface Reply {
  id: number;
  error: string | null;
}

const SERVER = fileURLToPath(new URL('server.js', import.meta.url));

export class FuseDisk {
  private readonly child: ChildProcess;
  private readonly mountPoint: string;
  private readonly waiting = new Map<number, (error: Error | null) => void>();
  private count = 0;

  private constructor(child: ChildProcess, mountPoint: string) {
    this.child = child;
    this.mountPoint = mountPoint;
    child.on('message', ({ id, error }: Reply) => this.settle(id, error === null ? null : new Error(error)));
    child.once('exit', () => {
      for (const id of this.waiting.keys()) this.settle(id, new Error('the process of the disk ended'));
    });
  }

  /** Serves the content of `backing` as a disk below `mountPoint`. */
  static async start(backing: string, mountPoint: string, options: { heedsFlushes: boolean }): Promise<FuseDisk> {
    mkdirSync(mountPoint);
    const child = fork(SERVER, [backing, mountPoint, options.heedsFlushes ? 'heeds' : 'ignores']);
    const disk = new FuseDisk(child, mountPoint);
    await disk.answered(0);
    return disk;
  }

  /** The disk. */
  get file(): string {
    return join(this.mountPoint, 'disk');
  }

  /** Writes what the disk would hold if the power went now. */
  cut(to: string, random: Random): Promise<void> {
    return this.order({ cut: { to, seed: String(random.fraction()) } });
  }

  inject(injection: Injection): Promise<void> {
    return this.order({ inject: injection });
  }

  async remove(): Promise<void> {
    const exited = this.child.exitCode === null ? once(this.child, 'exit') : null;
    unmountBelow(this.mountPoint);
    unmountBelow(join(this.mountPoint, '..'));
    this.child.kill('SIGKILL');
    await exited;
  }

  private order(order: Order): Promise<void> {
    const id = (this.count += 1);
    const answered = this.answered(id);
    this.child.send({ id, order });
    return answered;
  }

  private answered(id: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.waiting.set(id, (error) => (error === null ? resolve() : reject(error)));
    });
  }

  private settle(id: number, error: Error | null): void {
    const settle = this.waiting.get(id);
    this.waiting.delete(id);
    settle?.(error);
  }
}
