/**
 * The one writer: a thread that owns the only writing connection. It takes all operations that have gathered, runs each
 * in a savepoint (one that fails rolls back alone), commits once, then answers all: group commit.
 */
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { toLayerdError, type ErrorBody } from '../core/errors.js';
import type { EngineEvent } from '../core/words.js';
import { candidateClock, openWriter } from './database.js';
import { keepAnswer, type OnceOnly } from './operations/answers.js';
import { LOST_WITH_POWER, operations, type OperationName } from './operations/index.js';
import type { Transaction } from './operations/transaction.js';
import { Sql, sqlError } from './sql.js';

export type ToWriter =
  { id: number; operation: OperationName; args: unknown; once: OnceOnly | undefined } | { close: true };
export type FromWriter =
  | { ready: true }
  | { failed: ErrorBody }
  | { answers: { id: number; result?: unknown; error?: ErrorBody }[]; events: boolean }
  | { closed: true };

type Answer = Extract<FromWriter, { answers: unknown }>['answers'][number];

const port = parentPort;
if (port === null) throw new Error('writer-thread.js runs as a worker thread only');

try {
  const sql = new Sql(openWriter((workerData as { path: string }).path));
  port.on('message', (message: ToWriter) => serve(sql, message));
  post({ ready: true });
} catch (thrown) {
  post({ failed: toLayerdError(thrown).toBody() });
}

function serve(sql: Sql, first: ToWriter): void {
  const batch: Extract<ToWriter, { operation: OperationName }>[] = [];
  let closing = false;
  for (let message: ToWriter | undefined = first; message !== undefined; message = next()) {
    if ('close' in message) closing = true;
    else batch.push(message);
  }
  if (batch.length > 0) commit(sql, batch);
  if (closing) {
    sql.db.close();
    post({ closed: true });
    port?.close();
  }
}

function next(): ToWriter | undefined {
  if (port === null) return undefined;
  return receiveMessageOnPort(port)?.message as ToWriter | undefined;
}

function commit(sql: Sql, batch: Extract<ToWriter, { operation: OperationName }>[]): void {
  let answers: Answer[] = [];
  let events = false;
  const tx: Transaction = {
    sql,
    now: Date.now(),
    event: (type, subject, data) => {
      insertEvent(sql, tx.now, { type, subject, data: data ?? {} });
      events = true;
    },
  };
  candidateClock.since = tx.now;
  try {
    waitForDisk(sql, !batch.every(({ operation }) => LOST_WITH_POWER.has(operation)));
    sql.db
      .transaction(() => {
        answers = batch.map((message) => runOne(tx, message, batch.length > 1));
      })
      .immediate();
  } catch (thrown) {
    const error = toLayerdError(sqlError(thrown)).toBody();
    answers = batch.map(({ id }) => ({ id, error }));
    events = false;
  }
  post({ answers, events });
}

let waiting = true;

/** Whether the next commit waits until it is on disk. One that does brings those before it with it. */
function waitForDisk(sql: Sql, wait: boolean): void {
  if (wait === waiting) return;
  sql.db.pragma(`synchronous = ${wait ? 'FULL' : 'NORMAL'}`);
  waiting = wait;
}

/** One among several has a savepoint of its own; one alone is all that the transaction does. */
function runOne(
  tx: Transaction,
  message: Extract<ToWriter, { operation: OperationName }>,
  amongOthers: boolean,
): Answer {
  const { id, operation, args, once } = message;
  const run = operations[operation] as (transaction: Transaction, args: unknown) => unknown;
  const whole = (): unknown => {
    const result = run(tx, args);
    if (once !== undefined) keepAnswer(tx, once, result);
    return result;
  };
  if (!amongOthers) return { id, result: whole() };
  try {
    return { id, result: tx.sql.db.transaction(whole)() };
  } catch (thrown) {
    const error = toLayerdError(sqlError(thrown));
    if (error.code === 'NO_SPACE' || error.code === 'IO_ERROR') throw error;
    return { id, error: error.toBody() };
  }
}

function insertEvent(sql: Sql, time: number, event: Pick<EngineEvent, 'type' | 'subject' | 'data'>): void {
  sql.run(
    'INSERT INTO event (time, type, subject, data) VALUES (?, ?, ?, ?)',
    time,
    event.type,
    event.subject,
    JSON.stringify(event.data),
  );
}

function post(message: FromWriter): void {
  port?.postMessage(message);
}
