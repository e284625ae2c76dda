/** Answers that are written bit by bit: progress lines with a result, lists, and byte streams. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { OnProgress } from '../../core/api.js';
import { toLayerdError } from '../../core/errors.js';
import type { Progress, StreamLine } from '../../core/words.js';
import { begun, sendAll } from './body.js';
import type { DoorContext } from './context.js';

export const NDJSON = 'application/x-ndjson';
export const TAR = 'application/x-tar';

/** Characters of a list that are written at a time. */
const LIST_CHUNK = 32 * 1024;

/** The same step of work is reported at most so often. */
const PROGRESS_INTERVAL_MS = 100;

/**
 * Runs a long operation and answers NDJSON: progress lines, then the result or the error. What fails before the first
 * progress is answered like any other request, with its status.
 */
export async function answerWithProgress<T>(
  door: DoorContext,
  request: FastifyRequest,
  reply: FastifyReply,
  work: (progress: OnProgress, signal: AbortSignal) => Promise<T>,
): Promise<void> {
  const lines = new Lines<StreamLine<T>>(reply);
  const due = new ProgressFilter();
  const progress: OnProgress = (step) => {
    if (due.passes(step)) lines.offer({ progress: step });
  };
  try {
    lines.end({ result: await work(progress, door.operations.signalOf(reply.raw)) });
  } catch (error) {
    if (!lines.started) throw error;
    door.failed(request, error);
    lines.end({ error: toLayerdError(error).toBody() });
  }
}

/**
 * Answers one JSON document per line. A failure on the way is the last line: `{"error": …}`. `atOnce`: the head does not
 * wait for the first item, which may be long in coming.
 */
export async function answerLines<T>(
  door: DoorContext,
  request: FastifyRequest,
  reply: FastifyReply,
  items: AsyncIterable<readonly T[]>,
  options: { atOnce: boolean } = { atOnce: false },
): Promise<void> {
  const source = options.atOnce ? items : await begun(items);
  start(reply, { 'content-type': NDJSON });
  const text = async function* (): AsyncGenerator<string> {
    try {
      for await (const batch of source) yield batch.map(line).join('');
    } catch (error) {
      door.failed(request, error);
      yield line({ error: toLayerdError(error).toBody() });
    }
  };
  await send(door, request, reply, text());
}

/**
 * Answers a JSON array of any length, written as its items are read: nothing of it is held, and others are served between.
 * What fails after the first items breaks the connection.
 */
export async function answerList(
  door: DoorContext,
  request: FastifyRequest,
  reply: FastifyReply,
  items: Iterable<unknown>,
): Promise<void> {
  const source = await begun(arrayOf(items));
  start(reply, { 'content-type': 'application/json; charset=utf-8' });
  await send(door, request, reply, source);
}

async function* arrayOf(items: Iterable<unknown>): AsyncGenerator<string> {
  let text = '[';
  let separator = '';
  for (const item of items) {
    text += separator + JSON.stringify(item);
    separator = ',';
    if (text.length < LIST_CHUNK) continue;
    yield text;
    text = '';
    await nextTurn();
  }
  yield `${text}]`;
}

/** Answers bytes. What fails after the first of them breaks the connection: the client must not take it for whole. */
export async function answerBytes(
  door: DoorContext,
  request: FastifyRequest,
  reply: FastifyReply,
  bytes: AsyncIterable<Buffer>,
  headers: Record<string, string | number> = {},
): Promise<void> {
  const source = await begun(bytes);
  start(reply, { 'content-type': TAR, ...headers });
  await send(door, request, reply, source);
}

async function send(
  door: DoorContext,
  request: FastifyRequest,
  reply: FastifyReply,
  source: AsyncIterable<Buffer | string>,
): Promise<void> {
  try {
    await sendAll(reply.raw, source, door.stallMs);
  } catch (error) {
    door.failed(request, error);
    reply.raw.destroy();
  }
}

/** Takes the response out of the framework's hands and sends the head. */
function start(reply: FastifyReply, headers: Record<string, string | number>): void {
  reply.hijack();
  reply.raw.writeHead(200, { ...(reply.getHeaders() as Record<string, string | number>), ...headers });
}

function line(value: unknown): string {
  return `${JSON.stringify(value)}\n`;
}

/** NDJSON lines as they come, of which those that are only offered may be left out. */
class Lines<T> {
  started = false;
  private readonly reply: FastifyReply;

  constructor(reply: FastifyReply) {
    this.reply = reply;
  }

  /** Written unless the client is behind with reading. */
  offer(value: T): void {
    this.start();
    if (!this.reply.raw.writableNeedDrain) this.reply.raw.write(line(value));
  }

  end(value: T): void {
    this.start();
    this.reply.raw.end(line(value));
  }

  private start(): void {
    if (this.started) return;
    this.started = true;
    start(this.reply, { 'content-type': NDJSON });
  }
}

/** Lets the first and the last report of each step through, and those between at intervals. */
class ProgressFilter {
  private readonly last = new Map<string, number>();

  passes(step: Progress): boolean {
    const key = `${step.phase} ${step.subject}`;
    const now = performance.now();
    const finished = step.total !== null && step.done >= step.total;
    if (!finished && now - (this.last.get(key) ?? Number.NEGATIVE_INFINITY) < PROGRESS_INTERVAL_MS) return false;
    this.last.set(key, now);
    return true;
  }
}

/** The query parameter as a list, however often it was given. */
export function asList(given: string | string[]): string[] {
  return typeof given === 'string' ? [given] : given;
}
