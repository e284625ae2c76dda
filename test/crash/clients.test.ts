/** Clients that mean no good, or vanish: a daemon that has met many of them is as it was. */
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { LayerdError } from '../../src/core/errors.js';
import { makeHome, removeHome, TestDaemon } from '../cli/daemon.js';
import { describeWith, needsRoot } from '../support.js';
import { REF, writeCrashImage } from './image.js';
import { FULL, Random, SEED } from './random.js';

const CONNECTIONS = FULL ? 4000 : 1000;
const VANISHING = FULL ? 2000 : 100;

/** A connection that sends something and may go at any moment. */
async function send(socket: string, bytes: Buffer | string): Promise<Socket> {
  const client = connect(socket);
  client.on('error', () => client.destroy());
  await new Promise<void>((resolve) => client.once('connect', resolve).once('close', () => resolve()));
  if (!client.destroyed) client.write(bytes);
  return client;
}

/** A begun upload of a real archive, given up somewhere in it. */
function upload(archive: Buffer, random: Random): Buffer {
  const head = `POST /v1/images/load HTTP/1.1\r\nhost: x\r\ncontent-length: ${archive.length}\r\n\r\n`;
  return Buffer.concat([Buffer.from(head), archive.subarray(0, random.below(archive.length))]);
}

const NONSENSE: (string | Buffer)[] = [
  'GET / HTTP/9.9\r\n\r\n',
  'GET /v1/../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n',
  'POST /v1/images/load HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n',
  'POST /v1/gc HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\n{}',
  `GET /v1/images/${'a'.repeat(100_000)} HTTP/1.1\r\nhost: x\r\n\r\n`,
  Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
  randomBytes(5000),
];

const ODD_NAMES = [
  '../../etc/passwd',
  'a/b',
  '%2e%2e%2f',
  '\u0000',
  'a\nb',
  '\u001b[2J',
  'x'.repeat(5000),
  ' ',
  '\u{1f4a5}',
];

describeWith(`hostile clients (LAYERD_SEED=${SEED})`, [needsRoot()], () => {
  it('leave the daemon as it was', withstand, 3_600_000);
});

async function withstand(): Promise<void> {
  const home = makeHome();
  const random = new Random(SEED);
  const path = join(home, 'image.tar');
  writeCrashImage(path);
  const archive = readFileSync(path);
  const daemon = await TestDaemon.start(home);
  try {
    await daemon.client.load(path);
    const before = readdirSync(`/proc/${daemon.pid}/fd`).length;
    const open: Socket[] = [];
    for (let count = 0; count < CONNECTIONS; count += 1) open.push(await send(daemon.socket, random.pick(NONSENSE)));
    for (let count = 0; count < VANISHING; count += 1) (await send(daemon.socket, upload(archive, random))).destroy();
    for (const name of ODD_NAMES) {
      const calls = [
        daemon.client.container(name),
        daemon.client.image(name),
        daemon.client.createContainer(REF, { name }),
      ];
      for (const outcome of await Promise.allSettled(calls)) {
        expect({ name, status: outcome.status }).toEqual({ name, status: 'rejected' });
        const reason: unknown = outcome.status === 'rejected' ? outcome.reason : null;
        expect(reason).toBeInstanceOf(LayerdError);
        expect((reason as LayerdError).code).not.toBe('INTERNAL');
      }
    }
    for (const client of open) client.destroy();
    expect(await daemon.client.health()).toEqual({ ok: true, problems: [] });
    // What was given up ends at its own pace.
    await expect.poll(async () => (await daemon.client.info()).counts.leases, { timeout: 120_000 }).toBe(0);
    await expect
      .poll(() => readdirSync(`/proc/${daemon.pid}/fd`).length, { timeout: 120_000 })
      .toBeLessThanOrEqual(before + 40);
    await daemon.client.gc({ grace: 0, wait: true });
    expect((await daemon.client.check()).problems).toEqual([]);
    expect((await daemon.client.image(REF)).refs).toEqual([REF]);
  } finally {
    await daemon.stop();
    removeHome(home);
  }
}
