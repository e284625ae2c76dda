import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LayerdClient } from '../../src/client/index.js';
import { sha256 } from '../../src/core/digest.js';
import { LayerdError } from '../../src/core/errors.js';
import type { Progress } from '../../src/core/words.js';
import type { HttpDoorOptions } from '../../src/doors/http/server.js';
import { PATIENCE } from '../support.js';
import { openDoor, type Fixture } from './http-fixture.js';

const archive = Buffer.from('an archive');
let fixture: Fixture;
let client: LayerdClient;
let dir: string;

async function reopen(options: Partial<HttpDoorOptions> = {}): Promise<void> {
  await fixture.close();
  client.close();
  fixture = await openDoor(options);
  client = new LayerdClient({ socket: fixture.socket });
}

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'layerd-client-'));
  fixture = await openDoor();
  client = new LayerdClient({ socket: fixture.socket });
});
afterEach(async () => {
  client.close();
  await fixture.close();
  rmSync(dir, { recursive: true, force: true });
});

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

async function* failing(): AsyncGenerator<Buffer> {
  yield archive;
  await sleep(50);
  throw new Error('the disk of the client failed');
}

async function* endless(): AsyncGenerator<Buffer> {
  for (;;) {
    yield archive;
    await sleep(10);
  }
}

function head(length: number): string {
  return `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${length}\r\n\r\n`;
}

describe('calls', () => {
  it('follow an image and a container through their lives', async () => {
    const { images } = await client.load(Readable.from([archive]), { ref: 'a/b:1' });
    const id = images[0]?.imageId ?? 'none';
    expect(id).toBe(sha256(archive));
    expect((await client.image('a/b:1')).id).toBe(id);
    expect((await client.tag('a/b:1', 'c')).refs).toEqual(['a/b:1', 'c']);
    expect(await client.history(id)).toHaveLength(1);
    const box = await client.createContainer('c', { name: 'box', labels: { k: 'v' } });
    expect(box).toMatchObject({ name: 'box', imageId: id, labels: { k: 'v' } });
    expect(await client.mount('box')).toEqual({ path: `/merged/${box.id}`, mounts: 1 });
    expect(await client.mountInstructions('box')).toHaveLength(1);
    expect(await collect(client.changes('box'))).toEqual([
      { kind: 'C', path: '/' },
      { kind: 'A', path: '/x\\xff', bytes: 'L3j/' },
    ]);
    expect(Buffer.concat(await collect(await client.diff('box')))).toEqual(Buffer.alloc(1024));
    expect(await client.unmount('box', { force: true })).toEqual({ mounts: 0 });
    expect(await client.commit('box', { ref: 'new' })).toMatchObject({ ref: 'new' });
    expect(await client.usage('box')).toEqual({ bytes: 4096, inodes: 1 });
    expect(await client.removeContainer('box')).toEqual({ id: box.id });
    expect(await client.removeImage('c')).toEqual({ untagged: ['a/b:1', 'c'], deleted: [id] });
    expect((await collect(client.events())).map(({ type }) => type)).toEqual(['image.load', 'container.create']);
  });

  it('save, and hear what differs', async () => {
    await client.load(Readable.from([archive]), { ref: 'a' });
    const { stream, notice } = await client.save({ refs: ['a'], format: 'oci' });
    expect(Buffer.concat(await collect(stream))).toEqual(archive);
    expect(notice).toBe('the manifest digest differs – as ever');
    const tar = await client.layerTar(sha256(archive));
    expect(tar).toMatchObject({ size: archive.length, diffId: sha256(archive) });
    expect(Buffer.concat(await collect(tar.stream))).toEqual(archive);
  });

  it('keep leases', async () => {
    expect(await client.createLease({ id: 'l', ttlMs: 5 })).toMatchObject({ id: 'l', expires: 6 });
    expect(await client.updateLease('l', { ttlMs: 9 })).toMatchObject({ expires: 10 });
    expect(await client.leases()).toHaveLength(1);
    await client.removeLease('l');
    await expect(client.removeLease('l')).rejects.toMatchObject({ code: 'LEASE_NOT_FOUND' });
  });

  it('throw what the daemon says, as it says it', async () => {
    const failure = await client.image('nope').catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(LayerdError);
    expect((failure as LayerdError).toBody()).toEqual({
      code: 'IMAGE_NOT_FOUND',
      message: 'there is no image nope',
      details: { name: 'nope' },
      hint: 'Load it.',
    });
  });

  it('tell what is wrong with the daemon', async () => {
    fixture.engine.healthy = false;
    expect(await client.health()).toEqual({ ok: false, problems: ['unwell'] });
    expect(await client.metrics()).toContain('layerd_images 0');
    expect((await client.info()).fileSystem).toBe('memory');
    expect((await client.diskUsage()).total).toBe(4096);
    expect((await client.why('x')).conclusion).toBe('nothing keeps it');
    expect((await client.gc({ dryRun: true })).dryRun).toBe(true);
    expect((await client.check({ quick: true })).problems).toHaveLength(1);
    expect(await client.layerTree()).toEqual([]);
    expect(await client.layers()).toEqual([]);
  });

  it('can be given up', async () => {
    const abort = new AbortController();
    const following = collect(client.events({ follow: true, signal: abort.signal }));
    await sleep(50);
    abort.abort();
    await expect(following).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

describe('loading', () => {
  it('hands the daemon a descriptor of a file, and sends nothing', async () => {
    const path = join(dir, 'a.tar');
    writeFileSync(path, archive);
    const steps: Progress[] = [];
    await client.load(path, { onProgress: (step) => steps.push(step) });
    // a body has a size, or null when it is chunked; the engine of this test tells null for a path
    expect(steps).toEqual([{ phase: 'read', subject: '', done: archive.length, total: null }]);
    expect(fixture.engine.images()).toHaveLength(1);
    expect(fixture.engine.pathsLoaded).toBe(1);
  });

  it('sends the file where the daemon cannot take a descriptor', async () => {
    await reopen({ peerOf: () => null });
    const path = join(dir, 'a.tar');
    writeFileSync(path, archive);
    await client.load(path, { ref: 'x', platform: { os: 'linux', architecture: 'arm64', variant: 'v8' } });
    expect(fixture.engine.pathsLoaded).toBe(0);
    expect(fixture.engine.images()).toMatchObject([{ id: sha256(archive), refs: ['x'] }]);
    expect(fixture.engine.lastLoad).toMatchObject({ platform: { architecture: 'arm64' } });
  });

  it('sends a layout directory as a tar that tar can read', async () => {
    await reopen({ peerOf: () => null });
    mkdirSync(join(dir, 'blobs/sha256'), { recursive: true });
    writeFileSync(join(dir, 'oci-layout'), '{}');
    writeFileSync(join(dir, 'index.json'), '{"x":1}');
    writeFileSync(join(dir, 'blobs/sha256/abc'), 'blob');
    const { images } = await client.load(dir);
    const { stream } = await client.layerTar(images[0]?.imageId ?? '');
    const tar = join(dir, 'sent.tar');
    writeFileSync(tar, Buffer.concat(await collect(stream)));
    const names = execFileSync('tar', ['-tf', tar], { encoding: 'utf8' }).trim().split('\n');
    expect(names).toEqual(['oci-layout', 'index.json', 'blobs/', 'blobs/sha256/', 'blobs/sha256/abc']);
    expect(execFileSync('tar', ['-xOf', tar, 'blobs/sha256/abc'], { encoding: 'utf8' })).toBe('blob');
  });

  it('sends what is no file as a stream', async () => {
    await expect(client.load('/dev/null')).rejects.toMatchObject({ code: 'ARCHIVE_INVALID' });
    expect(fixture.engine.pathsLoaded).toBe(0);
    await expect(client.load(join(dir, 'gone'))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });

  it('ends with the error of the source, and the daemon keeps nothing', async () => {
    await expect(client.load(failing())).rejects.toMatchObject({
      message: expect.stringContaining('of the client') as string,
    });
    await expect.poll(() => fixture.engine.loadsFailed, PATIENCE).toBe(1);
    expect(fixture.engine.images()).toEqual([]);
  });

  it('stops sending when the daemon has failed', async () => {
    fixture.engine.load = async (_input, _options, progress) => {
      progress({ phase: 'read', subject: '', done: 0, total: null });
      await sleep(20);
      throw new LayerdError('NO_SPACE', 'the disk is full');
    };
    let sent = 0;
    const source = async function* (): AsyncGenerator<Buffer> {
      for (; sent < 1_000_000; sent++) yield Buffer.alloc(65_536);
    };
    await expect(client.load(source())).rejects.toMatchObject({ code: 'NO_SPACE' });
    const then = sent;
    await sleep(100);
    expect(sent).toBeLessThan(then + 5);
  });

  it('can be given up, and leaves nothing', async () => {
    const abort = new AbortController();
    const loading = client.load(endless(), { signal: abort.signal });
    await sleep(50);
    abort.abort();
    await expect(loading).rejects.toMatchObject({ code: 'CANCELLED' });
    await expect.poll(() => fixture.engine.loadsFailed, PATIENCE).toBe(1);
  });
});

describe('a daemon that goes away', () => {
  let server: Server | null = null;
  afterEach(() => server?.close());

  /** A server that speaks only what the test says. */
  function speak(onConnection: (socket: Socket, count: number) => void): LayerdClient {
    const path = join(dir, 'fake.sock');
    let count = 0;
    server = createServer((socket) => {
      socket.on('error', () => undefined);
      onConnection(socket, ++count);
    }).listen(path);
    return new LayerdClient({ socket: path });
  }

  it('is named when it is not there', async () => {
    const nobody = new LayerdClient({ socket: join(dir, 'nobody') });
    await expect(nobody.images()).rejects.toMatchObject({
      code: 'DAEMON_UNREACHABLE',
      details: { socket: nobody.socket },
    });
  });

  it('is noticed in the middle of an answer', async () => {
    const broken = speak((socket) => socket.once('data', () => socket.end(`${head(100)}[`)));
    await expect(broken.images()).rejects.toMatchObject({ code: 'STREAM_BROKEN' });
  });

  it('is noticed in the middle of a stream of lines', async () => {
    const broken = speak((socket) =>
      socket.once('data', () => socket.end(`${head(5)}{"a"\n`.replace('content-length: 5', 'connection: close'))),
    );
    await expect(collect(broken.events())).rejects.toBeInstanceOf(Error);
    const noResult = speakAgain('{"progress":{"phase":"read","subject":"","done":1,"total":null}}\n');
    await expect(noResult.load(Readable.from([archive]))).rejects.toMatchObject({ code: 'STREAM_BROKEN' });
  });

  function speakAgain(text: string): LayerdClient {
    server?.close();
    return speak((socket) => socket.once('data', () => socket.end(head(Buffer.byteLength(text)) + text)));
  }

  it('gets a request once more that crossed its closing of an idle connection', async () => {
    const keys: string[] = [];
    const crossing = speak((socket, count) => {
      let requests = 0;
      socket.on('data', (data) => {
        requests++;
        const key = /idempotency-key: (\S+)/i.exec(data.toString())?.[1];
        if (key !== undefined) keys.push(key);
        // the first connection answers once, then closes without an answer
        if (count === 1 && requests === 2) socket.destroy();
        else socket.write(`${head(15)}{"mounts":  0 }`);
      });
    });
    await crossing.unmount('c');
    await sleep(10);
    expect(await crossing.unmount('c')).toEqual({ mounts: 0 });
    expect(keys).toHaveLength(3);
    expect(keys[1]).toBe(keys[2]);
    expect(keys[0]).not.toBe(keys[1]);
    crossing.close();
  });
});
