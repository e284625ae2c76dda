/** Which blob of containerd's a snapshot was unpacked from. */
import { access } from 'node:fs/promises';
import { chainId, isDigest } from '../../core/digest.js';
import type { FindOriginal } from '../../core/snapshots.js';
import { type ContainerdAddress, ContentStore, digestOf } from './content.js';
import { REF, UNCOMPRESSED } from './labels.js';

/**
 * Looks among the blobs that containerd has unpacked for one whose diff ID, upon the chain of the parent, gives the chain ID
 * that the snapshot is said to be. That is a claim of containerd's: reading the blob proves it, or not.
 */
export async function findOriginal(
  address: ContainerdAddress,
  { key, labels, parentChain }: Parameters<FindOriginal>[0],
): ReturnType<FindOriginal> {
  // containerd names what it unpacked by its chain ID, and does not always say so in a label
  const ref = labels[REF] ?? ownName(key);
  if (!isDigest(ref) || !(await isThere(address.socket))) return null;
  const store = new ContentStore(address, namespaceOf(key));
  try {
    for (const blob of await store.list(`labels."${UNCOMPRESSED}"`)) {
      const diffId = digestOf(blob.labels[UNCOMPRESSED]);
      const blobDigest = digestOf(blob.digest);
      if (diffId === null || blobDigest === null || chainId(parentChain, diffId) !== ref) continue;
      return { diffId, blobDigest, open: (signal) => readBlob(address, key, blobDigest, signal) };
    }
    return null;
  } finally {
    store.close();
  }
}

/** The bytes of a blob, over a connection of their own. */
export async function* readBlob(
  address: ContainerdAddress,
  key: string,
  digest: string,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const store = new ContentStore(address, namespaceOf(key));
  try {
    yield* store.read(digest, signal);
  } finally {
    store.close();
  }
}

/** containerd's keys are `namespace/number/key`. */
export function namespaceOf(key: string): string {
  return key.split('/', 1)[0] ?? 'default';
}

function ownName(key: string): string {
  return key.split('/').slice(2).join('/');
}

async function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
