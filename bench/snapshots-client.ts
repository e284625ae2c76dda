/** As much of containerd's snapshots service (services/snapshots/v1) as a container's layer needs, by gRPC. */
import { Client, credentials, Metadata, status, type ServiceError } from '@grpc/grpc-js';
import { REF } from '../src/doors/containerd/labels.js';
import {
  Empty,
  InfoResponse,
  KeyRequest,
  ListRequest,
  ListResponse,
  MountsResponse,
  PrepareRequest,
  SNAPSHOTS,
  type Info,
  type Mount,
} from '../src/doors/containerd/messages.js';
import type { Message } from '../src/doors/containerd/protobuf.js';

/** The label without which containerd's collector removes a snapshot that no other object refers to. */
const KEPT = { 'containerd.io/gc.root': '2026-01-01T00:00:00Z' };

export class SnapshotsClient {
  private readonly client: Client;
  private readonly snapshotter: string;
  private readonly metadata = new Metadata();

  constructor(socket: string, snapshotter: string) {
    this.client = new Client(`unix:${socket}`, credentials.createInsecure());
    this.snapshotter = snapshotter;
    this.metadata.set('containerd-namespace', 'default');
  }

  async prepare(key: string, parent: string, labels: Record<string, string> = KEPT): Promise<Mount[]> {
    const { snapshotter } = this;
    const request = { snapshotter, key, parent, labels };
    return (await this.call('Prepare', PrepareRequest, MountsResponse, request)).mounts;
  }

  async stat(key: string): Promise<void> {
    await this.call('Stat', KeyRequest, InfoResponse, { snapshotter: this.snapshotter, key });
  }

  async remove(key: string): Promise<void> {
    await this.call('Remove', KeyRequest, Empty, { snapshotter: this.snapshotter, key });
  }

  /**
   * The key of the snapshot that layerd has of a chain without unpacking it: containerd asks for it by a label first. The
   * refusal names it; looking for it in the list would take longer the more there are.
   */
  async present(chain: string, parent: string): Promise<string> {
    const refused = await this.prepare(`extract ${chain}`, parent, { [REF]: chain }).catch((error: unknown) => error);
    const { code, details = '' } = refused as Partial<ServiceError>;
    const [, key] = /is here already, as snapshot (\S+):/.exec(details) ?? [];
    if (code !== status.ALREADY_EXISTS || key === undefined) throw new Error(`${chain} is not there: ${details}`);
    return key;
  }

  /** Reads the list of all snapshots to its end; returns how many they are. */
  async list(): Promise<number> {
    const answers = this.client.makeServerStreamRequest(
      `${SNAPSHOTS}List`,
      ListRequest.encode,
      ListResponse.decode,
      { snapshotter: this.snapshotter, filters: [] },
      this.metadata,
    );
    let count = 0;
    for await (const { info } of answers as AsyncIterable<{ info: Info[] }>) count += info.length;
    return count;
  }

  close(): void {
    this.client.close();
  }

  private call<Q, A>(method: string, question: Message<Q>, answer: Message<A>, request: Q): Promise<A> {
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(
        SNAPSHOTS + method,
        question.encode,
        answer.decode,
        request,
        this.metadata,
        (error, value) => {
          if (error !== null) reject(error);
          else if (value === undefined) reject(new Error(`${method} was answered by nothing`));
          else resolve(value);
        },
      );
    });
  }
}
