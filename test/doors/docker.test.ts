/** docker.graphdriver/1.0 as dockerd speaks it, without dockerd: every verb, twice, in odd orders and with broken bodies. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bytesOf } from '../../src/core/bytes.js';
import { sha256 } from '../../src/core/digest.js';
import type { DriverName } from '../../src/core/words.js';
import { DockerDoor } from '../../src/doors/docker/server.js';
import { DoorMetrics } from '../../src/doors/metrics.js';
import { peerOf } from '../../src/doors/peer.js';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { GraphDriverClient, type Reply } from '../clients/graph-driver-client.js';
import { silent, TestStore } from '../e2e/store.js';
import { entrySpec, layerTar } from '../model/spec.js';
import { describeWith, needsRoot, PATIENCE } from '../support.js';

const BASE = layerTar([
  entrySpec(bytesOf('etc'), { type: 'directory' }),
  entrySpec(bytesOf('etc/motd'), { content: Buffer.from('base\n') }),
]);
const NEXT = layerTar([entrySpec(bytesOf('next'), { content: Buffer.from('next\n') })]);
const EMPTY = Buffer.alloc(1024);

/** Ids as Docker makes them. */
const [base, next, box] = ['base', 'next', 'box'].map((name) => sha256(name).slice(7)) as [string, string, string];

describeWith('the door for Docker', [needsRoot()], () => {
  let home: string;
  let store: TestStore;
  let door: DockerDoor;
  let metrics: DoorMetrics;
  let client: GraphDriverClient;

  async function open(driver: DriverName): Promise<void> {
    home = mkdtempSync(join(tmpdir(), 'layerd-docker-'));
    client = new GraphDriverClient(join(home, 'sock'));
    store = await TestStore.open({ driver });
    await openDoor();
  }

  async function openDoor(): Promise<void> {
    const at = { path: join(home, 'sock') };
    metrics = new DoorMetrics();
    door = await DockerDoor.open({
      at,
      gid: null,
      peerOf,
      log: silent,
      metrics,
      engine: store.engine,
      stallMs: 10_000,
    });
  }

  afterEach(async () => {
    await door.close(0);
    await store.remove();
    rmSync(home, { recursive: true, force: true });
  });

  const ask = (path: string, body: Buffer, cut = false): Promise<Reply> => client.ask(path, body, cut);
  const verb = (name: string, body: object = {}): Promise<Record<string, unknown>> => client.verb(name, body);
  const apply = (id: string, parent: string, tar: Buffer): Promise<Record<string, unknown>> =>
    client.apply(id, parent, tar);

  async function done(name: string, body: object = {}): Promise<Record<string, unknown>> {
    const answer = await verb(name, body);
    expect(answer, name).not.toHaveProperty('Err');
    return answer;
  }

  async function layer(id: string, parent: string, tar: Buffer): Promise<void> {
    await done('Create', { ID: id, Parent: parent, MountLabel: '', StorageOpt: null });
    expect(await apply(id, parent, tar)).toEqual({ Size: tar.length });
  }

  async function diff(id: string, parent: string): Promise<Buffer> {
    const { status, body } = await client.diff(id, parent);
    expect(status, body.toString('latin1').slice(0, 500)).toBe(200);
    return body;
  }

  function held(): string[] {
    return mountsBelow(join(store.config.run, 'm')).map(({ mountPoint }) => mountPoint);
  }

  it('keeps idle connections, and refuses what dockerd repeats without its body', async () => {
    await open('overlay2');
    const socket = connect(join(home, 'sock'));
    const answers: string[] = [];
    socket.setEncoding('utf8').on('data', (text: string) => answers.push(text));
    const asked = (body: string): void => {
      const head = `POST /GraphDriver.Exists HTTP/1.1\r\nhost: d\r\ncontent-length: ${body.length}\r\n\r\n`;
      socket.write(head + body);
    };
    asked(JSON.stringify({ ID: base }));
    // longer than Node keeps idle connections unless it is told otherwise
    await setTimeout(7000);
    asked(JSON.stringify({ ID: next }));
    await expect.poll(() => answers.join('').match(/"Exists":false/g)?.length, PATIENCE).toBe(2);
    socket.destroy();
    for (const name of [
      'Create',
      'CreateReadWrite',
      'Remove',
      'Get',
      'Put',
      'Exists',
      'GetMetadata',
      'Changes',
      'Diff',
    ]) {
      const { status, body } = await ask(`/GraphDriver.${name}`, Buffer.alloc(0));
      expect(status, name).toBe(500);
      expect(body.toString(), name).toContain(`${name} names no ID`);
    }
    expect([...store.engine.snapshots.list('docker')]).toEqual([]);
  });

  it('refuses what would lie on itself, or on each other', async () => {
    await open('overlay2');
    const created = (id: string, parent: string): Promise<Record<string, unknown>> =>
      verb('Create', { ID: id, Parent: parent });
    const answers = await Promise.all([created(base, base), created(next, box), created(box, next)]);
    for (const answer of answers) expect(answer).toHaveProperty('Err');
    await layer(base, '', BASE);
  });

  describe.each(['erofs', 'overlay2', 'copy'] as const)('%s', (driver) => {
    beforeEach(() => open(driver));

    it('counts what it answered, by verb and status', async () => {
      await verb('Create', { ID: base, Parent: '' });
      await verb('Exists', { ID: base });
      await verb('Get', { ID: box });
      const text = await metrics.text();
      const count = (name: string, status: number): string =>
        `layerd_docker_request_duration_seconds_count{verb="${name}",status="${status}"} 1`;
      expect(text).toContain(count('Create', 200));
      expect(text).toContain(count('Exists', 200));
      expect(text).toContain(count('Get', 500));
      expect(text).toContain('layerd_docker_requests_running 0');
    });

    it('gives back the very bytes of every layer, stored once', async () => {
      expect(JSON.parse((await ask('/Plugin.Activate', Buffer.alloc(0))).body.toString())).toEqual({
        Implements: ['GraphDriver'],
      });
      expect(await done('Capabilities')).toEqual({ Capabilities: { ReproducesExactDiffs: true } });
      await layer(base, '', BASE);
      await layer(next, base, NEXT);
      expect(await diff(base, '')).toEqual(BASE);
      expect(await diff(next, base)).toEqual(NEXT);
      const again = sha256('again').slice(7);
      await layer(again, '', BASE);
      expect([...store.engine.layers()].map(({ diffId }) => diffId)).toEqual([sha256(BASE), sha256(NEXT)]);
      expect(await done('GetMetadata', { ID: next })).toEqual({
        Metadata: { Kind: 'committed', Parent: base, DiffID: sha256(NEXT) },
      });
    });

    it('makes containers on what Docker prepares, and tells what they wrote', async () => {
      await layer(base, '', BASE);
      await done('CreateReadWrite', { ID: `${box}-init`, Parent: base });
      const init = String((await done('Get', { ID: `${box}-init` }))['Dir']);
      writeFileSync(join(init, 'etc/hosts'), '127.0.0.1 localhost\n');
      await done('Put', { ID: `${box}-init` });
      await done('CreateReadWrite', { ID: box, Parent: `${box}-init` });
      // what changes no file is the empty layer, byte for byte: Docker makes none of it
      expect(await diff(box, `${box}-init`)).toEqual(EMPTY);
      const root = String((await done('Get', { ID: box, MountLabel: '' }))['Dir']);
      expect(readFileSync(join(root, 'etc/hosts'), 'utf8')).toBe('127.0.0.1 localhost\n');
      writeFileSync(join(root, 'etc/new'), 'new\n');
      rmSync(join(root, 'etc/motd'));
      expect(await done('Changes', { ID: box, Parent: `${box}-init` })).toEqual({
        Changes: [
          { Path: '/etc', Kind: 0 },
          { Path: '/etc/motd', Kind: 2 },
          { Path: '/etc/new', Kind: 1 },
        ],
      });
      await done('Put', { ID: box });
      const copy = sha256('copy').slice(7);
      const tar = await diff(box, `${box}-init`);
      await layer(copy, base, tar);
      const shown = String((await done('Get', { ID: copy }))['Dir']);
      expect(readFileSync(join(shown, 'etc/new'), 'utf8')).toBe('new\n');
      expect(() => writeFileSync(join(shown, 'etc/new'), 'x')).toThrow();
      await done('Put', { ID: copy });
      for (const id of [box, `${box}-init`, copy, base]) await done('Remove', { ID: id });
      await store.engine.gc({ grace: 0, wait: true });
      expect([...store.engine.layers()]).toEqual([]);
      expect(held()).toEqual([]);
      expect(await store.problems()).toEqual([]);
    });
  });

  describe('whatever the driver', () => {
    beforeEach(() => open('erofs'));

    it('may be told everything twice', async () => {
      for (const times of [1, 2]) {
        await done('Init', { Home: '/nowhere', Opts: null, UIDMaps: null, GIDMaps: [] });
        await done('Create', { ID: base, Parent: '' });
        if (times === 1) await apply(base, '', BASE);
        await done('CreateReadWrite', { ID: box, Parent: base });
        expect(await done('Exists', { ID: box })).toEqual({ Exists: true });
      }
      const other = await verb('CreateReadWrite', { ID: box, Parent: '' });
      expect(other['Err']).toContain('lies on another parent');
      for (const id of [box, box, base, base, 'never-there']) await done('Remove', { ID: id });
      expect(await done('Exists', { ID: box })).toEqual({ Exists: false });
      await done('Put', { ID: box });
      await done('Cleanup');
    });

    it('counts mounts, and heals the count when dockerd or layerd came back from a crash', async () => {
      await layer(base, '', BASE);
      await done('CreateReadWrite', { ID: box, Parent: base });
      for (const mounts of [1, 2]) {
        await done('Get', { ID: box });
        expect(held(), `${mounts} mounts`).toHaveLength(1);
      }
      await done('Put', { ID: box });
      expect(held()).toHaveLength(1);
      // layerd dies, and knows the count again
      await door.close(0);
      await store.reopen();
      await openDoor();
      await done('Get', { ID: box });
      await done('Put', { ID: box });
      expect(held()).toHaveLength(1);
      // dockerd dies with that mount, and begins anew
      await done('Init', { Home: '/nowhere' });
      const dir = (await done('Get', { ID: box }))['Dir'];
      expect(held()).toEqual([dir]);
      await done('Put', { ID: box });
      expect(held()).toEqual([]);
      await done('Put', { ID: box });
      await done('Get', { ID: box });
      await done('Remove', { ID: box });
      expect(held()).toEqual([]);
    });

    it('takes no layer that is not whole, and forgets those that were begun when dockerd comes anew', async () => {
      await done('Create', { ID: base, Parent: '' });
      for (const tar of [
        Buffer.alloc(0),
        BASE.subarray(0, BASE.length - 512),
        BASE.subarray(0, 700),
        EMPTY.subarray(1),
      ]) {
        expect((await apply(base, '', tar))['Err']).toBeTruthy();
      }
      await ask(`/GraphDriver.ApplyDiff?id=${base}&parent=`, BASE, true);
      expect([...store.engine.layers()]).toEqual([]);
      expect(await apply(base, '', BASE)).toEqual({ Size: BASE.length });
      expect((await apply(base, '', BASE))['Err']).toContain('has its bytes already');
      await done('Create', { ID: next, Parent: base });
      await done('Init', { Home: '/nowhere' });
      expect(await done('Exists', { ID: next })).toEqual({ Exists: false });
      expect(await done('Exists', { ID: base })).toEqual({ Exists: true });
    });

    it('refuses by words what it does not have', async () => {
      await layer(base, '', BASE);
      await layer(next, base, NEXT);
      const cases: [string, object, string][] = [
        ['Get', { ID: box }, box],
        ['Get', { ID: base, MountLabel: 'system_u' }, 'SELinux'],
        ['Remove', { ID: base }, 'remove'],
        ['CreateReadWrite', { ID: box, Parent: 'absent' }, 'absent'],
        ['CreateReadWrite', { ID: box, Parent: base, StorageOpt: { size: 'much' } }, 'is not a size'],
        ['CreateReadWrite', { ID: box, Parent: base, StorageOpt: { colour: 'red' } }, 'colour'],
        ['Init', { Home: '/', Opts: ['layerd.fast=true'] }, 'layerd.fast=true'],
        ['Init', { Home: '/', UIDMaps: [{ container_id: 0, host_id: 1000, size: 1 }] }, 'userns-remap'],
        ['DiffSize', { ID: next, Parent: '' }, 'lies on'],
      ];
      for (const [name, body, says] of cases) {
        const answer = await ask(`/GraphDriver.${name}`, Buffer.from(JSON.stringify(body)));
        expect(answer.status, name).toBe(500);
        expect((JSON.parse(answer.body.toString()) as { Err: string }).Err, name).toContain(says);
      }
      expect((await ask('/GraphDriver.Diff', Buffer.from(`{"ID":"${next}","Parent":"nothing"}`))).status).toBe(500);
      expect((await ask('/GraphDriver.Get', Buffer.from('{'))).status).toBe(500);
      expect((await ask('/GraphDriver.Get', Buffer.alloc(2 * 1024 * 1024, ' '))).status).toBe(500);
      const refused = await ask('/GraphDriver.ApplyDiff?id=absent&parent=', Buffer.alloc(8 * 1024 * 1024));
      expect(refused.status).toBe(500);
      expect(refused.body.toString()).toContain('absent');
      expect((await ask('/GraphDriver.Fly', Buffer.from('{}'))).status).toBe(404);
    });
  });
});
