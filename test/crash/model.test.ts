/**
 * Commands through all doors of a daemon, held against a plain model of what a store is: after each one, what the doors list
 * is what the model has, and what is refused is what the model refuses. Restarts and kills of the daemon are commands, too.
 * In the end every file of every container, image and snapshot has the bytes that the model knows. A failure prints its
 * commands and the seed.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { bytesOf } from '../../src/core/bytes.js';
import { sha256 } from '../../src/core/digest.js';
import { LayerdError } from '../../src/core/errors.js';
import type { Mount } from '../../src/doors/containerd/messages.js';
import { makeHome, removeHome, TestDaemon } from '../cli/daemon.js';
import { GraphDriverClient } from '../clients/graph-driver-client.js';
import { codeOf, optionOf, SnapshotsClient } from '../clients/snapshots-client.js';
import { allocatedBytes } from '../e2e/store.js';
import { entrySpec, layerTar } from '../model/spec.js';
import { makeArchives, type Archive } from '../power/images.js';
import { describeWith, needsRoot } from '../support.js';
import { FULL } from './random.js';

const RUNS = FULL ? 60 : 2;
const COMMANDS = FULL ? 80 : 40;
const NAMES = ['a', 'b', 'c'] as const;

/** Files by path. */
type Files = ReadonlyMap<string, string>;

interface Snapshot {
  kind: 'active' | 'view' | 'committed';
  parent: string;
  files: Files;
}

/** What a store is, and nothing else. */
class Model {
  /** Ids of images by ref, and what is in them. */
  readonly refs = new Map<string, string>();
  readonly contents = new Map<string, ReadonlyMap<string, Buffer | string>>();
  readonly containers = new Map<string, { image: string; files: Files }>();
  readonly containerd = new Map<string, Snapshot>();
  readonly docker = new Map<string, Snapshot>();
}

/** The daemon and its clients, who come anew with it. */
class Real {
  readonly home: string;
  readonly archives: readonly Archive[];
  daemon: TestDaemon;
  snapshots: SnapshotsClient;
  readonly docker: GraphDriverClient;

  private constructor(home: string, archives: readonly Archive[], daemon: TestDaemon) {
    this.home = home;
    this.archives = archives;
    this.daemon = daemon;
    this.snapshots = new SnapshotsClient(join(home, 'run', 'containerd.sock'));
    this.docker = new GraphDriverClient(join(home, 'run', 'docker.sock'));
  }

  static async start(): Promise<Real> {
    const home = makeHome();
    mkdirSync(join(home, 'mnt'));
    return new Real(home, makeArchives(home, NAMES.length, 'model'), await startDaemon(home));
  }

  async restart(signal: NodeJS.Signals): Promise<void> {
    this.snapshots.close();
    await this.daemon.stop(signal);
    this.daemon = await startDaemon(this.home);
    this.snapshots = new SnapshotsClient(join(this.home, 'run', 'containerd.sock'));
  }

  async remove(): Promise<void> {
    this.snapshots.close();
    await this.daemon.stop();
    removeHome(this.home);
  }

  /** Mounts as containerd does. */
  mounted<T>(mounts: readonly Mount[], work: (root: string) => T): T {
    const target = join(this.home, 'mnt');
    for (const { type, source, options } of mounts) {
      execFileSync('mount', ['-t', type, '-o', options.join(','), source, target]);
    }
    try {
      return work(target);
    } finally {
      execFileSync('umount', [target]);
    }
  }
}

function startDaemon(home: string): Promise<TestDaemon> {
  return TestDaemon.start(home, ['--gc-interval', '0', '--gc-grace', '0']);
}

/** One command: it must do what the model does, be refused where the model refuses, and leave both alike. */
class Step implements fc.AsyncCommand<Model, Real> {
  private readonly name: string;
  private readonly work: (model: Model, real: Real) => Promise<void>;

  constructor(name: string, work: (model: Model, real: Real) => Promise<void>) {
    this.name = name;
    this.work = work;
  }

  check(): boolean {
    return true;
  }

  async run(model: Model, real: Real): Promise<void> {
    await this.work(model, real);
    await expectAlike(model, real);
  }

  toString(): string {
    return this.name;
  }
}

async function expectAlike(model: Model, { daemon, snapshots, docker }: Real): Promise<void> {
  const images = (await daemon.client.images()).flatMap(({ id, refs }) => refs.map((ref) => `${ref} ${id}`));
  expect(images.sort()).toEqual([...model.refs].map(([ref, id]) => `${ref} ${id}`).sort());
  expect((await daemon.client.containers()).map(({ name }) => name).sort()).toEqual(
    [...model.containers.keys()].sort(),
  );
  expect(await snapshots.list()).toEqual([...model.containerd.keys()].sort());
  for (const name of NAMES) {
    expect(await docker.verb('Exists', { ID: idOf(name) })).toEqual({ Exists: model.docker.has(name) });
  }
}

/** An id as Docker makes them. */
function idOf(name: string): string {
  return name === '' ? '' : sha256(name).slice('sha256:'.length);
}

/** The code with which the daemon refuses; null where it does not. */
async function refusal(call: Promise<unknown>): Promise<string | null> {
  try {
    await call;
    return null;
  } catch (thrown) {
    if (thrown instanceof LayerdError) return thrown.code;
    throw thrown;
  }
}

/** Whether something lies on it. */
function isParent(snapshots: ReadonlyMap<string, Snapshot>, key: string): boolean {
  return [...snapshots.values()].some(({ parent }) => parent === key);
}

function filesOf(snapshots: ReadonlyMap<string, Snapshot>, key: string): Files {
  const snapshot = snapshots.get(key);
  return snapshot === undefined ? new Map() : new Map([...filesOf(snapshots, snapshot.parent), ...snapshot.files]);
}

const name = fc.constantFrom(...NAMES);
const parent = fc.constantFrom('', ...NAMES);
const refOf = (of: string): string => `localhost/model-${of}:1`;

const http = [
  fc.nat(NAMES.length - 1).map(
    (index) =>
      new Step(`load ${index}`, async (model, real) => {
        const archive = real.archives[index];
        if (archive === undefined) return;
        await real.daemon.client.load(archive.path);
        model.refs.set(archive.ref, archive.imageId);
        model.contents.set(archive.imageId, archive.content);
      }),
  ),
  fc.tuple(fc.nat(100), name).map(
    ([from, to]) =>
      new Step(`tag ${from} ${to}`, async (model, real) => {
        const source = pick(model.refs, from);
        const code = await refusal(real.daemon.client.tag(source?.[0] ?? 'localhost/absent:1', refOf(to)));
        expect(code).toBe(source === undefined ? 'IMAGE_NOT_FOUND' : null);
        if (source !== undefined) model.refs.set(refOf(to), source[1]);
      }),
  ),
  fc.nat(100).map(
    (which) =>
      new Step(`rmi ${which}`, async (model, real) => {
        const found = pick(model.refs, which);
        const code = await refusal(real.daemon.client.removeImage(found?.[0] ?? 'localhost/absent:1'));
        if (found === undefined) {
          expect(code).toBe('IMAGE_NOT_FOUND');
          return;
        }
        const [ref, id] = found;
        const last = [...model.refs.values()].filter((other) => other === id).length === 1;
        const used = [...model.containers.values()].some(({ image }) => image === id);
        expect(code).toBe(last && used ? 'IMAGE_IN_USE' : null);
        if (code === null) model.refs.delete(ref);
      }),
  ),
  fc.tuple(fc.nat(100), name).map(
    ([which, box]) =>
      new Step(`create ${which} ${box}`, async (model, real) => {
        const found = pick(model.refs, which);
        const code = await refusal(
          real.daemon.client.createContainer(found?.[0] ?? 'localhost/absent:1', { name: box }),
        );
        if (found === undefined) {
          expect(code).toBe('IMAGE_NOT_FOUND');
          return;
        }
        expect(code).toBe(model.containers.has(box) ? 'CONTAINER_EXISTS' : null);
        if (code === null) model.containers.set(box, { image: found[1], files: new Map() });
      }),
  ),
  fc.tuple(name, name, fc.nat(9)).map(
    ([box, file, text]) =>
      new Step(`write ${box} ${file} ${text}`, async (model, real) => {
        const container = model.containers.get(box);
        if (container === undefined) {
          expect(await refusal(real.daemon.client.mount(box))).toBe('CONTAINER_NOT_FOUND');
          return;
        }
        const { path } = await real.daemon.client.mount(box);
        writeFileSync(join(path, file), String(text));
        await real.daemon.client.unmount(box);
        model.containers.set(box, { ...container, files: new Map([...container.files, [file, String(text)]]) });
      }),
  ),
  fc.tuple(name, name).map(
    ([box, ref]) =>
      new Step(`commit ${box} ${ref}`, async (model, real) => {
        const container = model.containers.get(box);
        const commit = real.daemon.client.commit(box, { ref: refOf(ref) });
        if (container === undefined) {
          expect(await refusal(commit)).toBe('CONTAINER_NOT_FOUND');
          return;
        }
        const { imageId } = await commit;
        model.refs.set(refOf(ref), imageId);
        model.contents.set(imageId, new Map([...(model.contents.get(container.image) ?? []), ...container.files]));
      }),
  ),
  name.map(
    (box) =>
      new Step(`rm ${box}`, async (model, real) => {
        const code = await refusal(real.daemon.client.removeContainer(box, { force: true }));
        expect(code).toBe(model.containers.delete(box) ? null : 'CONTAINER_NOT_FOUND');
      }),
  ),
];

const containerd = [
  fc.tuple(name, parent, fc.boolean()).map(
    ([key, on, view]) =>
      new Step(`${view ? 'View' : 'Prepare'} ${key} on ${on}`, async ({ containerd: known }, { snapshots }) => {
        const code = await codeOf(view ? snapshots.view(key, on) : snapshots.prepare(key, on));
        const below = known.get(on);
        const refused: string[] = [];
        if (known.has(key)) refused.push('ALREADY_EXISTS');
        if (on !== '' && below === undefined) refused.push('NOT_FOUND');
        if (below !== undefined && below.kind !== 'committed') refused.push('FAILED_PRECONDITION', 'INVALID_ARGUMENT');
        expect(refused.length === 0 ? [null] : refused).toContain(code);
        if (code === null) known.set(key, { kind: view ? 'view' : 'active', parent: on, files: new Map() });
      }),
  ),
  fc.tuple(name, name, fc.nat(9)).map(
    ([key, file, text]) =>
      new Step(`write into ${key} ${file} ${text}`, async ({ containerd: known }, { snapshots }) => {
        const snapshot = known.get(key);
        if (snapshot?.kind !== 'active') return;
        const mounts = await snapshots.mounts(key);
        // without anything below, the directory itself is bound
        writeFileSync(join(optionOf(mounts, 'upperdir') ?? mounts[0]?.source ?? '', file), String(text));
        known.set(key, { ...snapshot, files: new Map([...snapshot.files, [file, String(text)]]) });
      }),
  ),
  fc.tuple(name, name).map(
    ([key, as]) =>
      new Step(`Commit ${key} as ${as}`, async ({ containerd: known }, { snapshots }) => {
        const snapshot = known.get(key);
        const code = await codeOf(snapshots.commit(as, key));
        const refused: string[] = [];
        if (snapshot?.kind !== 'active') refused.push('NOT_FOUND', 'FAILED_PRECONDITION');
        if (known.has(as)) refused.push('ALREADY_EXISTS');
        if (code !== null) {
          expect(refused).toContain(code);
          return;
        }
        if (as !== key) expect(refused).toEqual([]);
        if (snapshot === undefined) return;
        known.delete(key);
        known.set(as, { ...snapshot, kind: 'committed' });
      }),
  ),
  name.map(
    (key) =>
      new Step(`Remove ${key}`, async ({ containerd: known }, { snapshots }) => {
        const code = await codeOf(snapshots.remove(key));
        if (!known.has(key)) {
          expect(code).toBe('NOT_FOUND');
          return;
        }
        expect(code).toBe(isParent(known, key) ? 'FAILED_PRECONDITION' : null);
        if (code === null) known.delete(key);
      }),
  ),
];

const docker = [
  fc.tuple(name, parent, fc.nat(9)).map(
    ([id, on, text]) =>
      new Step(`layer ${id} on ${on} ${text}`, async ({ docker: known }, { docker: door }) => {
        if (known.has(id)) return;
        const created = await door.verb('Create', { ID: idOf(id), Parent: idOf(on) });
        const below = known.get(on);
        if (on !== '' && below === undefined) {
          expect(created).toHaveProperty('Err');
          return;
        }
        expect(created).not.toHaveProperty('Err');
        // what something comes to lie on is sealed
        if (below !== undefined) known.set(on, { ...below, kind: 'committed' });
        const file = layerTar([entrySpec(bytesOf(id), { content: Buffer.from(String(text)) })]);
        expect(await door.apply(idOf(id), idOf(on), file)).toEqual({ Size: file.length });
        known.set(id, { kind: 'committed', parent: on, files: new Map([[id, String(text)]]) });
      }),
  ),
  fc.tuple(name, parent).map(
    ([id, on]) =>
      new Step(`CreateReadWrite ${id} on ${on}`, async ({ docker: known }, { docker: door }) => {
        const created = await door.verb('CreateReadWrite', { ID: idOf(id), Parent: idOf(on) });
        const there = known.get(id);
        const fine = there === undefined ? on === '' || known.has(on) : there.parent === on;
        if (!fine) {
          expect(created).toHaveProperty('Err');
          return;
        }
        expect(created).not.toHaveProperty('Err');
        if (there !== undefined) return;
        const below = known.get(on);
        if (below !== undefined) known.set(on, { ...below, kind: 'committed' });
        known.set(id, { kind: 'active', parent: on, files: new Map() });
      }),
  ),
  fc.tuple(name, name, fc.nat(9)).map(
    ([id, file, text]) =>
      new Step(`Get, write ${id} ${file} ${text}, Put`, async ({ docker: known }, { docker: door }) => {
        const there = known.get(id);
        const got = await door.verb('Get', { ID: idOf(id) });
        if (there === undefined) {
          expect(got).toHaveProperty('Err');
          return;
        }
        if (there.kind === 'active') {
          writeFileSync(join(String(got['Dir']), file), String(text));
          known.set(id, { ...there, files: new Map([...there.files, [file, String(text)]]) });
        }
        expect(await door.verb('Put', { ID: idOf(id) })).not.toHaveProperty('Err');
      }),
  ),
  name.map(
    (id) =>
      new Step(`Docker's Remove ${id}`, async ({ docker: known }, { docker: door }) => {
        const removed = await door.verb('Remove', { ID: idOf(id) });
        if (isParent(known, id)) {
          expect(removed).toHaveProperty('Err');
          return;
        }
        expect(removed).not.toHaveProperty('Err');
        known.delete(id);
      }),
  ),
];

const daemon = [
  fc.constant(new Step('gc', async (_model, real) => void (await real.daemon.client.gc({ grace: 0, wait: true })))),
  fc.constant(
    new Step('check', async (_model, real) => {
      expect((await real.daemon.client.check()).problems).toEqual([]);
    }),
  ),
  fc.constant(new Step('restart', (_model, real) => real.restart('SIGTERM'))),
  fc.constant(new Step('kill -9', (_model, real) => real.restart('SIGKILL'))),
];

function pick<K, V>(map: ReadonlyMap<K, V>, which: number): [K, V] | undefined {
  return [...map][which % Math.max(1, map.size)];
}

/** Every file that the model knows has its bytes; then all of it is removed, and nothing is left. */
async function expectWhole(model: Model, real: Real): Promise<void> {
  const { client } = real.daemon;
  const look = async (box: string, contents: Iterable<readonly [string, Buffer | string]>): Promise<void> => {
    const { path } = await client.mount(box);
    for (const [file, bytes] of contents) expectFile(path, file, bytes);
    await client.unmount(box);
  };
  for (const [box, { image, files }] of model.containers) {
    await look(box, new Map([...(model.contents.get(image) ?? []), ...files]));
  }
  for (const [ref, id] of model.refs) {
    await client.createContainer(ref, { name: 'look' });
    await look('look', model.contents.get(id) ?? []);
    await client.removeContainer('look');
  }
  for (const [key, { kind }] of model.containerd) {
    const mounts = kind === 'committed' ? await real.snapshots.view('look', key) : await real.snapshots.mounts(key);
    const expected = filesOf(model.containerd, key);
    real.mounted(mounts, (root) => {
      for (const [file, text] of expected) expectFile(root, file, text);
    });
    if (kind === 'committed') await real.snapshots.remove('look');
  }
  for (const key of model.docker.keys()) {
    const { Dir: root } = await real.docker.verb('Get', { ID: idOf(key) });
    for (const [file, text] of filesOf(model.docker, key)) expectFile(String(root), file, text);
    await real.docker.verb('Put', { ID: idOf(key) });
  }
  expect((await client.check()).problems).toEqual([]);
  await removeAll(model, real);
}

function expectFile(root: string, file: string, bytes: Buffer | string): void {
  expect(readFileSync(join(root, file)).equals(Buffer.from(bytes)), file).toBe(true);
}

async function removeAll(model: Model, { daemon: { client }, snapshots, docker: door, home }: Real): Promise<void> {
  for (const box of model.containers.keys()) await client.removeContainer(box);
  for (const { id } of await client.images()) await client.removeImage(id, { force: true });
  await childrenFirst(model.containerd, (key) => snapshots.remove(key));
  await childrenFirst(model.docker, async (key) => {
    expect(await door.verb('Remove', { ID: idOf(key) })).toEqual({});
  });
  // What containers were made ahead of is given up by a collection that finds it unused since the last.
  for (let pass = 0; pass < 2; pass += 1) await client.gc({ grace: 0, wait: true });
  expect(await client.layers()).toEqual([]);
  expect((await client.diskUsage()).total).toBe(await allocatedBytes(join(home, 'root')));
}

async function childrenFirst(
  snapshots: Map<string, Snapshot>,
  remove: (key: string) => Promise<unknown>,
): Promise<void> {
  while (snapshots.size > 0) {
    for (const key of [...snapshots.keys()].filter((one) => !isParent(snapshots, one))) {
      await remove(key);
      snapshots.delete(key);
    }
  }
}

describeWith('a store behind all its doors', [needsRoot()], () => {
  it(
    'is what the model says',
    async () => {
      const commands = fc.commands([...http, ...containerd, ...docker, ...daemon], {
        maxCommands: COMMANDS,
        size: 'max',
      });
      await fc.assert(
        fc.asyncProperty(commands, async (steps) => {
          const model = new Model();
          const real = await Real.start();
          try {
            await fc.asyncModelRun(() => ({ model, real }), steps);
            await expectWhole(model, real);
          } finally {
            await real.remove();
          }
        }),
        // a run takes long: a failure is told as it is
        { numRuns: RUNS, endOnFailure: true },
      );
    },
    4 * 3_600_000,
  );
});
