/** What takes long on the database, beside those who read and write it: on a thread and a connection of its own. */
import { Worker } from 'node:worker_threads';
import { LayerdError, type ErrorBody } from '../core/errors.js';

export interface AsideTasks {
  /** A consistent copy while it is written to. */
  backup: { args: { to: string }; result: null };
  /** What SQLite finds wrong with it. */
  integrity: { args: null; result: string[] };
}

export type AsideTask = { [K in keyof AsideTasks]: { task: K; args: AsideTasks[K]['args'] } }[keyof AsideTasks];

export type AsideAnswer = { result: AsideTasks[keyof AsideTasks]['result'] } | { failed: ErrorBody };

/** Copies the database as it is at one moment. Throws NO_SPACE, IO_ERROR, STORE_DAMAGED. */
export async function backupDatabase(database: string, to: string): Promise<void> {
  await aside(database, { task: 'backup', args: { to } });
}

/** SQLite's own integrity check and the foreign keys; empty when all is well. */
export async function checkDatabase(database: string): Promise<string[]> {
  return (await aside(database, { task: 'integrity', args: null })) as string[];
}

/** The task before. */
let last: Promise<unknown> = Promise.resolve();

/**
 * One task after the other: SQLite keeps the descriptor of a connection that is closed for the next one, since closing it would
 * lift the locks that others hold on the file, so as many as were ever open at a time would stay open.
 */
async function aside(database: string, task: AsideTask): Promise<unknown> {
  const answer = last.then(() => ask(database, task));
  last = answer.catch(() => undefined);
  return answer;
}

async function ask(database: string, task: AsideTask): Promise<unknown> {
  const worker = new Worker(new URL('aside-thread.js', import.meta.url), {
    name: 'layerd-aside',
    workerData: { database, ...task },
  });
  const answer = await new Promise<AsideAnswer>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  if ('failed' in answer) throw LayerdError.fromBody(answer.failed);
  return answer.result;
}
