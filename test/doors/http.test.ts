import { closeSync, openSync, readdirSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { LayerdError } from '../../src/core/errors.js';
import { DoorListener } from '../../src/doors/listener.js';
import type { HttpDoorOptions } from '../../src/doors/http/server.js';
import { linuxAvailable } from '../../src/linux/libc.js';
import type { TestStore } from '../e2e/store.js';
import { describeWith, PATIENCE, type Prerequisite } from '../support.js';
import { tarOf } from '../unit/image-synthetic.js';
import { ARCHIVE, ask, IMAGE, lines, openDoor, openStore, slowLoads, type Fixture } from './http-fixture.js';

let store: TestStore;
let fixture: Fixture | null = null;
beforeAll(async () => {
  store = await openStore();
});
afterAll(() => store.remove());
afterEach(async () => {
  await fixture?.close();
  fixture = null;
});

async function open(options: Partial<HttpDoorOptions> = {}): Promise<Fixture> {
  fixture = await openDoor(store, options);
  return fixture;
}

function needsLinux(): Prerequisite {
  const { available, reason } = linuxAvailable();
  return { name: 'Linux system calls', met: available, enable: reason };
}

async function withImage(options: Partial<HttpDoorOptions> = {}): Promise<Fixture> {
  const opened = await open(options);
  await ask(opened.socket, 'POST', '/v1/images/load?ref=base', { body: ARCHIVE });
  return opened;
}

/** The archive in pieces, a pause after each. */
async function* trickle(pieces: number, pauseMs: number): AsyncGenerator<Buffer> {
  const size = Math.ceil(ARCHIVE.length / pieces);
  for (let at = 0; at < ARCHIVE.length; at += size) {
    yield ARCHIVE.subarray(at, at + size);
    await sleep(pauseMs);
  }
}

/** The archive but for its end, and then nothing for a second. */
async function* halted(): AsyncGenerator<Buffer> {
  yield ARCHIVE.subarray(0, -1_024);
  await sleep(1_000);
}

async function* bytesThenFailure(): AsyncGenerator<Buffer> {
  yield Buffer.alloc(100_000, 'x');
  throw new LayerdError('IO_ERROR', 'the disk failed');
}

async function loadDescriptor(fd: number): Promise<Record<string, unknown>> {
  const { socket } = fixture ?? (await open());
  const answer = await ask(socket, 'POST', '/v1/images/load', { headers: { 'x-layerd-fd': String(fd) } });
  return lines(answer).at(-1) ?? {};
}

describe('requests and answers', () => {
  it('takes an archive as the body and answers progress, then the result', async () => {
    const { socket } = await open();
    const answer = await ask(socket, 'POST', '/v1/images/load?ref=a%2Fb%3A1', { body: ARCHIVE });
    expect(answer.status).toBe(200);
    expect(answer.headers['content-type']).toBe('application/x-ndjson');
    const told = lines(answer);
    expect(told[0]).toMatchObject({ progress: { phase: expect.any(String) as string } });
    expect(told.at(-1)).toMatchObject({
      result: { images: [{ imageId: IMAGE.id, refs: ['docker.io/a/b:1'] }], layersLoaded: 1 },
    });
  });

  it('names things with slashes by URL-encoding', async () => {
    const { socket } = await open();
    await ask(socket, 'POST', '/v1/images/load?ref=host%3A5000%2Fa%2Fb%3A1', { body: ARCHIVE });
    const answer = await ask(socket, 'GET', '/v1/images/host%3A5000%2Fa%2Fb%3A1');
    expect(JSON.parse(answer.text)).toMatchObject({ id: IMAGE.id, config: { config: { Cmd: ['sh'] } } });
  });

  it('answers what fails before the first progress with a status', async () => {
    const { socket } = await open();
    const answer = await ask(socket, 'POST', '/v1/images/load', { body: Buffer.alloc(0) });
    expect(answer.status).toBe(400);
    expect(JSON.parse(answer.text)).toMatchObject({
      code: 'ARCHIVE_INVALID',
      message: expect.stringContaining('holds nothing') as string,
    });
  });

  it.each([
    ['an unknown image', 'GET', '/v1/images/nope', undefined, 404, 'IMAGE_NOT_FOUND'],
    ['an unknown route', 'GET', '/v1/nope?x=1', undefined, 404, 'ROUTE_NOT_FOUND'],
    ['a method that is not there', 'PUT', '/v1/images', undefined, 404, 'ROUTE_NOT_FOUND'],
    ['a name taken', 'POST', '/v1/containers', { image: 'base', name: 'c' }, 409, 'CONTAINER_EXISTS'],
    ['a missing field', 'POST', '/v1/containers', { name: 'd' }, 400, 'INVALID_ARGUMENT'],
    ['an unknown field', 'POST', '/v1/containers', { image: 'base', nam: 'd' }, 400, 'INVALID_ARGUMENT'],
    [
      'a field of the wrong type',
      'POST',
      '/v1/containers',
      { image: 'base', readOnly: 'yes' },
      400,
      'INVALID_ARGUMENT',
    ],
    ['an unknown query parameter', 'GET', '/v1/events?sinc=1', undefined, 400, 'INVALID_ARGUMENT'],
    ['a number that is none', 'GET', '/v1/events?since=x', undefined, 400, 'INVALID_ARGUMENT'],
    ['a platform that is none', 'POST', '/v1/images/load?platform=a/b/c/d', undefined, 400, 'INVALID_ARGUMENT'],
    ['deleting what is gone', 'DELETE', '/v1/leases/gone', undefined, 404, 'LEASE_NOT_FOUND'],
  ])('refuses %s', async (_what, method, path, json, status, code) => {
    const { socket } = await withImage();
    await ask(socket, 'POST', '/v1/containers', { json: { image: 'base', name: 'c' } });
    const answer = await ask(socket, method, path, json === undefined ? {} : { json });
    expect(answer.status).toBe(status);
    expect(JSON.parse(answer.text)).toMatchObject({ code });
    expect(Object.keys(JSON.parse(answer.text) as object)).toEqual(['code', 'message', 'details', 'hint']);
  });

  it('refuses JSON that is none, and JSON that is too long', async () => {
    const { socket } = await open();
    const headers = { 'content-type': 'application/json' };
    const broken = await ask(socket, 'POST', '/v1/gc', { body: Buffer.from('{'), headers });
    expect(broken.status).toBe(400);
    const long = await ask(socket, 'POST', '/v1/gc', { body: Buffer.alloc(2 * 1024 * 1024, ' '), headers });
    expect(long.status).toBe(400);
    expect(JSON.parse(long.text)).toMatchObject({
      code: 'INVALID_ARGUMENT',
      details: { reason: 'FST_ERR_CTP_BODY_TOO_LARGE' },
    });
  });

  it('says what is wrong with a request, and what would be right', async () => {
    const { socket } = await open();
    const said = async (path: string, options: Parameters<typeof ask>[3]): Promise<string> =>
      (JSON.parse((await ask(socket, 'POST', path, options)).text) as { message: string; hint: string }).message;
    expect(await said('/v1/containers', { json: { image: 'a', nam: 'b' } })).toBe(
      'body has the property "nam", which is not known',
    );
    expect(await said('/v1/migrate', { json: { to: 'zfs' } })).toMatch(/^body\/to must be one of .*overlay2/);
    expect(await said('/v1/gc', { body: Buffer.from('<gc/>'), headers: { 'content-type': 'text/xml' } })).toBe(
      'the body is not said to be JSON',
    );
  });

  it('sends lists as lines and ends them with an error line if they fail', async () => {
    const { socket, engine } = await withImage();
    await ask(socket, 'POST', '/v1/containers', { json: { image: 'base', name: 'c' } });
    const { path } = await engine.mount('c');
    writeFileSync(join(path, 'new'), '');
    writeFileSync(Buffer.from(`${path}/x\xff`, 'latin1'), '');
    const whole = await ask(socket, 'GET', '/v1/containers/c/changes');
    expect(lines(whole)).toEqual([
      { kind: 'A', path: '/new' },
      { kind: 'A', path: '/x\\xff', bytes: 'L3j/' },
    ]);
    engine.changes = () =>
      Promise.resolve(
        (async function* () {
          yield [{ kind: 'C', path: '/' } as const];
          throw new LayerdError('IO_ERROR', 'the disk failed');
        })(),
      );
    const failed = await ask(socket, 'GET', '/v1/containers/c/changes');
    expect(lines(failed).at(-1)).toMatchObject({ error: { code: 'IO_ERROR' } });
  });

  it('says what differs in a header when it saves', async () => {
    const { socket } = await withImage();
    const answer = await ask(socket, 'GET', '/v1/images/save?ref=base&ref=base&format=oci');
    expect(answer.text).toContain(IMAGE.id.slice('sha256:'.length));
    expect(decodeURI(String(answer.headers['x-layerd-notice']))).toContain('manifest');
  });

  it('breaks the connection when bytes fail on the way, so that nobody takes them for whole', async () => {
    const { socket, engine, log } = await withImage();
    await ask(socket, 'POST', '/v1/containers', { json: { image: 'base', name: 'c' } });
    engine.diff = () => Promise.resolve(bytesThenFailure());
    const answer = await ask(socket, 'GET', '/v1/containers/c/diff');
    expect(answer).toMatchObject({ status: 200, broken: true });
    await expect
      .poll(() => log.at(-1), PATIENCE)
      .toMatchObject({ msg: 'request failed', code: 'IO_ERROR', route: '/v1/containers/:name/diff' });
  });

  it('logs one line per finished request, with its duration and its peer', async () => {
    const { socket, log } = await open();
    await ask(socket, 'GET', '/v1/images/nope');
    expect(log.filter(({ msg }) => msg !== 'request finished')).toEqual([
      expect.objectContaining({
        level: 30,
        msg: 'request refused',
        route: '/v1/images/:name',
        params: { name: 'nope' },
        status: 404,
        code: 'IMAGE_NOT_FOUND',
        duration_ms: expect.any(Number) as number,
        peer_uid: process.getuid?.(),
        peer_pid: process.pid,
      }),
    ]);
    expect(log[0]?.['duration_ms']).toBeGreaterThan(0);
  });

  it('counts them in the metrics', async () => {
    const { socket } = await open();
    await ask(socket, 'GET', '/v1/images');
    const { text, headers } = await ask(socket, 'GET', '/metrics');
    expect(headers['content-type']).toContain('text/plain');
    expect(text).toContain(
      'layerd_http_request_duration_seconds_count{method="GET",route="/v1/images",status="200"} 1',
    );
    expect(text).toContain('layerd_images 0');
    expect(text).toContain('layerd_http_requests_running 1');
  });

  it('answers 503 when it is unwell', async () => {
    const { socket, engine } = await open();
    expect((await ask(socket, 'GET', '/v1/health')).status).toBe(200);
    engine.health = () => Promise.resolve({ ok: false, problems: ['unwell'] });
    const answer = await ask(socket, 'GET', '/v1/health');
    expect(answer.status).toBe(503);
    expect(JSON.parse(answer.text)).toEqual({ ok: false, problems: ['unwell'] });
  });
});

describe('repeated requests', () => {
  it('take effect once under one key', async () => {
    const { socket, engine } = await withImage();
    const key = { 'idempotency-key': 'k1' };
    const json = { image: 'base', name: 'c' };
    const first = await ask(socket, 'POST', '/v1/containers', { json, headers: key });
    const again = await ask(socket, 'POST', '/v1/containers', { json, headers: key });
    expect(again.status).toBe(201);
    expect(again.text).toBe(first.text);
    const mounts = [0, 1].map(() =>
      ask(socket, 'POST', '/v1/containers/c/mount', { headers: { 'idempotency-key': 'k2' } }),
    );
    expect((await Promise.all(mounts)).map(({ text }) => (JSON.parse(text) as { mounts: number }).mounts)).toEqual([
      1, 1,
    ]);
    expect(engine.container('c').mounts).toBe(1);
  });

  it('are tried again after a failure, and a key is not for two requests', async () => {
    const { socket } = await withImage();
    const key = { 'idempotency-key': 'k3' };
    expect((await ask(socket, 'POST', '/v1/containers', { json: { image: 'no' }, headers: key })).status).toBe(404);
    await sleep(1);
    expect((await ask(socket, 'POST', '/v1/containers', { json: { image: 'base' }, headers: key })).status).toBe(201);
    const other = await ask(socket, 'POST', '/v1/containers', { json: { image: 'base', name: 'x' }, headers: key });
    expect(JSON.parse(other.text)).toMatchObject({ code: 'INVALID_ARGUMENT', details: { key: 'k3' } });
  });
});

/** An archive that is long because of a member that no image needs. */
const LONG_ARCHIVE = Buffer.concat([
  tarOf([{ path: 'filler', bytes: Buffer.alloc(400 * 65_536) }]).subarray(0, -1024),
  ARCHIVE,
]);

/** Slows the loads of the door that is open. */
function slow(pauseMs: number): () => void {
  if (fixture === null) throw new Error('no door is open');
  return slowLoads(fixture, pauseMs);
}

/** Nothing of a load that failed is in the store, nor below its root. */
async function expectNothing(): Promise<void> {
  expect([...store.engine.images()]).toEqual([]);
  await store.collect();
  expect(await store.leftovers()).toEqual([]);
}

describe('uploads', () => {
  it('may take longer than the limit in total, as long as they move', async () => {
    const { socket } = await open({ stallMs: 200 });
    const began = performance.now();
    const answer = await ask(socket, 'POST', '/v1/images/load', { body: trickle(12, 50) });
    expect(performance.now() - began).toBeGreaterThan(500);
    expect(lines(answer).at(-1)).toHaveProperty('result');
  });

  it('are given up when they stand still, with an answer that says so', async () => {
    const { socket } = await open({ stallMs: 150 });
    const answer = await ask(socket, 'POST', '/v1/images/load', { body: halted() });
    expect(lines(answer).at(-1)).toMatchObject({ code: 'TIMEOUT', details: { limitMs: 150 } });
    await expectNothing();
  });

  it('do not time out because the engine is slow', async () => {
    const { socket } = await open({ stallMs: 100 });
    slow(300);
    const answer = await ask(socket, 'POST', '/v1/images/load', { body: trickle(3, 1) });
    expect(lines(answer).at(-1)).toHaveProperty('result');
  });

  it('push back: a slow engine holds its client, and memory does not hold the body', async () => {
    const { socket } = await open();
    const atOnce = slow(30);
    let sent = 0;
    const body = async function* (): AsyncGenerator<Buffer> {
      for (let at = 0; at < LONG_ARCHIVE.length; at += 65_536, sent++) yield LONG_ARCHIVE.subarray(at, at + 65_536);
    };
    const answered = ask(socket, 'POST', '/v1/images/load', { body: body() });
    await expect.poll(() => sent, PATIENCE).toBeGreaterThan(5);
    await sleep(300);
    expect(sent).toBeLessThan(100);
    atOnce();
    expect(lines(await answered).at(-1)).toHaveProperty('result');
  });

  it('leave nothing behind when their client hangs up', async () => {
    const { socket, log } = await open();
    const client = connect(socket);
    client.write('POST /v1/images/load HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n400\r\n');
    client.write(ARCHIVE.subarray(0, 0x400));
    await sleep(50);
    client.destroy();
    await expect.poll(() => log.at(-1), PATIENCE).toMatchObject({ route: '/v1/images/load', code: 'CANCELLED' });
    await expectNothing();
  });

  it('get to see an early refusal even while they are sending', async () => {
    const { socket } = await open();
    const answer = await ask(socket, 'POST', '/v1/nowhere', { body: Buffer.alloc(20 * 1024 * 1024) });
    expect(answer.status).toBe(404);
  });
});

describeWith('descriptors of the client', [needsLinux()], () => {
  it('are read by the daemon itself', async () => {
    const { socket } = await open();
    const path = join(dirname(socket), 'archive');
    writeFileSync(path, ARCHIVE);
    const fd = openSync(path, 'r');
    unlinkSync(path);
    expect(await loadDescriptor(fd)).toMatchObject({ result: { images: [{ imageId: IMAGE.id }] } });
    closeSync(fd);
  });

  it.each([
    ['is not open', () => 4_000, 'no such descriptor'],
    ['was opened for writing only', (dir: string) => openSync(join(dir, 'w'), 'w'), 'not opened for reading'],
    // O_PATH needs no right to read the file
    ['is a mere name', (dir: string) => openSync(dir, 0o10000000), 'not opened for reading'],
    ['is a device', () => openSync('/dev/zero', 'r'), 'neither a file nor a directory'],
  ])('are refused when one %s', async (_what, openIt, says) => {
    const { socket } = await open();
    const fd = openIt(dirname(socket));
    expect(await loadDescriptor(fd)).toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining(says) as string,
    });
    if (fd < 4_000) closeSync(fd);
  });

  it('are refused where nobody can tell whose they are', async () => {
    await open({ peerOf: () => null });
    expect(await loadDescriptor(0)).toMatchObject({ code: 'NOT_PERMITTED' });
  });

  it('are closed again', async () => {
    const { engine } = await open();
    const before = readdirSync('/proc/self/fd').length;
    const fd = openSync('/dev/null', 'r');
    for (let i = 0; i < 20; i++) await loadDescriptor(fd);
    engine.load = () => Promise.reject(new LayerdError('ARCHIVE_INVALID', 'no'));
    const dir = openSync('/', 'r');
    for (let i = 0; i < 20; i++) expect(await loadDescriptor(dir)).toMatchObject({ code: 'ARCHIVE_INVALID' });
    closeSync(fd);
    closeSync(dir);
    expect(readdirSync('/proc/self/fd').length).toBeLessThan(before + 10);
  });
});

describe('downloads', () => {
  it('wait for a client that does not read, and give it up after the limit', async () => {
    const { socket, engine, log } = await withImage({ stallMs: 200 });
    await ask(socket, 'POST', '/v1/containers', { json: { image: 'base', name: 'c' } });
    let produced = 0;
    let ended = false;
    const many = async function* (): AsyncGenerator<Buffer> {
      try {
        for (; produced < 2_000; produced++) yield Buffer.alloc(65_536);
      } finally {
        ended = true;
      }
    };
    engine.diff = () => Promise.resolve(many());
    const client = connect(socket).pause();
    client.write('GET /v1/containers/c/diff HTTP/1.1\r\nhost: x\r\n\r\n');
    await expect.poll(() => ended, PATIENCE).toBe(true);
    expect(produced).toBeLessThan(200);
    await expect
      .poll(() => log.at(-1), PATIENCE)
      .toMatchObject({ route: '/v1/containers/:name/diff', code: 'TIMEOUT' });
    client.destroy();
  });
});

describe('events', () => {
  it('are replayed from a number on, and followed', async () => {
    const { socket } = await withImage();
    const first = lines(await ask(socket, 'GET', '/v1/events')).at(-1);
    const since = Number(first?.['seq']);
    await ask(socket, 'POST', '/v1/containers', { json: { image: 'base' } });
    const next = lines(await ask(socket, 'GET', `/v1/events?since=${since}`));
    expect(next).toMatchObject([{ seq: since + 1, type: 'container.create' }]);
    const followed = ask(socket, 'GET', `/v1/events?since=${since + 1}&follow=true`);
    await ask(socket, 'POST', '/v1/containers', { json: { image: 'base' } });
    await sleep(50);
    await fixture?.door.close(1_000);
    expect(lines(await followed)).toMatchObject([{ seq: since + 2, type: 'container.create' }]);
  });
});

/** A group that the process may give to its socket. */
const GROUP = process.getuid?.() === 0 ? 7 : (process.getgid?.() ?? 0);

describe('the socket', () => {
  it('is for its owner and group alone', async () => {
    const { socket } = await open({ gid: GROUP });
    const { mode, gid } = statSync(socket);
    expect(mode & 0o777).toBe(0o660);
    expect(gid).toBe(GROUP);
  });

  it('refuses peers that may not connect, and logs them', async () => {
    const { socket, log, metrics } = await open({ gid: GROUP, peerOf: () => ({ pid: 42, uid: 1234, groups: [1234] }) });
    await expect(ask(socket, 'GET', '/v1/health')).rejects.toThrow();
    expect(log).toEqual([
      expect.objectContaining({ level: 40, msg: 'connection refused', peer_pid: 42, peer_uid: 1234 }),
    ]);
    expect(await metrics.text()).toContain('layerd_http_connections_refused_total 1');
  });

  it('lets members of the group in, and forgets them when the group changes', async () => {
    const { socket, door } = await open({ gid: GROUP, peerOf: () => ({ pid: 42, uid: 1234, groups: [1234, GROUP] }) });
    expect((await ask(socket, 'GET', '/v1/health')).status).toBe(200);
    await door.setGroup(null);
    await expect(ask(socket, 'GET', '/v1/health')).rejects.toThrow();
  });

  it('replaces one that a dead daemon left, but not one that is served, nor a file', async () => {
    const { socket } = await open();
    const again = {
      at: { path: socket },
      gid: null,
      log: pino({ level: 'silent' }),
      halfOpen: true,
      peerOf: () => null,
      accept: () => undefined,
    };
    await expect(DoorListener.open(again)).rejects.toMatchObject({ code: 'SOCKET_IN_USE' });
    const file = join(dirname(socket), 'file');
    writeFileSync(file, '');
    await expect(DoorListener.open({ ...again, at: { path: file } })).rejects.toMatchObject({ code: 'SOCKET_IN_USE' });
    expect(statSync(file).isFile()).toBe(true);
  });

  it('closes connections that ask nothing, and those whose question does not end', async () => {
    const { socket } = await open({ idleMs: 150 });
    const partial = 'GET /v1/health HTTP/1.1\r\nhost: ';
    const whole = `${partial}x\r\n\r\n`;
    for (const said of ['', partial, whole, `${whole}${partial}`]) {
      const client = connect(socket);
      const began = performance.now();
      client.resume().write(said);
      await once(client, 'close');
      expect(performance.now() - began).toBeGreaterThan(100);
    }
  });

  it('keeps those whose answer takes long', async () => {
    const { socket } = await open({ idleMs: 50 });
    slow(200);
    const answer = await ask(socket, 'POST', '/v1/images/load', { body: ARCHIVE });
    expect(lines(answer).at(-1)).toHaveProperty('result');
  });

  it('survives nonsense', async () => {
    const { socket } = await open();
    for (const nonsense of ['\0\0\0', 'GET / HTTP/9.9\r\n\r\n', `GET /${'a'.repeat(100_000)} HTTP/1.1\r\n\r\n`]) {
      await new Promise<void>((resolve) => {
        const client = connect(socket);
        client.on('error', () => undefined);
        client.once('close', () => resolve());
        client.resume();
        client.write(nonsense);
      });
    }
    expect((await ask(socket, 'GET', '/v1/health')).status).toBe(200);
  });
});

describe('stopping', () => {
  it('finishes what runs, within the limit', async () => {
    const { socket, door } = await open();
    slow(100);
    const loading = ask(socket, 'POST', '/v1/images/load', { body: ARCHIVE });
    await sleep(50);
    await door.close(5_000);
    expect(lines(await loading).at(-1)).toHaveProperty('result');
    await expect(ask(socket, 'GET', '/v1/health')).rejects.toThrow();
  });

  it('aborts what does not finish', async () => {
    const { socket, door } = await open();
    slow(100);
    const loading = ask(socket, 'POST', '/v1/images/load', { body: trickle(100, 20) });
    await sleep(150);
    await door.close(100);
    expect(lines(await loading).at(-1)).toMatchObject({ code: 'SHUTTING_DOWN' });
  });
});
