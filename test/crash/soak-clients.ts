/** What goes on in a soak: clients of every door, each with things of its own, that keep to a bounded number of them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import type { LayerdClient } from '../../src/client/index.js';
import { optionOf, SnapshotsClient } from '../clients/snapshots-client.js';
import type { Archive } from '../power/images.js';
import { noise } from '../power/random.js';
import { tarOf } from '../unit/image-synthetic.js';
import type { Random } from './random.js';

/** So many containers, images or snapshots each client has at most. */
const MOST = 5;
const FILE_BYTES = 30_000;

/** One client of one door. */
export interface SoakClient {
  /** Does one thing that makes sense now. */
  act(): Promise<void>;
  /** Removes all that it has. */
  end(): Promise<void>;
}

/** The native API: images and containers, and what looks at the whole store. */
export class NativeClient implements SoakClient {
  private readonly client: LayerdClient;
  private readonly archives: readonly Archive[];
  private readonly random: Random;
  private readonly me: string;
  private readonly refs: string[] = [];
  private containers: { name: string; ref: string; readOnly: boolean }[] = [];
  private count = 0;

  /** `archives` are nobody else's. */
  constructor(client: LayerdClient, archives: readonly Archive[], random: Random, me: string) {
    this.client = client;
    this.archives = archives;
    this.random = random;
    this.me = me;
  }

  async act(): Promise<void> {
    const ref = this.refs.length === 0 ? null : this.random.pick(this.refs);
    const container = this.containers.length === 0 ? null : this.random.pick(this.containers);
    const acts = [() => this.load(), () => this.look()];
    if (ref !== null && this.containers.length < MOST) acts.push(() => this.create(ref));
    if (ref !== null) acts.push(() => this.save(ref));
    const spare = this.refs.filter((name) => this.containers.every((one) => one.ref !== name));
    if (spare.length > 0) acts.push(() => this.removeImage(this.random.pick(spare)));
    if (container !== null) {
      acts.push(
        () => this.use(container),
        () => this.use(container),
        () => this.commit(container),
        () => this.removeContainer(container.name),
        () => this.readChanges(container.name),
      );
    }
    await this.random.pick(acts)();
  }

  async end(): Promise<void> {
    for (const { name } of this.containers.toReversed()) await this.removeContainer(name);
    for (const ref of this.refs.toReversed()) await this.removeImage(ref);
  }

  private async load(): Promise<void> {
    if (this.refs.length >= MOST) return this.removeSpare();
    const ref = this.newName();
    const archive = this.random.pick(this.archives);
    await this.client.load(archive.path);
    await this.client.tag(archive.imageId, ref);
    this.refs.push(ref);
    // the image goes with the last name that it was given here
    await this.client.removeImage(archive.ref);
  }

  private async removeSpare(): Promise<void> {
    const spare = this.refs.filter((name) => this.containers.every((one) => one.ref !== name));
    if (spare.length > 0) await this.removeImage(this.random.pick(spare));
  }

  private async create(ref: string): Promise<void> {
    const name = `${this.me}-${this.count++}`;
    const readOnly = this.random.below(8) === 0;
    await this.client.createContainer(ref, { name, readOnly });
    this.containers.push({ name, ref, readOnly });
  }

  private async use({ name, readOnly }: { name: string; readOnly: boolean }): Promise<void> {
    const { path } = await this.client.mount(name);
    if (!readOnly) {
      mkdirSync(join(path, 'written'), { recursive: true });
      const file = `file-${this.random.below(20)}`;
      writeFileSync(join(path, 'written', file), noise(`${name} ${this.count++}`, this.random.below(FILE_BYTES)));
    }
    await this.client.unmount(name);
  }

  private async commit({ name, readOnly }: { name: string; readOnly: boolean }): Promise<void> {
    if (readOnly || this.refs.length >= MOST) return this.removeSpare();
    const ref = this.newName();
    await this.client.commit(name, { ref });
    this.refs.push(ref);
  }

  private async save(ref: string): Promise<void> {
    const format = this.random.below(2) === 0 ? 'docker' : 'oci';
    const { stream } = await this.client.save({ refs: [ref], format });
    await readAll(stream);
  }

  private async readChanges(name: string): Promise<void> {
    await readAll(this.client.changes(name));
    await readAll(await this.client.diff(name));
    await this.client.usage(name);
  }

  private async removeContainer(name: string): Promise<void> {
    await this.client.removeContainer(name);
    this.containers = this.containers.filter((one) => one.name !== name);
  }

  private async removeImage(ref: string): Promise<void> {
    await this.client.removeImage(ref);
    this.refs.splice(this.refs.indexOf(ref), 1);
  }

  /** What reads the whole store, or collects in it. */
  private async look(): Promise<void> {
    const { client } = this;
    await this.random.pick<() => Promise<unknown>>([
      () => client.gc({ grace: 0 }),
      () => client.gc({ grace: 0, wait: true }),
      () => client.gc({ dryRun: true }),
      () => client.diskUsage(),
      () => client.check({ quick: true }),
      () => client.layers(),
      () => client.layerTree(),
      () => client.images(),
      () => client.containers(),
      () => client.metrics(),
      () => readAll(client.events()),
    ])();
  }

  private newName(): string {
    return `localhost/${this.me}:${this.count++}`;
  }
}

/** containerd's door: snapshots upon each other, written as containerd's unpacker and its runtimes write them. */
export class ContainerdClient implements SoakClient {
  private readonly client: SnapshotsClient;
  private readonly random: Random;
  /** Names of committed ones, each upon the one before it. */
  private readonly committed: string[] = [];
  private readonly active: string[] = [];
  private count = 0;

  constructor(socket: string, random: Random) {
    this.client = new SnapshotsClient(socket, 'soak');
    this.random = random;
  }

  async act(): Promise<void> {
    const top = this.committed.at(-1) ?? '';
    const active = this.active.at(-1);
    const acts: (() => Promise<unknown>)[] = [() => this.client.blocks(), () => this.client.cleanup()];
    if (this.active.length < MOST) acts.push(() => this.prepare(top));
    if (active !== undefined) {
      acts.push(
        () => this.client.stat(active),
        () => this.client.usage(active),
        () => this.remove(active),
      );
      if (this.committed.length < MOST) acts.push(() => this.unpack(top));
    }
    if (this.committed.length > 0 && this.active.length === 0) acts.push(() => this.removeTop());
    await this.random.pick(acts)();
  }

  async end(): Promise<void> {
    for (const key of this.active.toReversed()) await this.remove(key);
    while (this.committed.length > 0) await this.removeTop();
    this.client.close();
  }

  private async prepare(parent: string): Promise<string> {
    const key = `k8s.io/${this.count++}/container`;
    await this.write(key, parent);
    this.active.push(key);
    return key;
  }

  private async unpack(parent: string): Promise<void> {
    const key = `k8s.io/${this.count++}/extract-1`;
    await this.write(key, parent);
    const name = `k8s.io/${this.count++}/layer`;
    await this.client.commit(name, key);
    this.committed.push(name);
  }

  private async write(key: string, parent: string): Promise<void> {
    const mounts = await this.client.prepare(key, parent);
    const directory = optionOf(mounts, 'upperdir') ?? mounts[0]?.source ?? '';
    writeFileSync(join(directory, `file-${this.random.below(20)}`), noise(key, this.random.below(FILE_BYTES)));
  }

  private async remove(key: string): Promise<void> {
    await this.client.remove(key);
    this.active.splice(this.active.indexOf(key), 1);
  }

  private async removeTop(): Promise<void> {
    await this.client.remove(this.committed.at(-1) ?? '');
    this.committed.pop();
  }
}

/** Docker's door: layers out of tars, containers upon them. */
export class DockerClient implements SoakClient {
  private readonly socket: string;
  private readonly random: Random;
  private readonly layers: string[] = [];
  private readonly containers: string[] = [];
  private count = 0;

  constructor(socket: string, random: Random) {
    this.socket = socket;
    this.random = random;
  }

  async act(): Promise<void> {
    const container = this.containers.at(-1);
    const acts: (() => Promise<unknown>)[] = [() => this.verb('Status')];
    if (this.layers.length < MOST && this.containers.length === 0) acts.push(() => this.apply());
    if (this.layers.length > 0 && this.containers.length < MOST) acts.push(() => this.create());
    if (container !== undefined)
      acts.push(
        () => this.use(container),
        () => this.remove(this.containers),
      );
    else if (this.layers.length > 0) acts.push(() => this.remove(this.layers));
    await this.random.pick(acts)();
  }

  async end(): Promise<void> {
    while (this.containers.length > 0) await this.remove(this.containers);
    while (this.layers.length > 0) await this.remove(this.layers);
  }

  private async apply(): Promise<void> {
    const [id, parent] = [`layer${this.count++}`, this.layers.at(-1) ?? ''];
    await this.verb('Create', { ID: id, Parent: parent, MountLabel: '', StorageOpt: null });
    const content = noise(id, this.random.below(FILE_BYTES));
    const tar = tarOf([{ path: `file-${this.random.below(20)}`, bytes: content }]);
    await this.ask(`/GraphDriver.ApplyDiff?id=${id}&parent=${parent}`, tar);
    this.layers.push(id);
  }

  private async create(): Promise<void> {
    const id = `container${this.count++}`;
    const parent = this.layers.at(-1);
    await this.verb('CreateReadWrite', { ID: id, Parent: parent, MountLabel: '', StorageOpt: null });
    this.containers.push(id);
  }

  /** As dockerd runs a container, and asks afterwards what it changed. */
  private async use(id: string): Promise<void> {
    const { Dir: directory } = await this.verb('Get', { ID: id, MountLabel: '' });
    writeFileSync(join(String(directory), `file-${this.random.below(20)}`), noise(id, this.random.below(FILE_BYTES)));
    await this.verb('Put', { ID: id });
    const parent = this.layers.at(-1) ?? '';
    await this.verb('Changes', { ID: id, Parent: parent });
    await this.ask('/GraphDriver.Diff', Buffer.from(JSON.stringify({ ID: id, Parent: parent })));
  }

  private async remove(ids: string[]): Promise<void> {
    await this.verb('Remove', { ID: ids.at(-1) });
    ids.pop();
  }

  private async verb(name: string, body: object = {}): Promise<Record<string, unknown>> {
    const answer = await this.ask(`/GraphDriver.${name}`, Buffer.from(JSON.stringify(body)));
    return JSON.parse(answer.toString('utf8')) as Record<string, unknown>;
  }

  private ask(path: string, body: Buffer): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const headers = { accept: 'application/vnd.docker.plugins.v1.2+json', 'transfer-encoding': 'chunked' };
      const sent = request({ socketPath: this.socket, method: 'POST', path, headers, agent: false }, (answer) => {
        const chunks: Buffer[] = [];
        answer.on('data', (chunk: Buffer) => chunks.push(chunk));
        answer.on('error', reject);
        answer.on('end', () => {
          const all = Buffer.concat(chunks);
          const refused = answer.statusCode !== 200 || all.subarray(0, 8).toString('latin1') === '{"Err":"';
          if (refused)
            reject(new Error(`${path} was answered with ${answer.statusCode}: ${all.toString('utf8', 0, 500)}`));
          else resolve(all);
        });
      });
      sent.on('error', reject);
      sent.end(body);
    });
  }
}

async function readAll(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const part of stream) void part;
}
