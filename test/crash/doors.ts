/** The doors of a store in a process that is to die, their clients, and what stands beside them: a registry, containerd's blobs. */
import { status, type ServiceError } from '@grpc/grpc-js';
import { dirname, join } from 'node:path';
import { sha256 } from '../../src/core/digest.js';
import { LayerdError, type ErrorCode } from '../../src/core/errors.js';
import { ContainerdDoor } from '../../src/doors/containerd/server.js';
import { DockerDoor } from '../../src/doors/docker/server.js';
import { DoorMetrics } from '../../src/doors/metrics.js';
import { ContentServer } from '../clients/content-server.js';
import { DiffClient } from '../clients/diff-client.js';
import { GraphDriverClient } from '../clients/graph-driver-client.js';
import { SnapshotsClient } from '../clients/snapshots-client.js';
import { silent, type TestStore } from '../e2e/store.js';

/** The spaces that the clients work in. */
export const SPACES = ['containerd/layerd', 'docker'] as const;

export class Doors {
  readonly snapshots: SnapshotsClient;
  readonly differ: DiffClient;
  readonly docker: GraphDriverClient;
  private readonly closing: (() => Promise<unknown> | void)[];

  private constructor(sockets: { containerd: string; docker: string }, closing: (() => Promise<unknown> | void)[]) {
    this.snapshots = new SnapshotsClient(sockets.containerd);
    this.differ = new DiffClient(sockets.containerd);
    this.docker = new GraphDriverClient(sockets.docker);
    this.closing = closing;
  }

  /** Opens them in front of the store; `blobs` are what containerd has. */
  static async open(store: TestStore, blobs: readonly Buffer[]): Promise<Doors> {
    const socket = (name: string): string => join(dirname(store.home), `${name}.sock`);
    const { engine } = store;
    const { snapshots, conversions } = engine;
    const common = { gid: null, peerOf: () => null, log: silent, metrics: new DoorMetrics() };
    const content = await ContentServer.start(
      socket('content'),
      new Map(blobs.map((blob) => [sha256(blob) as string, blob])),
    );
    const containerd = await ContainerdDoor.open({
      ...common,
      at: { path: socket('snapshots') },
      snapshots,
      conversions,
      containerd: { socket: socket('content'), stallMs: 60_000 },
    });
    const docker = await DockerDoor.open({ ...common, at: { path: socket('docker') }, engine, stallMs: 60_000 });
    return new Doors({ containerd: socket('snapshots'), docker: socket('docker') }, [
      () => docker.close(0),
      () => containerd.close(0),
      () => content.close(),
    ]);
  }

  async close(): Promise<void> {
    this.snapshots.close();
    this.differ.close();
    for (const close of this.closing) await close();
  }

  /** A call of containerd's. What it may answer because it was done before is null. */
  async containerd<T>(call: Promise<T>, ...done: (keyof typeof status)[]): Promise<T | null> {
    try {
      return await call;
    } catch (thrown) {
      const { code, details } = thrown as ServiceError;
      if (done.some((name) => status[name] === code)) return null;
      if (code === status.RESOURCE_EXHAUSTED) throw new LayerdError('NO_SPACE', details, { cause: thrown });
      if (code === status.INTERNAL) throw new LayerdError(codeIn(details), details, { cause: thrown });
      throw thrown;
    }
  }

  /** A verb of dockerd's. */
  async dockerd(call: Promise<Record<string, unknown>>): Promise<Record<string, unknown>> {
    const answer = await call;
    const refused = answer['Err'];
    if (typeof refused === 'string') throw new LayerdError(codeIn(refused), refused);
    return answer;
  }
}

/** Doors hand on an error as text, hint included: which one it was. */
function codeIn(text: string): ErrorCode {
  if (text.includes('dmesg')) return 'IO_ERROR';
  return text.includes('Free space on the file system') ? 'NO_SPACE' : 'INTERNAL';
}
