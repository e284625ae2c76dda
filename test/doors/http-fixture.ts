/** The native API on a socket of its own, in front of a real engine: a store by the copy driver, which runs anywhere. */
import { mkdtempSync, rmSync } from 'node:fs';
import { request, type IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino, type Logger } from 'pino';
import { machinePlatform } from '../../src/core/platform.js';
import { HttpDoor, type HttpDoorOptions } from '../../src/doors/http/server.js';
import { DoorMetrics } from '../../src/doors/metrics.js';
import { peerOf } from '../../src/doors/peer.js';
import type { Engine } from '../../src/engine.js';
import { TestStore } from '../e2e/store.js';
import { descriptor, layoutMembers, tarOf, testImage, testLayer } from '../unit/image-synthetic.js';

/** An image of one small layer, and the OCI archive that holds it. */
export const IMAGE = testImage([testLayer('what the layer holds', true)], machinePlatform().architecture);
export const ARCHIVE = tarOf(layoutMembers([IMAGE], [descriptor(IMAGE.manifest)]));

export interface Fixture {
  /** The store's engine, as this door alone sees it: a method that a test replaces is whole again in the next test. */
  engine: Engine;
  store: TestStore;
  door: HttpDoor;
  metrics: DoorMetrics;
  socket: string;
  /** Every line of the log so far. */
  log: Record<string, unknown>[];
  close(): Promise<void>;
}

export function openStore(): Promise<TestStore> {
  return TestStore.open({ driver: 'copy' });
}

export async function openDoor(store: TestStore, options: Partial<HttpDoorOptions> = {}): Promise<Fixture> {
  const dir = mkdtempSync(join(tmpdir(), 'layerd-http-'));
  const socket = join(dir, 's');
  const engine = Object.create(store.engine) as Engine;
  const log: Record<string, unknown>[] = [];
  const metrics = new DoorMetrics();
  const door = await HttpDoor.open({
    at: { path: socket },
    gid: null,
    engine,
    log: logInto(log),
    version: '0.0.0',
    metrics,
    stallMs: 10_000,
    peerOf,
    ...options,
  });
  const close = async (): Promise<void> => {
    await door.close(0);
    rmSync(dir, { recursive: true, force: true });
    await store.removeAll();
    for (const { id } of store.engine.leases()) await store.engine.removeLease(id);
  };
  return { engine, store, door, metrics, socket, log, close };
}

/** Has loads wait after each chunk of an upload, to be slower than their clients; returns what ends it. */
export function slowLoads({ engine, store }: Fixture, pauseMs: number): () => void {
  let pause = pauseMs;
  const paced = async function* (stream: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of stream) {
      yield chunk;
      if (pause > 0) await sleep(pause);
    }
  };
  engine.load = (input, options, progress, signal) => {
    const slow = 'stream' in input ? { ...input, stream: paced(input.stream) } : input;
    return store.engine.load(slow, options, progress, signal);
  };
  return () => void (pause = 0);
}

function logInto(into: Record<string, unknown>[]): Logger {
  const write = (text: string): void => void into.push(JSON.parse(text) as Record<string, unknown>);
  return pino({ level: 'debug' }, { write });
}

export interface Answer {
  status: number;
  headers: IncomingMessage['headers'];
  text: string;
  /** The connection broke before the end. */
  broken: boolean;
}

/** One request without the client under test, as any other program would send it. */
export function ask(
  socket: string,
  method: string,
  path: string,
  options: { json?: unknown; body?: Buffer | AsyncIterable<Buffer>; headers?: Record<string, string> } = {},
): Promise<Answer> {
  const json = options.json === undefined ? null : Buffer.from(JSON.stringify(options.json));
  const headers = { ...(json ? { 'content-type': 'application/json' } : {}), ...options.headers };
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath: socket, method, path, headers, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => (text += chunk));
      const done = (broken: boolean): void => {
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text, broken });
        sent.destroy();
      };
      response.on('end', () => done(false));
      response.on('error', () => done(true));
    });
    sent.on('error', reject);
    const body = json ?? options.body;
    if (body === undefined || Buffer.isBuffer(body)) sent.end(body);
    else void feed(sent, body);
  });
}

async function feed(sent: NodeJS.WritableStream, body: AsyncIterable<Buffer>): Promise<void> {
  for await (const chunk of body) {
    if (!sent.writable) return;
    if (!sent.write(chunk)) await new Promise((resolve) => sent.once('drain', resolve));
  }
  sent.end();
}

/** The lines of an NDJSON answer. */
export function lines(answer: Answer): Record<string, unknown>[] {
  return answer.text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}
