/** The entry point of a worker thread: takes calls and answers them. */
import { parentPort, workerData } from 'node:worker_threads';
import { LayerdError, toLayerdError } from '../core/errors.js';
import { collectWhileResting } from '../core/idle-memory.js';
import { createJobs } from './jobs.js';
import type { JobContext } from './job.js';
import type { FromWorker, ToWorker, WorkerSettings } from './protocol.js';

const port = parentPort;
if (port === null) throw new Error('thread.js runs as a worker thread only');

const jobs: Record<string, (args: never, context: JobContext) => Promise<unknown>> = createJobs(
  workerData as WorkerSettings,
);
const running = new Map<number, AbortController>();
collectWhileResting();

port.on('message', (message: ToWorker) => {
  if ('abort' in message) {
    running.get(message.abort)?.abort();
    return;
  }
  void serve(message);
});

async function serve(message: Extract<ToWorker, { call: number }>): Promise<void> {
  const { call, job, args, ports } = message;
  const abort = new AbortController();
  running.set(call, abort);
  try {
    const run = jobs[job];
    if (run === undefined) throw new LayerdError('INTERNAL', `no such job: ${job}`);
    const context: JobContext = {
      // made for those who ask: short calls do not
      get signal() {
        return abort.signal;
      },
      ports,
      progress: (progress) => reply({ call, progress }),
    };
    const result = await run(args as never, context);
    reply({ call, result });
  } catch (thrown) {
    reply({ call, error: toLayerdError(thrown).toBody() });
  } finally {
    running.delete(call);
    // A job that failed before it streamed must not leave the other side waiting.
    for (const stream of ports) stream.close();
  }
}

function reply(message: FromWorker): void {
  port?.postMessage(message);
}
