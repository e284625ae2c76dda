import { fileURLToPath } from 'node:url';
import { Answerer } from './answerer.js';

/** One entry of a tree as an independent program (`describe.py`) tells it. Names are escaped: see there. */
export interface TreeEntry {
  /** without a leading slash; the root is `.` */
  path: string;
  type: 'directory' | 'file' | 'symlink' | 'character' | 'block' | 'fifo' | 'socket';
  /** twelve bits in octal */
  mode: string;
  uid: number;
  gid: number;
  /** nanoseconds since 1970, decimal */
  mtime: string;
  /** bytes; files and symbolic links only */
  size?: number;
  /** content of a file, hex */
  sha256?: string;
  /** of a symbolic link */
  target?: string;
  /** `major:minor` of a device */
  rdev?: string;
  /** the smallest path of the hard-link group, where it has more than one member */
  links?: string;
  /** values in hex; without those that overlay keeps for itself */
  xattrs: Record<string, string>;
}

/** A tree's entries by path. */
export type TreeListing = Map<string, TreeEntry>;

/** A respect in which two trees differ. */
export interface TreeDifference {
  path: string;
  /** `entry` where one side lacks the whole entry; `xattr:NAME` for an extended attribute */
  attribute: string;
  left: string | undefined;
  right: string | undefined;
}

/** What {@link compareTrees} leaves out: differences for which `ignore` gives true. */
export interface CompareOptions {
  ignore?: (difference: TreeDifference) => boolean;
}

const DESCRIBE = fileURLToPath(new URL('../../../test/reference/describe.py', import.meta.url));
const describer = new Answerer('python3', '-I', DESCRIBE);

/** Lists every entry below `path` and `path` itself. Needs python3, and root where files are not ours. */
export async function describeTree(path: string): Promise<TreeListing> {
  const lines = await describer.ask(Buffer.from(path).toString('base64'));
  const listing: TreeListing = new Map();
  for (const line of lines) {
    const entry = JSON.parse(line) as TreeEntry | { error: string };
    if ('error' in entry) throw new Error(`describe.py ${path}: ${entry.error}`);
    listing.set(entry.path, entry);
  }
  return listing;
}

/** Every difference between two trees, by path; empty where they are equal. */
export function compareTrees(left: TreeListing, right: TreeListing, options: CompareOptions = {}): TreeDifference[] {
  const paths = [...new Set([...left.keys(), ...right.keys()])].sort();
  const differences = paths.flatMap((path) => compareEntries(path, left.get(path), right.get(path)));
  return differences.filter((difference) => !(options.ignore?.(difference) ?? false));
}

/** One line a difference, for people; at most `most` of them. */
export function showDifferences(differences: TreeDifference[], most = 50): string {
  const lines = differences
    .slice(0, most)
    .map(({ path, attribute, left, right }) => `${path}: ${attribute}: ${left ?? 'none'} | ${right ?? 'none'}`);
  const rest = differences.length - lines.length;
  return (rest > 0 ? [...lines, `… and ${rest} more`] : lines).join('\n');
}

function compareEntries(path: string, left: TreeEntry | undefined, right: TreeEntry | undefined): TreeDifference[] {
  if (left === undefined || right === undefined) {
    return [{ path, attribute: 'entry', left: left?.type, right: right?.type }];
  }
  const ofLeft = flatten(left);
  const ofRight = flatten(right);
  return [...new Set([...ofLeft.keys(), ...ofRight.keys()])]
    .filter((attribute) => ofLeft.get(attribute) !== ofRight.get(attribute))
    .map((attribute) => ({ path, attribute, left: ofLeft.get(attribute), right: ofRight.get(attribute) }));
}

/** Every respect of an entry as a name and a text. */
function flatten(entry: TreeEntry): Map<string, string> {
  const { path: _, xattrs, ...plain } = entry;
  const xattrTexts = Object.entries(xattrs).map(([name, value]): [string, string] => [`xattr:${name}`, value]);
  return new Map([
    ...Object.entries(plain).map(([name, value]): [string, string] => [name, String(value)]),
    ...xattrTexts,
  ]);
}
