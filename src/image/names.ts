/** What an archive calls its images. */
import { LayerdError } from '../core/errors.js';
import { normalizeReference } from '../core/reference.js';
import { ANNOTATIONS } from './types.js';

/** Names of one manifest: whole references, or a tag of a repository that the archive does not name. */
export interface ImageNames {
  refs: string[];
  bareTag: string | null;
}

export const NO_NAMES: ImageNames = { refs: [], bareTag: null };

/** Tells what a person should know: a name that is none. */
export type Notice = (text: string) => void;

/** The names in a descriptor's annotations. Containerd's is always whole; the specification's may be a tag alone. */
export function namesOfAnnotations(annotations: Record<string, string>, notice: Notice): ImageNames {
  const whole = annotations[ANNOTATIONS.containerdName];
  if (whole !== undefined) return { refs: wholeRefs([whole], notice), bareTag: null };
  const name = annotations[ANNOTATIONS.refName];
  if (name === undefined || name === '') return NO_NAMES;
  if (/[/:@]/.test(name)) return { refs: wholeRefs([name], notice), bareTag: null };
  return { refs: [], bareTag: name };
}

/** Those of `names` that are references, normalised, each once. */
export function wholeRefs(names: readonly string[], notice: Notice): string[] {
  const refs = new Set<string>();
  for (const name of names) {
    const ref = tryNormalize(name);
    if (ref !== null) refs.add(ref);
    else notice(`the name ${JSON.stringify(name.slice(0, 300))} in the archive is not an image reference: left out`);
  }
  return [...refs];
}

/** `busybox` for a layout in .../busybox and `app` for .../app.tar.gz: what its bare tags are tags of. */
export function baseNameOf(path: string): string | null {
  const last = path.split('/').findLast((part) => part !== '') ?? '';
  const name = last.toLowerCase().replace(/\.(?:tar|oci|tgz|tzst)?(?:\.gz|\.zst)?$/, '');
  return name !== '' && tryNormalize(name) !== null && !name.includes(':') ? name : null;
}

/** A bare tag as a reference, or null if the archive has no name of its own or the two do not make one. */
export function refOfBareTag(baseName: string | null, tag: string): string | null {
  return baseName === null ? null : tryNormalize(`${baseName}:${tag}`);
}

function tryNormalize(name: string): string | null {
  try {
    return normalizeReference(name);
  } catch (error) {
    if (error instanceof LayerdError && error.code === 'INVALID_REFERENCE') return null;
    throw error;
  }
}
