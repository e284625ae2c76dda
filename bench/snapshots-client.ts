/** As much of containerd's snapshots service (services/snapshots/v1) as a container's layer needs, by gRPC. */
import { Client, credentials, Metadata } from '@grpc/grpc-js';

/** containerd.types.Mount, without its target. */
export interface SnapshotMount {
  type: string;
  source: string;
  options: string[];
}

type Value = string | Buffer;

/** The label without which containerd's collector removes a snapshot that no other object refers to. */
const KEPT = encode(['containerd.io/gc.root', '2026-01-01T00:00:00Z']);
const SERVICE = '/containerd.services.snapshots.v1.Snapshots/';

export class SnapshotsClient {
  private readonly client: Client;
  private readonly snapshotter: string;
  private readonly metadata = new Metadata();

  constructor(socket: string, snapshotter: string) {
    this.client = new Client(`unix:${socket}`, credentials.createInsecure());
    this.snapshotter = snapshotter;
    this.metadata.set('containerd-namespace', 'default');
  }

  async prepare(key: string, parent: string): Promise<SnapshotMount[]> {
    const answer = await this.call('Prepare', [this.snapshotter, key, parent, KEPT]);
    return [...fieldsOf(answer)].filter(({ field }) => field === 1).map(({ value }) => mountOf(value));
  }

  async remove(key: string): Promise<void> {
    await this.call('Remove', [this.snapshotter, key]);
  }

  close(): void {
    this.client.close();
  }

  /** All requests that are made here have text, or a message, in their first fields, and nothing else. */
  private call(method: string, request: Value[]): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(
        SERVICE + method,
        encode,
        (answer: Buffer) => answer,
        request,
        this.metadata,
        (error, answer) => (error === null ? resolve(answer ?? Buffer.alloc(0)) : reject(error)),
      );
    });
  }
}

function encode(values: readonly Value[]): Buffer {
  const parts: Buffer[] = [];
  for (const [index, value] of values.entries()) {
    const bytes = Buffer.from(value);
    // below 16,384 bytes a length takes two bytes at most
    const length = bytes.length < 128 ? [bytes.length] : [(bytes.length & 127) | 128, bytes.length >> 7];
    parts.push(Buffer.from([((index + 1) << 3) | 2, ...length]), bytes);
  }
  return Buffer.concat(parts);
}

function mountOf(bytes: Buffer): SnapshotMount {
  const mount: SnapshotMount = { type: '', source: '', options: [] };
  for (const { field, value } of fieldsOf(bytes)) {
    if (field === 1) mount.type = value.toString();
    else if (field === 2) mount.source = value.toString();
    else if (field === 4) mount.options.push(value.toString());
  }
  return mount;
}

/** The fields of a message that has only fields with a length (protobuf's wire type 2), as both that are read here have. */
function* fieldsOf(bytes: Buffer): Generator<{ field: number; value: Buffer }> {
  for (let at = 0; at < bytes.length;) {
    const field = (bytes[at++] ?? 0) >> 3;
    let length = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++] ?? 0;
      length |= (byte & 127) << shift;
      if (byte < 128) break;
    }
    yield { field, value: bytes.subarray(at, at + length) };
    at += length;
  }
}
