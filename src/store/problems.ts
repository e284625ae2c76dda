/** What check finds, in words: what it is, whom it touches, what to do. */
import type { LayerFault } from '../../drivers/driver.js';
import type { Digest } from '../core/digest.js';
import type { Problem } from '../core/words.js';
import type { ContainerWithSnapshot } from '../metadata/reader.js';
import type { LiveSnapshotRow } from '../metadata/rows.js';

const RELOAD = 'Load the image again: what is damaged is replaced in place.';
const REPAIR = 'Run `layerctl check --repair`';

export function databaseCorrupt(path: string, message: string): Problem {
  const hint =
    'Stop the daemon; then `layerd restore FILE` puts a backup back, or `layerd rebuild` makes it anew from the files.';
  return { severity: 'damage', code: 'DATABASE_CORRUPT', subject: path, message, affects: [], hint, repaired: false };
}

export function layerFault(diffId: Digest, fault: LayerFault, affects: string[], repaired: boolean): Problem {
  const message = `${fault.path === '' ? '' : `${fault.path}: `}${fault.message}`;
  const hint = fault.repairable ? `${REPAIR}.` : RELOAD;
  return { severity: 'damage', code: fault.code, subject: diffId, message, affects, hint, repaired };
}

/** `found`: the digest of the file, null where there is none. */
export function blobFault(digest: Digest, found: string | null, affects: string[], repaired: boolean): Problem {
  const code = found === null ? 'BLOB_MISSING' : 'BLOB_CORRUPT';
  const message = found === null ? 'the kept blob is gone' : `the kept blob has the digest ${found}`;
  const hint = `${REPAIR}, which lets go of it; loading the image again brings it back. The layer itself is not touched.`;
  return { severity: 'damage', code, subject: digest, message, affects, hint, repaired };
}

/** The rows are whole; what is wrong is their second copy. */
export function imageFile(imageId: Digest, path: string, repaired: boolean): Problem {
  return {
    severity: 'damage',
    code: 'IMAGE_FILE_CORRUPT',
    subject: imageId,
    message: `${path} is not what the database says of the image: it could not be rebuilt if that were lost`,
    affects: [],
    hint: `${REPAIR}: it is written anew.`,
    repaired,
  };
}

export function snapshotMissing(row: LiveSnapshotRow, path: string): Problem {
  return {
    severity: 'damage',
    code: 'SNAPSHOT_MISSING',
    subject: row.key,
    message: `the directory of the snapshot is gone: ${path}`,
    affects: [row.key],
    hint: 'What the container wrote is lost; remove the container.',
    repaired: false,
  };
}

/** `affects`: the snapshots that lie on it. */
export function upperMissing(path: string, affects: string[]): Problem {
  return {
    severity: 'damage',
    code: 'UPPER_MISSING',
    subject: path,
    message: 'a committed upper is gone that was not a layer yet',
    affects,
    hint: 'Remove the snapshots and pull the image again.',
    repaired: false,
  };
}

/** `affects`: the snapshots that lie on it. */
export function upperChanged(path: string, affects: string[]): Problem {
  return {
    severity: 'damage',
    code: 'UPPER_CHANGED',
    subject: path,
    message: 'it was changed after its commit: somebody had it mounted writable',
    affects,
    hint: 'It serves those who have it, and no layer is made of it. Remove the snapshots and pull the image again.',
    repaired: false,
  };
}

export function mountLost(row: ContainerWithSnapshot, repaired: boolean): Problem {
  return {
    severity: 'leak',
    code: 'MOUNT_LOST',
    subject: row.id,
    message: `${row.path} is counted as mounted ${row.mounts} times, and nothing is mounted there`,
    affects: [row.name],
    hint: `${REPAIR}, or restart the daemon: the container is then unmounted, and can be mounted again.`,
    repaired,
  };
}

export function strayMount(path: string, repaired: boolean): Problem {
  return leak(
    'STRAY_MOUNT',
    path,
    'it is mounted, and no row accounts for it',
    `${REPAIR}: it is unmounted.`,
    repaired,
  );
}

export function strayFile(path: string, repaired: boolean): Problem {
  return leak('STRAY_FILE', path, 'no row accounts for it', `${REPAIR}: it is moved into the trash.`, repaired);
}

/** Something that layerd did not make: it is told, and left alone. */
export function foreignFile(path: string): Problem {
  return leak('STRAY_FILE', path, 'layerd does not make such a thing', 'Remove it by hand if it is yours.', false);
}

function leak(code: string, subject: string, why: string, hint: string, repaired: boolean): Problem {
  return { severity: 'leak', code, subject, message: `${subject}: ${why}`, affects: [], hint, repaired };
}
