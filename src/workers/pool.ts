/**
 * Worker threads in lanes, so that a short call never queues behind a long one:
 *   short  – mkdir, mount, stat: what a client waits for
 *   unmount – an overlay unmount syncs its upper's file system and may take long
 *   bulk   – layers coming in, commits, checks: one to a thread
 *   fetch  – layers that come from elsewhere, at the pace of a network, on few processors several to a thread: they must
 *            not keep bulk from its work
 *   stream – what goes out at the pace of a client: many to a thread, since they mostly wait
 *   sweep  – unlinking the trash
 * Threads start when they are needed and end when they have been idle for a while, but for those that a lane keeps:
 * starting one takes longer than a mount.
 */
import { Worker, type MessagePort } from 'node:worker_threads';
import { LayerdError, toLayerdError } from '../core/errors.js';
import type { JobArgs, JobName, JobResult } from './jobs.js';
import type { FromWorker, ToWorker, WorkerSettings } from './protocol.js';

export type Lane = 'short' | 'unmount' | 'bulk' | 'fetch' | 'stream' | 'sweep';

export interface LaneSize {
  /** How many threads it may have. */
  threads: number;
  /** How many calls each takes at a time. */
  callsPerThread: number;
  /** How many stay, once they were needed. */
  keep: number;
  /** The others end when they had nothing to do for so long: each holds some 20 MB. */
  idleMs: number;
}

export interface RunOptions {
  ports?: MessagePort[];
  /** What the job tells on its way; its type is the job's. */
  progress?: (progress: never) => void;
  signal?: AbortSignal;
  /** The call mostly waits for other threads: of a lane with one call to a thread, it may share one with others like it. */
  shares?: boolean;
}

interface Call {
  id: number;
  job: JobName;
  args: unknown;
  ports: MessagePort[];
  resolve: (result: unknown) => void;
  reject: (error: LayerdError) => void;
  progress: ((progress: unknown) => void) | undefined;
  shares: boolean;
}

/** New objects of a thread. By default this grows to 48 MB in each, which saves no processor time here. */
const YOUNG_MB = 12;

export class WorkerPool {
  private readonly lanes: Record<Lane, LaneQueue>;

  constructor(settings: WorkerSettings, sizes: Record<Lane, LaneSize>) {
    this.lanes = {
      short: new LaneQueue('short', settings, sizes.short),
      unmount: new LaneQueue('unmount', settings, sizes.unmount),
      bulk: new LaneQueue('bulk', settings, sizes.bulk),
      fetch: new LaneQueue('fetch', settings, sizes.fetch),
      stream: new LaneQueue('stream', settings, sizes.stream),
      sweep: new LaneQueue('sweep', settings, sizes.sweep),
    };
  }

  /** Runs one job; rejects with a LayerdError. Ports are transferred. */
  run<K extends JobName>(lane: Lane, job: K, args: JobArgs<K>, options: RunOptions = {}): Promise<JobResult<K>> {
    return this.lanes[lane].run(job, args, options);
  }

  /** How many threads a lane may have. */
  threads(lane: Lane): number {
    return this.lanes[lane].threadsAtMost;
  }

  /** Starts a thread of a lane that has none: work for it is on its way. */
  prepare(lane: Lane): void {
    this.lanes[lane].prepare();
  }

  /** Jobs waiting and running in each lane, for metrics. */
  depth(): Record<Lane, number> {
    const depth = (lane: Lane): number => this.lanes[lane].depth;
    return {
      short: depth('short'),
      unmount: depth('unmount'),
      bulk: depth('bulk'),
      fetch: depth('fetch'),
      stream: depth('stream'),
      sweep: depth('sweep'),
    };
  }

  /** Ends every thread; what still runs is rejected with SHUTTING_DOWN. */
  async close(): Promise<void> {
    await Promise.all(Object.values(this.lanes).map((lane) => lane.close()));
  }
}

class LaneQueue {
  private readonly waiting: Call[] = [];
  private readonly threads = new Set<Thread>();
  private nextId = 1;
  private closed = false;
  private readonly name: Lane;
  private readonly settings: WorkerSettings;
  private readonly size: LaneSize;

  constructor(name: Lane, settings: WorkerSettings, size: LaneSize) {
    this.name = name;
    this.settings = settings;
    this.size = size;
  }

  get depth(): number {
    return this.waiting.length + this.running;
  }

  private get running(): number {
    let running = 0;
    for (const thread of this.threads) running += thread.load;
    return running;
  }

  run<K extends JobName>(job: K, args: JobArgs<K>, options: RunOptions): Promise<JobResult<K>> {
    const { ports = [], progress, signal, shares = false } = options;
    if (this.closed) return Promise.reject(shuttingDown());
    if (signal?.aborted) return Promise.reject(cancelled(job));
    return new Promise<JobResult<K>>((resolve, reject) => {
      const call: Call = {
        id: this.nextId++,
        job,
        args,
        ports,
        resolve: (result) => {
          signal?.removeEventListener('abort', abort);
          resolve(result as JobResult<K>);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', abort);
          reject(error);
        },
        progress: progress && ((value) => progress(value as never)),
        shares,
      };
      const abort = (): void => this.abort(call);
      signal?.addEventListener('abort', abort, { once: true });
      this.waiting.push(call);
      this.dispatch();
    });
  }

  get threadsAtMost(): number {
    return this.size.threads;
  }

  prepare(): void {
    if (!this.closed && this.usable().length === 0) this.startThread();
  }

  async close(): Promise<void> {
    this.closed = true;
    for (const call of this.waiting.splice(0)) call.reject(shuttingDown());
    await Promise.all([...this.threads].map((thread) => thread.end()));
  }

  private abort(call: Call): void {
    const position = this.waiting.indexOf(call);
    if (position >= 0) {
      this.waiting.splice(position, 1);
      call.reject(cancelled(call.job));
      return;
    }
    for (const thread of this.threads) thread.abort(call);
  }

  private dispatch(): void {
    for (let call = this.waiting[0]; call !== undefined; call = this.waiting[0]) {
      const thread = this.threadFor(call);
      if (thread === null) return;
      this.waiting.shift();
      thread.start(call);
    }
  }

  private usable(): Thread[] {
    return [...this.threads].filter((thread) => !thread.ending);
  }

  private threadFor({ shares }: Call): Thread | null {
    if (this.running >= this.size.threads * this.size.callsPerThread) return null;
    const usable = this.usable();
    const shared = shares ? usable.find((thread) => thread.isShared) : undefined;
    if (shared !== undefined) return shared;
    const idle = usable.find((thread) => thread.load === 0);
    if (idle !== undefined) return idle;
    if (usable.length >= this.size.threads) {
      const least = usable.reduce((a, b) => (b.load < a.load ? b : a));
      return least.load < this.size.callsPerThread ? least : null;
    }
    return this.startThread();
  }

  private startThread(): Thread {
    const thread = new Thread(
      this.name,
      this.settings,
      this.size.idleMs,
      () => this.dispatch(),
      () => this.usable().length > this.size.keep,
      () => {
        this.threads.delete(thread);
        if (!this.closed) this.dispatch();
      },
    );
    this.threads.add(thread);
    return thread;
  }
}

class Thread {
  private readonly running = new Map<number, Call>();
  private readonly worker: Worker;
  private idle: NodeJS.Timeout | null = null;
  private readonly ended: Promise<void>;
  /** It has been idle and is ending: it takes no calls any more. */
  ending = false;
  private readonly idleMs: number;
  private readonly onFree: () => void;
  private readonly mayEnd: () => boolean;

  constructor(
    lane: Lane,
    settings: WorkerSettings,
    idleMs: number,
    onFree: () => void,
    mayEnd: () => boolean,
    onGone: () => void,
  ) {
    this.idleMs = idleMs;
    this.onFree = onFree;
    this.mayEnd = mayEnd;
    this.worker = new Worker(new URL('thread.js', import.meta.url), {
      name: `layerd-${lane}`,
      workerData: settings,
      // Descriptors are opened and closed by system calls of our own, too, which Node does not see.
      trackUnmanagedFds: false,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB },
    });
    this.worker.on('message', (message: FromWorker) => this.receive(message));
    let failure: Error | null = null;
    this.worker.on('error', (error) => (failure = error));
    this.ended = new Promise((resolve) => {
      this.worker.on('exit', () => {
        this.stopIdle();
        const calls = [...this.running.values()];
        this.running.clear();
        onGone();
        for (const call of calls) call.reject(failure === null ? shuttingDown() : threadDied(call.job, failure));
        resolve();
      });
    });
    this.worker.unref();
    this.rest(); // until it is called
  }

  /** All of its calls share it, and it has some. */
  get isShared(): boolean {
    return this.running.size > 0 && [...this.running.values()].every(({ shares }) => shares);
  }

  /** How many calls it has. */
  get load(): number {
    return this.running.size;
  }

  start(call: Call): void {
    this.stopIdle();
    this.running.set(call.id, call);
    this.worker.ref();
    const message: ToWorker = { call: call.id, job: call.job, args: call.args, ports: call.ports };
    this.worker.postMessage(message, call.ports);
  }

  abort(call: Call): void {
    if (this.running.get(call.id) === call) this.worker.postMessage({ abort: call.id } satisfies ToWorker);
  }

  async end(): Promise<void> {
    this.ending = true;
    await this.worker.terminate();
    await this.ended;
  }

  private receive(message: FromWorker): void {
    const call = this.running.get(message.call);
    if (call === undefined) return;
    if ('progress' in message) {
      call.progress?.(message.progress);
      return;
    }
    this.running.delete(call.id);
    if (this.running.size === 0) {
      this.worker.unref();
      this.rest();
    }
    if ('error' in message) call.reject(LayerdError.fromBody(message.error));
    else call.resolve(message.result);
    this.onFree();
  }

  private rest(): void {
    this.idle = setTimeout(() => this.endIfMany(), this.idleMs).unref();
  }

  private endIfMany(): void {
    if (this.mayEnd()) void this.end();
  }

  private stopIdle(): void {
    if (this.idle !== null) clearTimeout(this.idle);
    this.idle = null;
  }
}

function threadDied(job: string, failure: Error): LayerdError {
  const { code, details, hint } = toLayerdError(failure);
  const message = `a worker thread died: ${failure.message}`;
  return new LayerdError(code, message, { details: { ...details, job }, hint, cause: failure });
}

function shuttingDown(): LayerdError {
  return new LayerdError('SHUTTING_DOWN', 'the daemon is stopping', { hint: 'Try again when it is up.' });
}

function cancelled(job: string): LayerdError {
  return new LayerdError('CANCELLED', `${job} was cancelled`);
}
