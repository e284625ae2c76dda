/** As much of containerd's snapshots service (services/snapshots/v1) as a container's layer needs, by gRPC. */
import { Client, credentials, Metadata, status, type ServiceError } from '@grpc/grpc-js';
import { REF } from '../src/doors/containerd/labels.js';
import {
  Empty,
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

  async remove(key: string): Promise<void> {
    await this.call('Remove', KeyRequest, Empty, { snapshotter: this.snapshotter, key });
  }

  /** The key of the snapshot that a server has of a chain without unpacking it: containerd asks for it by a label first. */
  async present(chain: string, parent: string): Promise<string> {
    const refused = await this.prepare(`extract ${chain}`, parent, { [REF]: chain }).catch((error: unknown) => error);
    if ((refused as Partial<ServiceError>).code !== status.ALREADY_EXISTS) throw new Error(`${chain} is not there`);
    for (const { name, labels } of await this.list()) if (labels[REF] === chain) return name;
    throw new Error(`${chain} is there, and no snapshot says so`);
  }

  close(): void {
    this.client.close();
  }

  private async list(): Promise<Info[]> {
    const answers = this.client.makeServerStreamRequest(
      `${SNAPSHOTS}List`,
      ListRequest.encode,
      ListResponse.decode,
      { snapshotter: this.snapshotter, filters: [] },
      this.metadata,
    );
    const found: Info[] = [];
    for await (const { info } of answers as AsyncIterable<{ info: Info[] }>) found.push(...info);
    return found;
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
