/** layerd as the subject of power cuts. */
import { closeSync, fsyncSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { run } from '../../bench/fixtures/shell.js';
import { LayerdError } from '../../src/core/errors.js';
import type { DriverName } from '../../src/core/words.js';
import { TestDaemon } from '../cli/daemon.js';
import { allocatedBytes } from '../e2e/store.js';
import type { Archive, Content } from './images.js';
import type { Claims } from './ledger.js';
import { nothingFound, type Findings, type Running, type StartOptions, type Subject } from './subject.js';

export function layerd(driver: DriverName): Subject {
  return { name: `layerd ${driver}`, start: (options) => startLayerd(driver, options) };
}

export async function startLayerd(driver: DriverName, options: StartOptions): Promise<RunningLayerd> {
  const { root, home, environment } = options;
  const flags = ['--root', root, '--driver', driver, '--gc-interval', '0', '--gc-grace', '0'];
  return new RunningLayerd(await TestDaemon.start(home, flags, environment), root);
}

export class RunningLayerd implements Running {
  readonly daemon: TestDaemon;
  readonly containers = this;
  private readonly root: string;

  constructor(daemon: TestDaemon, root: string) {
    this.daemon = daemon;
    this.root = root;
  }

  async load(archive: Archive): Promise<void> {
    await this.daemon.client.load(archive.path);
  }

  async tag(from: string, to: string): Promise<void> {
    await this.daemon.client.tag(from, to);
  }

  async removeImage(ref: string): Promise<void> {
    await this.daemon.client.removeImage(ref);
  }

  async createContainer(name: string, ref: string): Promise<void> {
    await this.daemon.client.createContainer(ref, { name });
  }

  async removeContainer(name: string): Promise<void> {
    await this.daemon.client.removeContainer(name);
  }

  async collect(): Promise<void> {
    await this.daemon.client.gc({ grace: 0, wait: true });
  }

  async write(name: string, path: string, bytes: Buffer): Promise<void> {
    await this.mounted(name, (root) => {
      writeFileSync(join(root, path), bytes);
      for (const at of [join(root, path), dirname(join(root, path))]) sync(at);
    });
  }

  async commit(name: string, ref: string): Promise<string> {
    return (await this.daemon.client.commit(name, { ref })).imageId;
  }

  async kill(): Promise<void> {
    await this.daemon.stop('SIGKILL');
  }

  async audit(claims: Claims, again: Archive): Promise<Findings> {
    const findings = nothingFound();
    const { problems } = await this.daemon.client.check();
    for (const { code, subject, message } of problems) findings.damaged.push(`${code} ${subject}: ${message}`);
    for (const { id } of await this.daemon.client.leases()) findings.damaged.push(`lease ${id} of a load that is over`);
    await this.compare(claims, findings);
    await this.collect();
    findings.unaccounted = await this.unaccounted();
    await this.load(again);
    await this.expectImage(again.ref, again.content, findings);
    findings.unaccounted += await this.removeEverything();
    return findings;
  }

  /** Whatever was acknowledged must be there byte for byte, and what was removed must not. */
  private async compare(claims: Claims, findings: Findings): Promise<void> {
    const { client } = this.daemon;
    const images = new Map((await client.images()).flatMap(({ id, refs }) => refs.map((ref) => [ref, id] as const)));
    const containers = new Set((await client.containers()).map(({ name }) => name));
    for (const [thing, { claim }] of claims) {
      const name = thing.slice(thing.indexOf(' ') + 1);
      const found = thing.startsWith('image ') ? images.get(name) : containers.has(name) ? name : undefined;
      if (claim === null) {
        if (found !== undefined) findings.lost.push(`${thing} was removed and is there`);
      } else if (found !== (claim.kind === 'image' ? claim.imageId : name)) {
        findings.lost.push(`${thing}: found ${found ?? 'nothing'}`);
      } else if (claim.kind === 'image') await this.expectImage(name, claim.content, findings);
      else await this.expectContent(name, claim.written, findings);
    }
  }

  private async expectImage(ref: string, content: Content, findings: Findings): Promise<void> {
    await this.createContainer('audit', ref);
    await this.expectContent('audit', content, findings);
    await this.removeContainer('audit');
  }

  private async expectContent(name: string, content: Content, findings: Findings): Promise<void> {
    try {
      await this.mounted(name, (root) => findings.damaged.push(...differences(name, root, content)));
    } catch (thrown) {
      if (!(thrown instanceof LayerdError)) throw thrown;
      findings.damaged.push(`${name}: ${thrown.code} ${thrown.message}`);
    }
  }

  private async mounted(name: string, work: (root: string) => void): Promise<void> {
    const { path } = await this.daemon.client.mount(name);
    try {
      work(path);
    } finally {
      await this.daemon.client.unmount(name);
    }
  }

  /** Bytes below the root that df does not attribute to a layer, a container, an image or the database, du being the judge. */
  async unaccounted(): Promise<number> {
    // Blocks that are only promised yet count differently from moment to moment.
    await run('sync', ['-f', this.root]);
    const asked = Date.now();
    const { rows, total, uppersMeasured } = await this.daemon.client.diskUsage();
    const sumOf = (...kinds: string[]): number =>
      rows.filter(({ kind }) => kinds.includes(kind)).reduce((sum, { bytes }) => sum + bytes, 0);
    // df measures uppers now and then only, and says when: older figures are not held against du.
    const upToDate = uppersMeasured === null || uppersMeasured >= asked;
    const expected = upToDate ? total : total - sumOf('container');
    const difference = Math.abs(expected - (await allocatedBytes(this.root, upToDate ? [] : ['*/root/s/*'])));
    return difference + sumOf('staging', 'other', 'trash');
  }

  /** Returns how many bytes are left where nothing should be. */
  private async removeEverything(): Promise<number> {
    const { client } = this.daemon;
    for (const { id } of await client.containers()) await client.removeContainer(id, { force: true });
    for (const { id } of await client.images()) await client.removeImage(id, { force: true });
    // What containers were made ahead of is given up by a collection that finds it unused since the last.
    for (let pass = 0; pass < 2; pass += 1) await this.collect();
    let bytes = 0;
    for (const directory of ['l', 's', 't', 'b', 'i', 'trash']) {
      const left = readdirSync(join(this.root, directory));
      if (left.length > 0) bytes += await allocatedBytes(join(this.root, directory));
    }
    return bytes;
  }
}

/** What of the content a root does not hold as it should: one line, or none. `thing` is whose root it is. */
export function differences(thing: string, root: string, content: Content): string[] {
  const wrong = [...content].flatMap(([path, bytes]) => {
    try {
      return readFileSync(join(root, path)).equals(bytes) ? [] : [`${path} has other bytes`];
    } catch (thrown) {
      return [`${path}: ${String(thrown)}`];
    }
  });
  return wrong.length === 0 ? [] : [`${thing}: ${wrong.length} of ${content.size} files, first ${wrong[0]}`];
}

function sync(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
