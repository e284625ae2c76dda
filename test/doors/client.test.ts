import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Readable } from 'node:stream';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { LayerdClient } from '../../src/client/index.js';
import type { ArchiveInput, LoadOptions } from '../../src/core/api.js';
import { LayerdError } from '../../src/core/errors.js';
import { machinePlatform } from '../../src/core/platform.js';
import type { Progress } from '../../src/core/words.js';
import type { HttpDoorOptions } from '../../src/doors/http/server.js';
import type { TestStore } from '../e2e/store.js';
import { PATIENCE } from '../support.js';
import { descriptor, layoutMembers, tarOf, writeMembers } from '../unit/image-synthetic.js';
import { ARCHIVE, IMAGE, openDoor, openStore, type Fixture } from './http-fixture.js';

const layer = IMAGE.layers[0]?.tar ?? Buffer.alloc(0);

let store: TestStore;
let fixture: Fixture;
let client: LayerdClient;
let dir: string;
/** What the engine was asked to load. */
let loads: { input: ArchiveInput; options: LoadOptions }[];

async function openClient(options: Partial<HttpDoorOptions> = {}): Promise<void> {
  fixture = await openDoor(store, options);
  client = new LayerdClient({ socket: fixture.socket });
  loads = [];
  fixture.engine.load = (input, loadOptions, progress, signal) => {
    loads.push({ input, options: loadOptions });
    return store.engine.load(input, loadOptions, progress, signal);
  };
}

async function closeClient(): Promise<void> {
  client.close();
  await fixture.close();
}

async function reopen(options: Partial<HttpDoorOptions>): Promise<void> {
  await closeClient();
  await openClient(options);
}

beforeAll(async () => {
  store = await openStore();
});
afterAll(() => store.remove());
beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'layerd-client-'));
  await openClient();
});
afterEach(async () => {
  await closeClient();
  rmSync(dir, { recursive: true, force: true });
});

/** Nothing of a load that failed stays: not in the store, nor below its root. */
async function expectNothing(): Promise<void> {
  await expect.poll(() => fixture.log.at(-1), PATIENCE).toMatchObject({ route: '/v1/images/load' });
  expect([...store.engine.images()]).toEqual([]);
  await store.collect();
  expect(await store.leftovers()).toEqual([]);
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

async function* failing(): AsyncGenerator<Buffer> {
  yield ARCHIVE.subarray(0, 1_000);
  await sleep(50);
  throw new Error('the disk of the client failed');
}

async function* endless(): AsyncGenerator<Buffer> {
  yield ARCHIVE.subarray(0, -1_024);
  for (;;) {
    yield filler();
    await sleep(10);
  }
}

/** A member that no image needs. */
function filler(): Buffer {
  return tarOf([{ path: `filler`, bytes: Buffer.alloc(512) }]).subarray(0, -1_024);
}

function head(length: number): string {
  return `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${length}\r\n\r\n`;
}

describe('calls', () => {
  it('follow an image and a container through their lives', async () => {
    const { images } = await client.load(Readable.from([ARCHIVE]), { ref: 'a/b:1' });
    const id = images[0]?.imageId ?? 'none';
    expect(id).toBe(IMAGE.id);
    expect((await client.image('a/b:1')).id).toBe(id);
    expect((await client.tag('a/b:1', 'c')).refs).toEqual(['docker.io/a/b:1', 'docker.io/library/c:latest']);
    expect(await client.history(id)).toHaveLength(1);
    const box = await client.createContainer('c', { name: 'box', labels: { k: 'v' } });
    expect(box).toMatchObject({ name: 'box', imageId: id, labels: { k: 'v' } });
    const { path, mounts } = await client.mount('box');
    expect(mounts).toBe(1);
    writeFileSync(Buffer.from(`${path}/x\xff`, 'latin1'), 'new');
    expect(await client.mountInstructions('box')).toHaveLength(1);
    expect(await collect(client.changes('box'))).toEqual([{ kind: 'A', path: '/x\\xff', bytes: 'L3j/' }]);
    expect(Buffer.concat(await collect(await client.diff('box'))).includes('new')).toBe(true);
    expect((await client.usage('box')).bytes).toBeGreaterThan(0);
    expect(await client.unmount('box', { force: true })).toEqual({ mounts: 0 });
    expect(await client.commit('box', { ref: 'new' })).toMatchObject({ ref: 'docker.io/library/new:latest' });
    expect(await client.removeContainer('box')).toEqual({ id: box.id });
    expect(await client.removeImage('c')).toMatchObject({ untagged: ['docker.io/library/c:latest'], deleted: [] });
    const told = (await collect(client.events())).map(({ type }) => type);
    expect(told).toEqual(
      expect.arrayContaining(['image.load', 'container.create', 'container.commit', 'container.delete']),
    );
  });

  it('save, and hear what differs', async () => {
    await client.load(Readable.from([ARCHIVE]), { ref: 'a' });
    const { stream, notice } = await client.save({ refs: ['a'], format: 'oci' });
    const saved = Buffer.concat(await collect(stream));
    expect(notice).toContain('manifest');
    expect(saved.includes(layer)).toBe(true);
    const [diffId = ''] = IMAGE.layers.map((one) => one.diffId);
    const tar = await client.layerTar(diffId);
    expect(tar).toMatchObject({ size: layer.length, diffId });
    expect(Buffer.concat(await collect(tar.stream))).toEqual(layer);
  });

  it('keep leases', async () => {
    const lease = await client.createLease({ id: 'l', ttlMs: 60_000 });
    expect(lease.expires).toBeGreaterThanOrEqual(lease.created + 59_000);
    const { expires } = await client.updateLease('l', { ttlMs: 600_000 });
    expect(expires).toBeGreaterThan(lease.created + 60_000);
    expect(await client.leases()).toHaveLength(1);
    await client.removeLease('l');
    await expect(client.removeLease('l')).rejects.toMatchObject({ code: 'LEASE_NOT_FOUND' });
  });

  it('throw what the daemon says, as it says it', async () => {
    const failure = await client.image('nope').catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(LayerdError);
    const told = (failure as LayerdError).toBody();
    const said: unknown = await store.engine.removeImage('nope', {}).catch((error: LayerdError) => error.toBody());
    expect(told).toMatchObject({ code: 'IMAGE_NOT_FOUND', message: expect.stringContaining('nope') as string });
    expect(told).toEqual(said);
  });

  it('tell what is wrong with the daemon', async () => {
    fixture.engine.health = () => Promise.resolve({ ok: false, problems: ['unwell'] });
    expect(await client.health()).toEqual({ ok: false, problems: ['unwell'] });
    expect(await client.metrics()).toContain('layerd_images 0');
    expect((await client.info()).driver).toBe('copy');
    expect((await client.diskUsage()).total).toBeGreaterThan(0);
    await expect(client.why('x')).rejects.toMatchObject({ message: expect.stringContaining('x') as string });
    expect(await client.gc({ dryRun: true })).toMatchObject({ dryRun: true, removed: [] });
    expect(await client.check({ quick: true })).toMatchObject({ ok: true, problems: [] });
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
    writeFileSync(path, ARCHIVE);
    const steps: Progress[] = [];
    await client.load(path, { onProgress: (step) => steps.push(step) });
    expect(steps.length).toBeGreaterThan(0);
    expect([...store.engine.images()]).toHaveLength(1);
    expect(loads).toMatchObject([{ input: { path: expect.stringContaining('/fd/') as string } }]);
  });

  it('sends the file where the daemon cannot take a descriptor', async () => {
    await reopen({ peerOf: () => null });
    const path = join(dir, 'a.tar');
    writeFileSync(path, ARCHIVE);
    const { os, architecture } = machinePlatform();
    await client.load(path, { ref: 'x', platform: { os, architecture } });
    expect(loads).toMatchObject([
      { input: { stream: expect.anything() as object }, options: { platform: { architecture } } },
    ]);
    expect([...store.engine.images()]).toMatchObject([{ id: IMAGE.id, refs: ['docker.io/library/x:latest'] }]);
  });

  it('sends a layout directory as a tar', async () => {
    await reopen({ peerOf: () => null });
    writeMembers(dir, layoutMembers([IMAGE], [descriptor(IMAGE.manifest)]));
    const { images } = await client.load(dir, { ref: 'x' });
    expect(images).toMatchObject([{ imageId: IMAGE.id }]);
    expect(loads).toMatchObject([{ input: { stream: expect.anything() as object } }]);
  });

  it('sends what is no file as a stream', async () => {
    await expect(client.load('/dev/null')).rejects.toMatchObject({ code: 'ARCHIVE_INVALID' });
    expect(loads).toMatchObject([{ input: { stream: expect.anything() as object } }]);
    await expect(client.load(join(dir, 'gone'))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });

  it('ends with the error of the source, and the daemon keeps nothing', async () => {
    await expect(client.load(failing())).rejects.toMatchObject({
      message: expect.stringContaining('of the client') as string,
    });
    await expectNothing();
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
    await expectNothing();
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

  it('is told that the socket may be that of another door, where what answers is no HTTP', async () => {
    const other = speak((socket) => socket.once('data', () => socket.end(Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]))));
    const hint = expect.stringContaining('the socket of another of its doors') as string;
    await expect(other.images()).rejects.toMatchObject({ code: 'STREAM_BROKEN', hint });
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
    await expect(noResult.load(Readable.from([ARCHIVE]))).rejects.toMatchObject({ code: 'STREAM_BROKEN' });
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
