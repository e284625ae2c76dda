/** containerd's content store as far as layerd reads it, for tests that die with it: blobs in memory, over gRPC. */
import { rmSync } from 'node:fs';
import { Server, ServerCredentials, type handleServerStreamingCall } from '@grpc/grpc-js';
import * as messages from '../../src/doors/containerd/messages.js';
import type { Message, Of } from '../../src/doors/containerd/protobuf.js';

type Read = Of<typeof messages.ReadRequest>;
type Listed = Of<typeof messages.ContentListRequest>;

export class ContentServer {
  private readonly server = new Server();

  /** `blobs` by digest; of those in `halting` the bytes come, and no end. */
  static async start(
    socket: string,
    blobs: ReadonlyMap<string, Buffer>,
    halting: ReadonlySet<string> = new Set(),
  ): Promise<ContentServer> {
    const content = new ContentServer();
    const read: handleServerStreamingCall<Read, Of<typeof messages.ReadResponse>> = (call) => {
      const data = blobs.get(call.request.digest);
      if (data === undefined) call.emit('error', { code: 5, details: `no blob ${call.request.digest}` });
      else {
        call.write({ offset: 0, data });
        if (!halting.has(call.request.digest)) call.end();
      }
    };
    const list: handleServerStreamingCall<Listed, Of<typeof messages.ContentListResponse>> = (call) => void call.end();
    content.server.addService(
      {
        Read: streamed('Read', messages.ReadRequest, messages.ReadResponse),
        List: streamed('List', messages.ContentListRequest, messages.ContentListResponse),
      },
      { Read: read, List: list },
    );
    // what one that was killed left
    rmSync(socket, { force: true });
    await new Promise<void>((resolve, reject) => {
      content.server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      );
    });
    return content;
  }

  close(): void {
    this.server.forceShutdown();
  }
}

function streamed<Q, A>(name: string, question: Message<Q>, answer: Message<A>) {
  return {
    path: `${messages.CONTENT}${name}`,
    requestStream: false,
    responseStream: true,
    requestSerialize: (value: Q) => question.encode(value),
    requestDeserialize: (bytes: Buffer) => question.decode(bytes),
    responseSerialize: (value: A) => answer.encode(value),
    responseDeserialize: (bytes: Buffer) => answer.decode(bytes),
  };
}
