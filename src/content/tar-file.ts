import { close, fdatasync, fstat, openSync, unlink, write, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { linuxAvailable } from '../linux/libc.js';
import { ADVICE, fadvise, startWriteBack, writeBack } from '../linux/sync.js';

const closeFile = promisify(close);
const syncData = promisify(fdatasync);
const stat = promisify(fstat);
const unlinkFile = promisify(unlink);
const writeFile = promisify(write);

/** Dirty bytes pile up to twice this at most: one window is on its way to the disk while the next one fills. */
const WINDOW_BYTES = 16 * 1024 * 1024;
/** Less than this is written in no time when it is synced. */
const FLUSH_BYTES = 1024 * 1024;
/** Below this the way to another thread and back takes longer than the work. */
const ELSEWHERE_BYTES = 64 * 1024;

/** A new file that takes the bytes of a tar in order, on other threads: for a sink's bytes(). */
export class TarFileWriter {
  private readonly path: string;
  private readonly fd: number;
  private readonly windows = linuxAvailable().available;
  private closed = false;
  private bytes = 0;
  private windowStart = 0;
  private writeback: Promise<void> = Promise.resolve();
  private readonly running = new Set<Promise<void>>();

  /** `path` must not exist. */
  constructor(path: string) {
    this.path = path;
    this.fd = openSync(path, 'wx', 0o600);
  }

  /** Bytes taken so far. */
  get size(): number {
    return this.bytes;
  }

  /** Appends. The chunk stays untouched until the promise is done; undefined: done now. */
  write(chunk: Buffer): Promise<void> | undefined {
    const at = this.bytes;
    this.bytes += chunk.length;
    if (chunk.length < ELSEWHERE_BYTES) {
      for (let done = 0; done < chunk.length;) {
        done += writeSync(this.fd, chunk, done, chunk.length - done, at + done);
      }
      return undefined;
    }
    const writing = this.writeAt(chunk, at);
    this.running.add(writing);
    const forget = () => this.running.delete(writing);
    writing.then(forget, forget);
    return writing;
  }

  /** All bytes are there: where they are many, the disk begins with those that it has not been told of. */
  async flush(): Promise<void> {
    await Promise.all(this.running);
    await this.writeback;
    if (this.windows && this.bytes - this.windowStart >= FLUSH_BYTES)
      await startWriteBack(this.fd, this.windowStart, 0);
  }

  /**
   * Makes the bytes durable (the directory is the caller's) and closes the file; returns its allocated bytes.
   * `dropCache`: the pages leave the page cache, where nobody will read the file soon.
   */
  async finish(options: { dropCache: boolean }): Promise<{ size: number; disk: number }> {
    await Promise.all(this.running);
    await this.writeback;
    await syncData(this.fd);
    return this.close(options);
  }

  /** The same where the file is durable already. */
  async close({ dropCache }: { dropCache: boolean }): Promise<{ size: number; disk: number }> {
    if (dropCache && this.windows) fadvise(this.fd, 0, 0, ADVICE.dontNeed);
    const { size, blocks } = await stat(this.fd);
    await this.closeOnce();
    return { size, disk: blocks * 512 };
  }

  /** Closes and removes the file, once nothing is being written to it any more. */
  async abort(): Promise<void> {
    await Promise.allSettled([...this.running, this.writeback]);
    await this.closeOnce();
    await unlinkFile(this.path);
  }

  private async closeOnce(): Promise<void> {
    if (this.closed) return;
    this.closed = true; // also if it fails: the kernel has let go of the descriptor even then
    await closeFile(this.fd);
  }

  private async writeAt(chunk: Buffer, at: number): Promise<void> {
    for (let done = 0; done < chunk.length;) {
      const { bytesWritten } = await writeFile(this.fd, chunk, done, chunk.length - done, at + done);
      done += bytesWritten;
    }
    const end = at + chunk.length;
    if (this.windows && end - this.windowStart >= WINDOW_BYTES) await this.nextWindow(end);
  }

  private async nextWindow(end: number): Promise<void> {
    const start = this.windowStart;
    this.windowStart = end;
    await this.writeback;
    this.writeback = writeBack(this.fd, start, end - start);
    this.writeback.catch(() => undefined); // the next window looks at it, or finish()
  }
}
