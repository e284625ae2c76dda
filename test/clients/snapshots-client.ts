/** containerd's side of the proxy protocol, for tests: calls of the snapshots service, their answers and codes. */
import { Client, credentials, status, type ServiceError } from '@grpc/grpc-js';
import * as messages from '../../src/doors/containerd/messages.js';
import { message, string, type Message, type Of } from '../../src/doors/containerd/protobuf.js';

type Labels = Record<string, string>;

export class SnapshotsClient {
  private readonly client: Client;
  readonly snapshotter: string;

  constructor(socket: string, snapshotter = 'layerd') {
    this.snapshotter = snapshotter;
    this.client = new Client(`unix:${socket}`, credentials.createInsecure());
  }

  close(): void {
    this.client.close();
  }

  prepare(key: string, parent = '', labels: Labels = {}): Promise<messages.Mount[]> {
    return this.make('Prepare', key, parent, labels);
  }

  view(key: string, parent = '', labels: Labels = {}): Promise<messages.Mount[]> {
    return this.make('View', key, parent, labels);
  }

  async mounts(key: string): Promise<messages.Mount[]> {
    return (await this.call('Mounts', messages.KeyRequest, messages.MountsResponse, this.key(key))).mounts;
  }

  async commit(name: string, key: string, labels: Labels = {}, parent = ''): Promise<void> {
    await this.call('Commit', messages.CommitRequest, messages.Empty, { ...this.key(key), name, labels, parent });
  }

  async remove(key: string): Promise<void> {
    await this.call('Remove', messages.KeyRequest, messages.Empty, this.key(key));
  }

  async stat(key: string): Promise<messages.Info> {
    return existing((await this.call('Stat', messages.KeyRequest, messages.InfoResponse, this.key(key))).info);
  }

  async update(info: Partial<messages.Info> & { name: string }, paths: string[]): Promise<messages.Info> {
    const none = { parent: '', kind: 0, createdAt: null, updatedAt: null, labels: {} };
    const request = { snapshotter: this.snapshotter, info: { ...none, ...info }, updateMask: { paths } };
    return existing((await this.call('Update', messages.UpdateRequest, messages.InfoResponse, request)).info);
  }

  usage(key: string): Promise<Of<typeof messages.UsageResponse>> {
    return this.call('Usage', messages.KeyRequest, messages.UsageResponse, this.key(key));
  }

  async cleanup(): Promise<void> {
    await this.call('Cleanup', messages.CleanupRequest, messages.Empty, { snapshotter: this.snapshotter });
  }

  /** What List sends, message by message. */
  async blocks(filters: string[] = []): Promise<messages.Info[][]> {
    const { encode } = messages.ListRequest;
    const call = this.client.makeServerStreamRequest(
      `${messages.SNAPSHOTS}List`,
      (value: Of<typeof messages.ListRequest>) => encode(value),
      (bytes) => messages.ListResponse.decode(bytes),
      { snapshotter: this.snapshotter, filters },
    );
    const blocks: messages.Info[][] = [];
    for await (const { info } of call as AsyncIterable<Of<typeof messages.ListResponse>>) blocks.push(info);
    return blocks;
  }

  /** Names that List finds, sorted. */
  async list(...filters: string[]): Promise<string[]> {
    return (await this.blocks(filters))
      .flat()
      .map(({ name }) => name)
      .sort();
  }

  /** A method that nobody has. */
  unknown(): Promise<unknown> {
    return this.call('Unheard', message({ a: string(1) }), messages.Empty, { a: 'x' });
  }

  private async make(method: string, key: string, parent: string, labels: Labels): Promise<messages.Mount[]> {
    const request = { ...this.key(key), parent, labels };
    return (await this.call(method, messages.PrepareRequest, messages.MountsResponse, request)).mounts;
  }

  private key(key: string): { snapshotter: string; key: string } {
    return { snapshotter: this.snapshotter, key };
  }

  private call<Q, A>(method: string, question: Message<Q>, answer: Message<A>, value: Q): Promise<A> {
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(
        `${messages.SNAPSHOTS}${method}`,
        (asked: Q) => question.encode(asked),
        (bytes) => answer.decode(bytes),
        value,
        (error, result) => (result === undefined ? reject(error ?? new Error('no answer')) : resolve(result)),
      );
    });
  }
}

/** The name of the code with which a call fails; null where it does not. */
export async function codeOf(call: Promise<unknown>): Promise<string | null> {
  try {
    await call;
    return null;
  } catch (thrown) {
    return status[(thrown as ServiceError).code];
  }
}

/** The path of an option of the one overlay mount: `upperdir`, say. */
export function optionOf(mounts: readonly messages.Mount[], name: string): string | undefined {
  const option = mounts.flatMap(({ options }) => options).find((text) => text.startsWith(`${name}=`));
  return option?.slice(name.length + 1);
}

function existing(info: messages.Info | null): messages.Info {
  if (info === null) throw new Error('an answer without its info');
  return info;
}
