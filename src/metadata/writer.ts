import { EventEmitter } from 'node:events';
import { Worker } from 'node:worker_threads';
import { LayerdError } from '../core/errors.js';
import type { OnceOnly } from './operations/answers.js';
import type { OperationArgs, OperationName, OperationResult } from './operations/index.js';
import type { FromWriter, ToWriter } from './writer-thread.js';

interface Pending {
  resolve: (result: unknown) => void;
  reject: (error: LayerdError) => void;
}

/**
 * The writer as the main thread sees it. A settled promise means committed and durable, or rolled back.
 * Emits `events` after a commit that added to the event log.
 */
export class MetadataWriter extends EventEmitter<{ events: [] }> {
  private readonly pending = new Map<number, Pending>();
  private nextId = 1;
  private gone: LayerdError | null = null;
  private readonly worker: Worker;

  private constructor(worker: Worker) {
    super();
    this.setMaxListeners(0);
    this.worker = worker;
  }

  /** Opens (and makes, or migrates) the database. Throws STORE_NEWER, STORE_DAMAGED, NO_SPACE. */
  static async open(path: string): Promise<MetadataWriter> {
    const worker = new Worker(new URL('writer-thread.js', import.meta.url), {
      name: 'layerd-writer',
      workerData: { path },
    });
    const writer = new MetadataWriter(worker);
    await new Promise<void>((resolve, reject) => {
      worker.on('message', (message: FromWriter) => {
        if ('ready' in message) resolve();
        else if ('failed' in message) reject(LayerdError.fromBody(message.failed));
        else writer.receive(message);
      });
      worker.on('error', (error) => {
        const died = new LayerdError('INTERNAL', `the database thread died: ${error.message}`, { cause: error });
        writer.fail(died);
        reject(died);
      });
      worker.on('exit', () => writer.fail(new LayerdError('SHUTTING_DOWN', 'the database is closed')));
    }).catch(async (thrown: unknown) => {
      await worker.terminate();
      throw thrown;
    });
    return writer;
  }

  /** Runs one operation in the next group commit; what comes of it is the answer that is kept with `once`. */
  run<K extends OperationName>(operation: K, args: OperationArgs<K>, once?: OnceOnly): Promise<OperationResult<K>> {
    if (this.gone !== null) return Promise.reject(this.gone);
    return new Promise<OperationResult<K>>((resolve, reject) => {
      const id = this.nextId++;
      this.pending.set(id, { resolve: (result) => resolve(result as OperationResult<K>), reject });
      this.worker.postMessage({ id, operation, args, once } satisfies ToWriter);
    });
  }

  /** Finishes what was asked before, closes the database and ends the thread. */
  async close(): Promise<void> {
    if (this.gone !== null) return;
    const exited = new Promise<void>((resolve) => this.worker.once('exit', () => resolve()));
    this.worker.postMessage({ close: true } satisfies ToWriter);
    await exited;
  }

  private receive(message: FromWriter): void {
    if (!('answers' in message)) return;
    for (const { id, result, error } of message.answers) {
      const pending = this.pending.get(id);
      this.pending.delete(id);
      if (error === undefined) pending?.resolve(result);
      else pending?.reject(LayerdError.fromBody(error));
    }
    if (message.events) this.emit('events');
  }

  private fail(error: LayerdError): void {
    this.gone ??= error;
    for (const pending of this.pending.values()) pending.reject(this.gone);
    this.pending.clear();
  }
}
