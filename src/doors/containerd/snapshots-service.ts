/**
 * containerd.services.snapshots.v1: what containerd asks of a proxy snapshotter. Snapshots are kept in a space for each name
 * of a snapshotter that containerd knows us by.
 */
import { isDigest } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import type { PrepareOptions, SnapshotInfo, SnapshotName, SnapshotsApi } from '../../core/snapshots.js';
import type { MountInstruction } from '../../core/words.js';
import { parseFilters } from './filter.js';
import { GID_MAPPING, LAYER_BLOB, REF, SPACE_PREFIX, UID_MAPPING } from './labels.js';
import { streaming, unary, type Method } from './grpc.js';
import {
  CleanupRequest,
  CommitRequest,
  Empty,
  InfoResponse,
  KeyRequest,
  KIND,
  ListRequest,
  ListResponse,
  MountsResponse,
  PrepareRequest,
  SNAPSHOTS,
  UpdateRequest,
  UsageResponse,
  type Info,
  type Mount,
  type Timestamp,
} from './messages.js';
import type { Of } from './protobuf.js';

/** containerd takes messages up to 16 MiB, other clients 4: so many snapshots go in one. */
const LIST_BLOCK = 100;

export function snapshotMethods(api: SnapshotsApi): Method[] {
  const prepare = (request: Of<typeof PrepareRequest>, view: boolean) => prepareSnapshot(api, request, view);
  return [
    unary(`${SNAPSHOTS}Prepare`, PrepareRequest, MountsResponse, (request) => prepare(request, false)),
    unary(`${SNAPSHOTS}View`, PrepareRequest, MountsResponse, (request) => prepare(request, true)),
    unary(`${SNAPSHOTS}Mounts`, KeyRequest, MountsResponse, (request) => mountsOf(api, nameOf(request))),
    unary(`${SNAPSHOTS}Commit`, CommitRequest, Empty, async ({ name, labels, parent, ...key }) => {
      await api.commit(nameOf(key), { name: keyOf(name), labels, parent: parent === '' ? null : parent });
      return {};
    }),
    unary(`${SNAPSHOTS}Remove`, KeyRequest, Empty, async (request) => {
      await api.remove(nameOf(request));
      return {};
    }),
    unary(`${SNAPSHOTS}Stat`, KeyRequest, InfoResponse, async (request) => ({
      info: infoOf(api.stat(nameOf(request))),
    })),
    unary(`${SNAPSHOTS}Update`, UpdateRequest, InfoResponse, (request) => update(api, request)),
    streaming(`${SNAPSHOTS}List`, ListRequest, ListResponse, (request) => list(api, request)),
    unary(`${SNAPSHOTS}Usage`, KeyRequest, UsageResponse, async (request) => {
      const { bytes, inodes } = await api.usage(nameOf(request));
      return { size: bytes, inodes };
    }),
    unary(`${SNAPSHOTS}Cleanup`, CleanupRequest, Empty, async () => {
      await api.cleanup();
      return {};
    }),
  ];
}

async function prepareSnapshot(
  api: SnapshotsApi,
  { parent, labels, ...request }: Of<typeof PrepareRequest>,
  view: boolean,
): Promise<{ mounts: Mount[] }> {
  const name = nameOf(request);
  const below = parent === '' ? null : parent;
  const ref = labels[REF];
  if (!view && ref !== undefined) await refuseIfHere(api, name, { ref, parent: below, labels });
  const mapped = mappedRoot(labels);
  const options: PrepareOptions = {
    parent: below,
    view,
    labels,
    unpack: !view && (ref !== undefined || isUnpacking(name.key)),
  };
  await api.prepare(name, mapped === null ? options : { ...options, rootOwner: mapped });
  return mountsOf(api, name);
}

/** containerd unpacks into `namespace/number/extract-… CHAIN`. */
function isUnpacking(key: string): boolean {
  return key.split('/')[2]?.startsWith('extract-') === true;
}

/** What is here already is not unpacked again: containerd looks for the committed snapshot by its label then. */
async function refuseIfHere(
  api: SnapshotsApi,
  { space, key }: SnapshotName,
  { ref, parent, labels }: { ref: string; parent: string | null; labels: Record<string, string> },
): Promise<void> {
  const blob = labels[LAYER_BLOB];
  const known = blob !== undefined && isDigest(blob) ? { blobDigest: blob } : {};
  const there = await api.adopt(space, { chainId: ref, parent, labels, same: REF, ...known });
  if (there === null) return;
  throw new LayerdError(
    'SNAPSHOT_EXISTS',
    `${ref} is here already, as snapshot ${there.key}: ${key} need not be unpacked`,
    {
      details: { key, ref, found: there.key },
    },
  );
}

async function mountsOf(api: SnapshotsApi, name: SnapshotName): Promise<{ mounts: Mount[] }> {
  const { labels } = api.stat(name);
  const instructions = await api.instructions(name);
  return { mounts: instructions.map((instruction) => mountOf(instruction, labels)) };
}

/** An overlay of a snapshot in a user namespace is to show the lowers as that has them: the mounter maps them. */
function mountOf({ type, source, options }: MountInstruction, labels: Record<string, string>): Mount {
  const { [UID_MAPPING]: uids, [GID_MAPPING]: gids } = labels;
  const mapped = uids === undefined || gids === undefined ? [] : [`uidmap=${uids}`, `gidmap=${gids}`];
  return { type, source, target: '', options: [...mapped, ...options] };
}

/** Who the root of a user namespace is on the host; null where the labels say nothing of one. Throws INVALID_ARGUMENT. */
function mappedRoot(labels: Record<string, string>): { uid: number; gid: number } | null {
  const { [UID_MAPPING]: uids, [GID_MAPPING]: gids } = labels;
  if (uids === undefined && gids === undefined) return null;
  return { uid: hostRoot(UID_MAPPING, uids), gid: hostRoot(GID_MAPPING, gids) };
}

/** `container:host:size`, several with commas. */
function hostRoot(label: string, text: string | undefined): number {
  for (const range of text?.split(',') ?? []) {
    const [, container, host, size] = /^(\d{1,10}):(\d{1,10}):(\d{1,10})$/.exec(range) ?? [];
    if (Number(container) === 0 && Number(size) > 0) return Number(host);
  }
  throw new LayerdError('INVALID_ARGUMENT', `the label ${label} does not map 0: ${JSON.stringify(text ?? '')}`, {
    details: { label },
    hint: 'container:host:size, as 0:100000:65536; both labels or none.',
  });
}

async function update(
  api: SnapshotsApi,
  { snapshotter, info, updateMask }: Of<typeof UpdateRequest>,
): Promise<{ info: Info }> {
  if (info === null) throw new LayerdError('INVALID_ARGUMENT', 'Update needs the info of a snapshot');
  const paths = updateMask?.paths ?? [];
  const wrong = paths.find((path) => path !== 'labels' && !path.startsWith('labels.'));
  if (wrong !== undefined) {
    throw new LayerdError(
      'INVALID_ARGUMENT',
      `cannot update ${wrong} of a snapshot: labels can be changed, and nothing else`,
      {
        details: { path: wrong },
      },
    );
  }
  const given = present(info.labels);
  const changed = await api.relabel(nameOf({ snapshotter, key: info.name }), (labels) => {
    if (paths.length === 0 || paths.includes('labels')) return given;
    const names = new Set(paths.map((path) => path.slice('labels.'.length)));
    const rest = Object.entries(labels).filter(([label]) => !names.has(label));
    return {
      ...Object.fromEntries(rest),
      ...Object.fromEntries(Object.entries(given).filter(([k]) => names.has(k))),
    };
  });
  return { info: infoOf(changed) };
}

/** A label without a value is none. */
function present(labels: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(labels).filter(([, value]) => value !== ''));
}

function* list(api: SnapshotsApi, { snapshotter, filters }: Of<typeof ListRequest>): Generator<{ info: Info[] }> {
  const matches = parseFilters(filters);
  let info: Info[] = [];
  for (const snapshot of api.list(spaceOf(snapshotter))) {
    if (!matches(snapshot)) continue;
    info.push(infoOf(snapshot));
    if (info.length < LIST_BLOCK) continue;
    yield { info };
    info = [];
  }
  if (info.length > 0) yield { info };
}

function infoOf({ key, parent, kind, created, updated, labels }: SnapshotInfo): Info {
  return {
    name: key,
    parent: parent ?? '',
    kind: KIND[kind],
    createdAt: timestamp(created),
    updatedAt: timestamp(updated),
    labels,
  };
}

function timestamp(micros: number): Timestamp {
  const seconds = Math.floor(micros / 1e6);
  return { seconds, nanos: Math.round(micros - seconds * 1e6) * 1000 };
}

function nameOf({ snapshotter, key }: { snapshotter: string; key: string }): SnapshotName {
  return { space: spaceOf(snapshotter), key: keyOf(key) };
}

function spaceOf(snapshotter: string): string {
  return `${SPACE_PREFIX}${snapshotter}`;
}

function keyOf(key: string): string {
  if (key !== '') return key;
  throw new LayerdError('INVALID_ARGUMENT', 'a snapshot without a key was asked for');
}
