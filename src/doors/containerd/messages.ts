/** The messages of containerd that the door speaks: services snapshots, diff and content, version 1. */
import { bytes, int, map, message, nested, repeated, string, strings, type Of } from './protobuf.js';

export const SNAPSHOTS = '/containerd.services.snapshots.v1.Snapshots/';
export const DIFF = '/containerd.services.diff.v1.Diff/';
export const CONTENT = '/containerd.services.content.v1.Content/';

/** google.protobuf.Timestamp. */
const Timestamp = message({ seconds: int(1), nanos: int(2) });
export type Timestamp = Of<typeof Timestamp>;

/** google.protobuf.Empty. */
export const Empty = message({});

/** google.protobuf.FieldMask. */
const FieldMask = message({ paths: strings(1) });

/** containerd.types.Mount. */
export const Mount = message({ type: string(1), source: string(2), target: string(3), options: strings(4) });
export type Mount = Of<typeof Mount>;

export const KIND = { unknown: 0, view: 1, active: 2, committed: 3 } as const;

export const Info = message({
  name: string(1),
  parent: string(2),
  kind: int(3),
  createdAt: nested(4, Timestamp),
  updatedAt: nested(5, Timestamp),
  labels: map(6),
});
export type Info = Of<typeof Info>;

/** Prepare and View. */
export const PrepareRequest = message({ snapshotter: string(1), key: string(2), parent: string(3), labels: map(4) });
/** Mounts, Remove, Stat and Usage. */
export const KeyRequest = message({ snapshotter: string(1), key: string(2) });
export const MountsResponse = message({ mounts: repeated(1, Mount) });
export const CommitRequest = message({
  snapshotter: string(1),
  name: string(2),
  key: string(3),
  labels: map(4),
  parent: string(5),
});
export const InfoResponse = message({ info: nested(1, Info) });
export const UpdateRequest = message({
  snapshotter: string(1),
  info: nested(2, Info),
  updateMask: nested(3, FieldMask),
});
export const ListRequest = message({ snapshotter: string(1), filters: strings(2) });
export const ListResponse = message({ info: repeated(1, Info) });
export const UsageResponse = message({ size: int(1), inodes: int(2) });
export const CleanupRequest = message({ snapshotter: string(1) });

/** containerd.types.Descriptor. */
export const Descriptor = message({ mediaType: string(1), digest: string(2), size: int(3), annotations: map(5) });
export type Descriptor = Of<typeof Descriptor>;

export const ApplyRequest = message({ diff: nested(1, Descriptor), mounts: repeated(2, Mount) });
export const ApplyResponse = message({ applied: nested(1, Descriptor) });
export const DiffRequest = message({
  left: repeated(1, Mount),
  right: repeated(2, Mount),
  mediaType: string(3),
  ref: string(4),
  labels: map(5),
});
export const DiffResponse = message({ diff: nested(1, Descriptor) });

const ContentInfo = message({ digest: string(1), size: int(2), labels: map(5) });
export type ContentInfo = Of<typeof ContentInfo>;
export const ContentInfoRequest = message({ digest: string(1) });
export const ContentInfoResponse = message({ info: nested(1, ContentInfo) });
export const ContentListRequest = message({ filters: strings(1) });
export const ContentListResponse = message({ info: repeated(1, ContentInfo) });
export const ReadRequest = message({ digest: string(1), offset: int(2), size: int(3) });
export const ReadResponse = message({ offset: int(1), data: bytes(2) });

export const WRITE = { stat: 0, write: 1, commit: 2 } as const;
export const WriteRequest = message({
  action: int(1),
  ref: string(2),
  total: int(3),
  expected: string(4),
  offset: int(5),
  data: bytes(6),
  labels: map(7),
});
export type WriteRequest = Of<typeof WriteRequest>;
export const WriteResponse = message({ action: int(1), offset: int(4), total: int(5), digest: string(6) });
