/** containerd with its overlayfs snapshotter as the subject of power cuts, driven by ctr as people drive it. */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { isErrno } from '../../src/core/errors.js';
import { unmountBelow } from '../conformance/file-system.js';
import { allocatedBytes } from '../e2e/store.js';
import { startContainerd, type ContainerdProcess } from '../reference/containerd.js';
import type { Archive, Content } from './images.js';
import { differences } from './layerd.js';
import type { Claims } from './ledger.js';
import { nothingFound, type Findings, type Running, type Subject } from './subject.js';

export const containerd: Subject = {
  name: 'containerd overlayfs',
  start: async ({ root, home, environment }) => {
    return new RunningContainerd(await startContainerd(home, root, environment), root, home);
  },
};

const SNAPSHOTS = ['snapshots', '--snapshotter', 'overlayfs'] as const;

class RunningContainerd implements Running {
  /** ctr commits a container only into a snapshot, not into an image. */
  readonly containers = null;
  private readonly process: ContainerdProcess;
  private readonly root: string;
  private readonly home: string;
  private readonly chains = new Map<string, string>();

  constructor(process: ContainerdProcess, root: string, home: string) {
    this.process = process;
    this.root = root;
    this.home = home;
  }

  async load({ path, ref, chainId }: Archive): Promise<void> {
    await this.process.ctr('images', 'import', '--snapshotter', 'overlayfs', path);
    this.chains.set(ref, chainId);
  }

  async tag(from: string, to: string): Promise<void> {
    await this.process.ctr('images', 'tag', from, to);
    this.chains.set(to, this.chains.get(from) ?? '');
  }

  async removeImage(ref: string): Promise<void> {
    await this.process.ctr('images', 'rm', '--sync', ref);
  }

  async createContainer(name: string, ref: string): Promise<void> {
    await this.process.ctr(...SNAPSHOTS, 'prepare', name, this.chains.get(ref) ?? '');
  }

  async removeContainer(name: string): Promise<void> {
    await this.process.ctr(...SNAPSHOTS, 'rm', name);
  }

  /** It collects by itself; ctr has no word for it. */
  async collect(): Promise<void> {
    await this.process.ctr('namespaces', 'ls');
  }

  kill(): Promise<void> {
    return this.process.stop('SIGKILL');
  }

  async audit(claims: Claims, again: Archive): Promise<Findings> {
    const findings = nothingFound();
    const images = new Set(lines(await this.process.ctr('images', 'ls', '-q')));
    const snapshots = new Set(await this.snapshots());
    findings.damaged.push(...this.wrongBlobs());
    for (const [thing, { claim }] of claims) {
      const name = thing.slice(thing.indexOf(' ') + 1);
      const found = thing.startsWith('image ') ? images.has(name) : snapshots.has(name);
      if (found !== (claim !== null)) findings.lost.push(`${thing}: found ${found ? 'it, removed' : 'nothing'}`);
      else if (claim?.kind === 'image') await this.expect(name, claim.content, findings);
    }
    await this.loadAgain(again, findings);
    await this.removeEverything();
    findings.unaccounted = await this.left();
    return findings;
  }

  private async loadAgain(again: Archive, findings: Findings): Promise<void> {
    try {
      await this.load(again);
      await this.expect(again.ref, again.content, findings);
    } catch (thrown) {
      findings.damaged.push(`${again.ref} cannot be imported again: ${String(thrown)}`);
    }
  }

  /** The merged root of an image must hold what the image's layers hold. */
  private async expect(ref: string, content: Content, findings: Findings): Promise<void> {
    const target = join(this.home, 'v');
    mkdirSync(target, { recursive: true });
    try {
      await this.process.ctr('images', 'mount', '--snapshotter', 'overlayfs', ref, target);
      findings.damaged.push(...differences(ref, target, content));
    } catch (thrown) {
      findings.damaged.push(`${ref} cannot be mounted: ${String(thrown)}`);
    } finally {
      unmountBelow(target);
      await this.process.ctr(...SNAPSHOTS, 'rm', target).catch(() => {
        // where the mount failed there may be none
      });
    }
  }

  private wrongBlobs(): string[] {
    const blobs = join(this.root, 'io.containerd.content.v1.content/blobs/sha256');
    const wrong = names(blobs).filter((name) => digestOf(join(blobs, name)) !== name);
    return wrong.map((name) => `blob ${name} has other bytes`);
  }

  private async snapshots(): Promise<string[]> {
    const rows = lines(await this.process.ctr(...SNAPSHOTS, 'ls')).slice(1);
    return rows.map((row) => row.split(/\s+/)[0] ?? '');
  }

  private async removeEverything(): Promise<void> {
    for (const name of await this.snapshots()) {
      // the others are layers, which go with their images, or what an import left half-made, which is containerd's to remove
      if (/^c\d+-/.test(name)) await this.removeContainer(name);
    }
    for (const ref of lines(await this.process.ctr('images', 'ls', '-q'))) await this.removeImage(ref);
  }

  /** Bytes of blobs, ingests and snapshots when no image and no container is left. */
  private async left(): Promise<number> {
    const places = [
      'io.containerd.content.v1.content/blobs/sha256',
      'io.containerd.content.v1.content/ingest',
      'io.containerd.snapshotter.v1.overlayfs/snapshots',
    ].map((place) => join(this.root, place));
    let bytes = 0;
    for (const place of places) for (const name of names(place)) bytes += await allocatedBytes(join(place, name));
    return bytes;
  }
}

/** In hex. A file that is collected meanwhile has the digest that its name says. */
function digestOf(path: string): string {
  try {
    return createHash('sha256').update(readFileSync(path)).digest('hex');
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return basename(path);
    throw thrown;
  }
}

function names(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    // nothing was ever put there
    return [];
  }
}

function lines(text: string): string[] {
  return text.split('\n').filter((line) => line !== '');
}
