/**
 * containerd.services.diff.v1, for snapshots of this door: Apply takes a blob out of containerd's content store into a layer,
 * without unpacking it; Diff puts what a snapshot changed into the content store. Whatever is not ours is answered with
 * Unimplemented: containerd asks its next differ then.
 */
import { createHash, randomUUID } from 'node:crypto';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { digestFromHex, isDigest, type Digest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import type { SnapshotName, SnapshotsApi } from '../../core/snapshots.js';
import { type ContainerdAddress, ContentStore } from './content.js';
import { unary, type Method } from './grpc.js';
import { SPACE_PREFIX, UNCOMPRESSED } from './labels.js';
import {
  ApplyRequest,
  ApplyResponse,
  DIFF,
  DiffRequest,
  DiffResponse,
  type Descriptor,
  type Mount,
} from './messages.js';
import { namespaceOf, readBlob } from './original.js';
import type { Of } from './protobuf.js';

const TAR = 'application/vnd.oci.image.layer.v1.tar';
const TAR_GZIP = `${TAR}+gzip`;
/** Layers whose bytes we know how to read; their compression is told by the bytes themselves. */
const LAYER =
  /^application\/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+gzip|\+zstd)?|docker\.image\.rootfs\.(diff|foreign\.diff)\.tar(\.gzip|\.zstd)?)$/;

export function diffMethods(api: SnapshotsApi, containerd: ContainerdAddress): Method[] {
  return [
    unary(`${DIFF}Apply`, ApplyRequest, ApplyResponse, async (request, signal) => ({
      applied: await apply(api, containerd, request, signal),
    })),
    unary(`${DIFF}Diff`, DiffRequest, DiffResponse, async (request, signal) => ({
      diff: await diff(api, containerd, request, signal),
    })),
  ];
}

async function apply(
  api: SnapshotsApi,
  containerd: ContainerdAddress,
  { diff: blob, mounts }: Of<typeof ApplyRequest>,
  signal: AbortSignal,
): Promise<Descriptor> {
  const name = ownerOf(api, mounts);
  if (blob === null || name === null) throw notOurs('the mounts are not those of an active snapshot of layerd');
  if (!LAYER.test(blob.mediaType)) throw notOurs(`${blob.mediaType} is not a layer that layerd reads`);
  if (!isDigest(blob.digest)) throw notOurs(`the digest ${blob.digest} is not of sha256`);
  const stream = readBlob(containerd, name.key, blob.digest, signal);
  const applied = await api.apply(name, { stream, blobDigest: blob.digest }, signal);
  return { mediaType: TAR, digest: applied.diffId, size: applied.size, annotations: {} };
}

async function diff(
  api: SnapshotsApi,
  containerd: ContainerdAddress,
  { left, right, mediaType, ref, labels }: Of<typeof DiffRequest>,
  signal: AbortSignal,
): Promise<Descriptor> {
  const name = ownerOf(api, right);
  if (name === null || !liesUpon(api, name, left))
    throw notOurs('the mounts are not those of a snapshot and its parent');
  const type = mediaType === '' ? TAR_GZIP : mediaType;
  if (type !== TAR && type !== TAR_GZIP) throw notOurs(`${type} is not written by layerd`);
  const store = new ContentStore(containerd, namespaceOf(name.key));
  const tar = new Hashing(api.diff(name, signal));
  const blob = new Hashing(type === TAR ? tar.bytes() : gzipped(tar.bytes()));
  try {
    const write = {
      ref: ref === '' ? `layerd-diff-${randomUUID()}` : ref,
      labels: () => ({ ...labels, [UNCOMPRESSED]: tar.digest() }),
    };
    const { digest, size } = await store.write(blob.bytes(), write, () => blob.digest());
    return { mediaType: type, digest, size, annotations: {} };
  } finally {
    store.close();
  }
}

/** Whose mounts they are: the one overlay names the directory of the snapshot first. */
function ownerOf(api: SnapshotsApi, mounts: readonly Mount[]): SnapshotName | null {
  const [mount] = mounts;
  if (mount === undefined || mounts.length > 1) return null;
  const upper = mount.options.find((option) => option.startsWith('upperdir='))?.slice('upperdir='.length);
  const lowers = mount.options.find((option) => option.startsWith('lowerdir='))?.slice('lowerdir='.length);
  const path = upper ?? lowers?.split(':', 1)[0] ?? mount.source;
  const name = api.owner(path);
  return name?.space.startsWith(SPACE_PREFIX) === true ? name : null;
}

/** Whether the left side of a comparison shows what the snapshot lies on. */
function liesUpon(api: SnapshotsApi, name: SnapshotName, left: readonly Mount[]): boolean {
  const { parent } = api.stat(name);
  if (left.length === 0) return parent === null;
  const below = ownerOf(api, left);
  if (below?.space !== name.space) return false;
  const view = api.stat(below);
  return view.kind === 'view' && view.parent === parent;
}

/** Bytes on their way, and the digest of those that went by. */
class Hashing {
  private readonly source: AsyncIterable<Buffer>;
  private readonly hash = createHash('sha256');
  private whole: Digest | null = null;

  constructor(source: AsyncIterable<Buffer>) {
    this.source = source;
  }

  async *bytes(): AsyncGenerator<Buffer> {
    for await (const chunk of this.source) {
      this.hash.update(chunk);
      yield chunk;
    }
  }

  /** Once, or again, after the last byte. */
  digest(): Digest {
    this.whole ??= digestFromHex(this.hash.digest('hex'));
    return this.whole;
  }
}

async function* gzipped(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const gzip = createGzip();
  const fed = pipeline(source, gzip);
  fed.catch(() => undefined);
  yield* gzip as AsyncIterable<Buffer>;
  await fed;
}

function notOurs(why: string): LayerdError {
  return new LayerdError('DRIVER_UNSUPPORTED', why, { hint: 'containerd asks its next differ.' });
}
