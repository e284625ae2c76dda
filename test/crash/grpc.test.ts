/** containerd's door and clients that do not speak its protocol, or speak it badly: each costs its own connection only. */
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { connect as connectHttp2, type ClientHttp2Session } from 'node:http2';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { SNAPSHOTS } from '../../src/doors/containerd/messages.js';
import { makeHome, removeHome, TestDaemon } from '../cli/daemon.js';
import { codeOf, SnapshotsClient } from '../clients/snapshots-client.js';
import { describeWith, needsRoot } from '../support.js';
import { FULL, Random, SEED } from './random.js';

const CONNECTIONS = FULL ? 3000 : 400;
const MESSAGES = FULL ? 5000 : 300;
/** What a daemon that answers all this may hold more than one that has answered a third of it. */
const MEMORY_BYTES = 200_000_000;

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const FRAME = { data: 0, headers: 1, reset: 3, settings: 4, ping: 6, goaway: 7, window: 8, continuation: 9 } as const;
const END_HEADERS = 4;

/** One frame of HTTP/2; `length` may lie. */
function frame(type: number, flags: number, stream: number, body: Buffer, length = body.length): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, body]);
}

/** Literal header fields, as HPACK has them without tables. */
function headers(fields: Record<string, string>): Buffer {
  const parts = Object.entries(fields).flatMap(([name, value]) => [
    Buffer.from([0, name.length]),
    Buffer.from(name),
    Buffer.from([value.length]),
    Buffer.from(value),
  ]);
  return Buffer.concat(parts);
}

const CALL = {
  ':method': 'POST',
  ':scheme': 'http',
  ':path': `${SNAPSHOTS}Prepare`,
  ':authority': 'x',
  te: 'trailers',
  'content-type': 'application/grpc',
};
const HELLO = Buffer.concat([PREFACE, frame(FRAME.settings, 0, 0, Buffer.alloc(0))]);
const OPEN = frame(FRAME.headers, END_HEADERS, 1, headers(CALL));

function repeated(count: number, make: (index: number) => Buffer): Buffer {
  return Buffer.concat(Array.from({ length: count }, (_, index) => make(index)));
}

/** What a client sends, and then waits or goes. */
const NONSENSE: Record<string, (random: Random) => Buffer> = {
  'random bytes': () => randomBytes(5000),
  'HTTP/1': () => Buffer.from('GET /v1/info HTTP/1.1\r\nhost: x\r\n\r\n'),
  'half a preface': (random) => PREFACE.subarray(0, random.below(PREFACE.length)),
  'random frames': () =>
    Buffer.concat([
      HELLO,
      repeated(50, () => frame(randomBytes(1)[0] ?? 0, randomBytes(1)[0] ?? 0, 1, randomBytes(20))),
    ]),
  'a frame that is cut off': () => Buffer.concat([HELLO, frame(FRAME.headers, END_HEADERS, 1, headers(CALL), 4000)]),
  'a frame of 16 MiB': () => Buffer.concat([HELLO, frame(FRAME.data, 0, 1, randomBytes(1000), 0xffffff)]),
  'headers without end': () =>
    Buffer.concat([
      HELLO,
      frame(FRAME.headers, 0, 1, headers(CALL)),
      repeated(2000, (index) => frame(FRAME.continuation, 0, 1, headers({ [`x-${index}`]: 'y'.repeat(100) }))),
    ]),
  'streams that are reset at once': () =>
    Buffer.concat([
      HELLO,
      repeated(2000, (index) =>
        Buffer.concat([
          frame(FRAME.headers, END_HEADERS, index * 2 + 1, headers(CALL)),
          frame(FRAME.reset, 0, index * 2 + 1, Buffer.from([0, 0, 0, 8])),
        ]),
      ),
    ]),
  'pings without end': () => Buffer.concat([HELLO, repeated(5000, () => frame(FRAME.ping, 0, 0, randomBytes(8)))]),
  'settings without end': () =>
    Buffer.concat([HELLO, repeated(5000, () => frame(FRAME.settings, 0, 0, Buffer.alloc(0)))]),
  'a window that overflows': () =>
    Buffer.concat([HELLO, repeated(3, () => frame(FRAME.window, 0, 0, Buffer.from([0x7f, 0xff, 0xff, 0xff])))]),
  'a message of 4 GiB': () =>
    Buffer.concat([
      HELLO,
      OPEN,
      frame(FRAME.data, 0, 1, Buffer.concat([Buffer.from([0, 255, 255, 255, 255]), randomBytes(9000)])),
    ]),
  'a message that never ends': () =>
    Buffer.concat([HELLO, OPEN, frame(FRAME.data, 0, 1, Buffer.from([0, 0, 0, 9, 9, 1]))]),
  'a good-bye first': () => Buffer.concat([HELLO, frame(FRAME.goaway, 0, 0, Buffer.alloc(8)), OPEN]),
};

/** Keys that are odd, and perhaps allowed: containerd's own have slashes. */
const ODD_KEYS = [
  '../../etc/passwd',
  'a//b',
  '/',
  '.',
  '\u0000',
  'a\nb',
  '\u001b[2J',
  'x'.repeat(70_000),
  ' ',
  '\u{1f4a5}',
];

function send(socket: string, bytes: Buffer): Promise<Socket> {
  const client = connect(socket);
  client.on('error', () => client.destroy());
  client.resume();
  return new Promise((resolve) => {
    client.once('connect', () => {
      client.write(bytes);
      // a daemon that has seen enough reads no more, and need not take all of it
      setImmediate(() => resolve(client));
    });
    client.once('close', () => resolve(client));
  });
}

/** One call with these bytes for a message; its gRPC status, null where there was none. */
function call(session: ClientHttp2Session, method: string, body: Buffer): Promise<string | null> {
  return new Promise((resolve) => {
    const stream = session.request({ ...CALL, ':path': `${SNAPSHOTS}${method}` });
    let status: string | null = null;
    const look = (fields: Record<string, unknown>): void => {
      if (typeof fields['grpc-status'] === 'string') status = fields['grpc-status'];
    };
    stream.on('response', look);
    stream.on('trailers', look);
    stream.on('error', () => undefined);
    stream.once('close', () => resolve(status));
    stream.resume();
    const length = Buffer.alloc(5);
    length.writeUInt32BE(body.length, 1);
    stream.end(Buffer.concat([length, body]));
  });
}

function memoryOf(pid: number): number {
  return 1024 * Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
}

describeWith(`hostile clients of containerd's door (LAYERD_SEED=${SEED})`, [needsRoot()], () => {
  it('leave the daemon as it was', withstand, 3_600_000);
});

async function withstand(): Promise<void> {
  const home = makeHome();
  const random = new Random(SEED);
  const daemon = await TestDaemon.start(home);
  const socket = join(home, 'run', 'containerd.sock');
  const good = new SnapshotsClient(socket);
  try {
    await good.prepare('good');
    await sendNonsense(socket, random, CONNECTIONS / 4);
    await sendMessages(socket, random, MESSAGES / 4);
    const descriptors = readdirSync(`/proc/${daemon.pid}/fd`).length;
    const memory = memoryOf(daemon.pid);
    await sendNonsense(socket, random, CONNECTIONS);
    await sendMessages(socket, random, MESSAGES);
    await askForOddKeys(good);
    expect(memoryOf(daemon.pid) - memory).toBeLessThan(MEMORY_BYTES);
    // its connection was there before all of this
    expect(await good.list()).toEqual(['good']);
    await good.remove('good');
    expect(await daemon.client.health()).toEqual({ ok: true, problems: [] });
    // what broke the protocol and went is found by pings that nobody answers
    await expect
      .poll(() => readdirSync(`/proc/${daemon.pid}/fd`).length, { timeout: 300_000 })
      .toBeLessThanOrEqual(descriptors + 40);
    await daemon.client.gc({ grace: 0, wait: true });
    expect((await daemon.client.check()).problems).toEqual([]);
  } finally {
    good.close();
    await daemon.stop();
    removeHome(home);
  }
}

/** Half of them go at once, the others stay until all are there. */
async function sendNonsense(socket: string, random: Random, connections: number): Promise<void> {
  const waiting: Socket[] = [];
  for (let count = 0; count < connections; count += 1) {
    const client = await send(socket, random.pick(Object.values(NONSENSE))(random));
    if (random.next() < 0.5) client.destroy();
    else waiting.push(client);
  }
  for (const client of waiting) client.destroy();
}

/** Calls whose message is no message, or not of that kind: each is refused. */
async function sendMessages(socket: string, random: Random, messages: number): Promise<void> {
  const session = connectHttp2('http://x', { createConnection: () => connect(socket) });
  try {
    for (let count = 0; count < messages; count += 1) {
      // Field 1 is text: of no length, more than there is, or of another kind.
      const body = Buffer.concat([
        Buffer.from([random.pick([0x0a, 0x08, 0x0d, 0xff])]),
        randomBytes(random.below(200)),
      ]);
      expect(await call(session, random.pick(['Prepare', 'Commit', 'Remove', 'Stat', 'Update']), body)).not.toBe('0');
    }
    expect(await call(session, 'Unheard', Buffer.alloc(0))).toBe('12');
  } finally {
    session.destroy();
  }
}

async function askForOddKeys(client: SnapshotsClient): Promise<void> {
  expect(await codeOf(client.prepare('x'.repeat(17 * 1024 * 1024)))).toBe('RESOURCE_EXHAUSTED');
  for (const key of ODD_KEYS) {
    const code = await codeOf(client.prepare(key));
    expect({ key: key.slice(0, 20), code }).toEqual({
      key: key.slice(0, 20),
      code: expect.toBeOneOf([null, 'INVALID_ARGUMENT']) as unknown,
    });
    if (code === null) await client.remove(key);
    expect(await codeOf(client.stat(key))).toBeOneOf(['NOT_FOUND', 'INVALID_ARGUMENT']);
  }
}
