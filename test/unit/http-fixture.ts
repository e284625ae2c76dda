/** A native API in front of an engine in memory, on a socket of its own. */
import { mkdtempSync, rmSync } from 'node:fs';
import { request, type IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino, type Logger } from 'pino';
import { HttpDoor, type HttpDoorOptions } from '../../src/doors/http/server.js';
import { peerOf } from '../../src/doors/peer.js';
import { MemoryEngine } from '../memory-engine.js';

export interface Fixture {
  engine: MemoryEngine;
  door: HttpDoor;
  socket: string;
  /** Every line of the log so far. */
  log: Record<string, unknown>[];
  close(): Promise<void>;
}

export async function openDoor(options: Partial<HttpDoorOptions> = {}): Promise<Fixture> {
  const dir = mkdtempSync(join(tmpdir(), 'layerd-http-'));
  const socket = join(dir, 's');
  const engine = new MemoryEngine();
  const log: Record<string, unknown>[] = [];
  const door = await HttpDoor.open({
    at: { path: socket },
    gid: null,
    engine,
    log: logInto(log),
    version: '0.0.0',
    stallMs: 10_000,
    peerOf,
    ...options,
  });
  const close = async (): Promise<void> => {
    await door.close(0);
    rmSync(dir, { recursive: true, force: true });
  };
  return { engine, door, socket, log, close };
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
