/** containerd's side of the diff service, for tests. */
import { Client, credentials } from '@grpc/grpc-js';
import * as messages from '../../src/doors/containerd/messages.js';
import type { Message } from '../../src/doors/containerd/protobuf.js';

export class DiffClient {
  private readonly client: Client;

  constructor(socket: string) {
    this.client = new Client(`unix:${socket}`, credentials.createInsecure());
  }

  close(): void {
    this.client.close();
  }

  async apply(blob: messages.Descriptor, mounts: messages.Mount[]): Promise<messages.Descriptor | null> {
    const request = { diff: blob, mounts };
    return (await this.call('Apply', messages.ApplyRequest, messages.ApplyResponse, request)).applied;
  }

  async diff(left: messages.Mount[], right: messages.Mount[], mediaType = ''): Promise<messages.Descriptor | null> {
    const request = { left, right, mediaType, ref: '', labels: {} };
    return (await this.call('Diff', messages.DiffRequest, messages.DiffResponse, request)).diff;
  }

  private call<Q, A>(method: string, question: Message<Q>, answer: Message<A>, value: Q): Promise<A> {
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(
        `${messages.DIFF}${method}`,
        (asked: Q) => question.encode(asked),
        (bytes) => answer.decode(bytes),
        value,
        (error, result) => (result === undefined ? reject(error ?? new Error('no answer')) : resolve(result)),
      );
    });
  }
}
