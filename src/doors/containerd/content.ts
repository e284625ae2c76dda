/** containerd's content store, over containerd's own socket: blobs in and out. */
import { Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { isDigest, type Digest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import { unstalled, withStallLimit } from '../../core/stall.js';
import {
  CONTENT,
  ContentListRequest,
  ContentListResponse,
  ReadRequest,
  ReadResponse,
  WRITE,
  WriteRequest,
  WriteResponse,
  type ContentInfo,
} from './messages.js';
import type { Message, Of } from './protobuf.js';

/** containerd itself, which has the blobs. */
export interface ContainerdAddress {
  /** Its socket. */
  socket: string;
  /** A blob on its way that stands still this long because of containerd is given up. */
  stallMs: number;
}

/** A blob to be written, once its bytes are through. */
export interface BlobWrite {
  ref: string;
  labels: () => Record<string, string>;
}

/** Bytes to a message: half of what containerd takes. */
const WRITE_BYTES = 2 * 1024 * 1024;

export class ContentStore {
  private readonly client: Client;
  private readonly stallMs: number;
  private readonly stalled: () => LayerdError;
  private readonly metadata = new Metadata();

  /** `namespace`: containerd's, whose blobs are seen. */
  constructor({ socket, stallMs }: ContainerdAddress, namespace: string) {
    this.stallMs = stallMs;
    this.stalled = () => stalled(stallMs);
    this.client = new Client(`unix:${socket}`, credentials.createInsecure(), {
      'grpc.max_receive_message_length': 32 * 1024 * 1024,
    });
    this.metadata.set('containerd-namespace', namespace);
  }

  close(): void {
    this.client.close();
  }

  /** Blobs that a filter of containerd's matches. */
  async list(filter: string): Promise<ContentInfo[]> {
    const found: ContentInfo[] = [];
    for await (const { info } of this.stream('List', ContentListRequest, ContentListResponse, { filters: [filter] })) {
      found.push(...info);
    }
    return found;
  }

  /** The bytes of a blob; the call is made when they are asked for. */
  async *read(digest: string, signal: AbortSignal): AsyncGenerator<Buffer> {
    const request = { digest, offset: 0, size: 0 };
    for await (const { data } of this.stream('Read', ReadRequest, ReadResponse, request, signal)) yield data;
  }

  /** Writes a blob; returns its digest and size. One that is there already is no error. */
  async write(
    source: AsyncIterable<Buffer>,
    { ref, labels }: BlobWrite,
    digest: () => Digest,
  ): Promise<{ digest: Digest; size: number }> {
    const call = this.client.makeBidiStreamRequest(
      `${CONTENT}Write`,
      (message: Of<typeof WriteRequest>) => WriteRequest.encode(message),
      (bytes) => WriteResponse.decode(bytes),
      this.metadata,
    );
    const answers = (call as AsyncIterable<Of<typeof WriteResponse>>)[Symbol.asyncIterator]();
    const ask = async (request: Partial<Of<typeof WriteRequest>>): Promise<Of<typeof WriteResponse>> => {
      call.write({ action: 0, ref, total: 0, expected: '', offset: 0, data: Buffer.alloc(0), labels: {}, ...request });
      const { value, done } = await withStallLimit(answers.next(), this.stallMs, this.stalled);
      if (done === true) throw new LayerdError('STREAM_BROKEN', 'containerd ended the writing of a blob');
      return value;
    };
    let size = 0;
    try {
      for await (const chunk of source) {
        for (let at = 0; at < chunk.length; at += WRITE_BYTES) {
          const data = chunk.subarray(at, at + WRITE_BYTES);
          await ask({ action: WRITE.write, offset: size, data });
          size += data.length;
        }
      }
      await ask({ action: WRITE.commit, offset: size, total: size, expected: digest(), labels: labels() });
    } catch (thrown) {
      if (!isStatus(thrown, status.ALREADY_EXISTS)) {
        call.cancel();
        throw contentError(thrown);
      }
    } finally {
      call.end();
    }
    return { digest: digest(), size };
  }

  private async *stream<Q, A>(
    method: string,
    question: Message<Q>,
    answer: Message<A>,
    value: Q,
    signal?: AbortSignal,
  ): AsyncGenerator<A> {
    const call = this.client.makeServerStreamRequest(
      `${CONTENT}${method}`,
      (message: Q) => question.encode(message),
      (bytes) => answer.decode(bytes),
      value,
      this.metadata,
    );
    const cancel = (): void => call.cancel();
    signal?.addEventListener('abort', cancel);
    try {
      yield* unstalled(call as AsyncIterable<A>, this.stallMs, this.stalled);
    } catch (thrown) {
      throw contentError(thrown);
    } finally {
      signal?.removeEventListener('abort', cancel);
      call.cancel();
    }
  }
}

function stalled(limitMs: number): LayerdError {
  return new LayerdError('TIMEOUT', `containerd's content store stood still for ${limitMs} ms`, {
    details: { limitMs },
    hint: 'Look at what containerd is doing. http.stall_timeout is how long it may take.',
  });
}

/** A digest that containerd gave, if it is one that we take. */
export function digestOf(text: string | undefined): Digest | null {
  return text !== undefined && isDigest(text) ? text : null;
}

function isStatus(thrown: unknown, code: status): boolean {
  return thrown instanceof Error && (thrown as ServiceError).code === code;
}

function contentError(thrown: unknown): unknown {
  if (!(thrown instanceof Error) || typeof (thrown as ServiceError).details !== 'string') return thrown;
  const { code, details } = thrown as ServiceError;
  if (code === status.NOT_FOUND) {
    return new LayerdError('LAYER_NOT_FOUND', `containerd does not have the blob: ${details}`, { cause: thrown });
  }
  if (code === status.CANCELLED) return new LayerdError('CANCELLED', details, { cause: thrown });
  return new LayerdError('STREAM_BROKEN', `containerd's content store: ${details}`, {
    details: { grpc: code },
    hint: 'Is containerd running, and is containerd_address its socket?',
    cause: thrown,
  });
}
