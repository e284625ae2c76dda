/** A program that is started once and answers many times: its start takes longer than most of its answers. */
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';

interface Question {
  lines: string[];
  resolve: (lines: string[]) => void;
  reject: (reason: Error) => void;
}

/** Asks line by line; the answers are blocks of lines, each ended by an empty one. */
export class Answerer {
  private readonly command: readonly [program: string, ...args: string[]];
  private child: ChildProcessByStdio<Writable, Readable, null> | null = null;
  private readonly waiting: Question[] = [];

  constructor(...command: readonly [program: string, ...args: string[]]) {
    this.command = command;
  }

  /** The lines of the answer. Starts the program where it does not run (yet, or any more). */
  ask(question: string): Promise<string[]> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ lines: [], resolve, reject });
      this.child ??= this.start();
      this.hold(this.child, true);
      this.child.stdin.write(`${question}\n`);
    });
  }

  private start(): ChildProcessByStdio<Writable, Readable, null> {
    const [program, ...args] = this.command;
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    createInterface({ input: child.stdout }).on('line', (line) => this.take(child, line));
    // Why it ended is told by 'error' or 'close'.
    child.stdin.on('error', () => undefined);
    child.on('error', (error) => this.fail(`did not start: ${error.message}`));
    child.on('close', (code, signal) => this.fail(`ended with ${signal ?? `status ${code}`}`));
    return child;
  }

  private take(child: ChildProcessByStdio<Writable, Readable, null>, line: string): void {
    if (line !== '') {
      this.waiting[0]?.lines.push(line);
      return;
    }
    const answered = this.waiting.shift();
    answered?.resolve(answered.lines);
    if (this.waiting.length === 0) this.hold(child, false);
  }

  private fail(why: string): void {
    this.child = null;
    for (const { reject } of this.waiting.splice(0)) reject(new Error(`${this.command.join(' ')} ${why}`));
  }

  /** Nobody waits for an idle one to end: it does when its input closes, with this process. */
  private hold(child: ChildProcessByStdio<Writable, Readable, null>, held: boolean): void {
    // The pipes of a child are sockets, which the types do not tell.
    for (const handle of [child, child.stdin as Socket, child.stdout as Socket]) {
      if (held) handle.ref();
      else handle.unref();
    }
  }
}
