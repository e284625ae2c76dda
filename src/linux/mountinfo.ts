/** The mount table: /proc/PID/mountinfo (proc_pid_mountinfo(5)), and who keeps a mount busy. */
import { readFileSync } from 'node:fs';
import { bytesOf, fromBuffer, type ByteString } from '../core/bytes.js';

export interface MountInfo {
  /** As in FileStat.mountId; reused after an unmount. */
  id: number;
  parent: number;
  major: number;
  minor: number;
  /** The directory of the file system that is the root of this mount. */
  root: ByteString;
  mountPoint: ByteString;
  /** Options of this mount. */
  options: ByteString[];
  /** Propagation: `shared:N`, `master:N`, … */
  optional: ByteString[];
  fsType: ByteString;
  source: ByteString;
  /** Options of the file system. */
  superOptions: ByteString[];
}

/** The mounts that a process sees, in the order of the table (a mount after what it stands on). */
export function readMountinfo(pid: number | 'self' = 'self'): MountInfo[] {
  return parseMountinfo(readFileSync(`/proc/${pid}/mountinfo`));
}

/** Parses the bytes of a mountinfo file. Throws a SyntaxError naming a line that is none. */
export function parseMountinfo(bytes: Uint8Array): MountInfo[] {
  const lines = fromBuffer(bytes).split('\n');
  return lines.filter((line) => line !== '').map(parseLine);
}

/** Mounts at `path` and below it, in the order of the table: unmount them in reverse. */
export function mountsBelow(path: string, mounts: readonly MountInfo[] = readMountinfo()): MountInfo[] {
  const top = bytesOf(path.length > 1 ? path.replace(/\/+$/, '') : path);
  const below = top === '/' ? top : `${top}/`;
  return mounts.filter(({ mountPoint }) => mountPoint === top || mountPoint.startsWith(below));
}

/** What is mounted at exactly this path (the topmost of several), or null. */
export function mountAt(path: string, mounts: readonly MountInfo[] = readMountinfo()): MountInfo | null {
  const bytes = bytesOf(path);
  return mounts.findLast(({ mountPoint }) => mountPoint === bytes) ?? null;
}

/** `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue` */
function parseLine(line: string): MountInfo {
  const fields = line.split(' ');
  const separator = fields.indexOf('-', 6);
  const [id = '', parent = '', device = '', root = '', mountPoint = '', options = ''] = fields;
  const [fsType, source, superOptions = ''] = fields.slice(separator + 1);
  const [major, minor] = device.split(':');
  if (separator < 0 || fsType === undefined || source === undefined || minor === undefined) {
    throw new SyntaxError(`not a line of mountinfo: ${JSON.stringify(line)}`);
  }
  return {
    id: Number(id),
    parent: Number(parent),
    major: Number(major),
    minor: Number(minor),
    root: unescaped(root),
    mountPoint: unescaped(mountPoint),
    options: options.split(',').map(unescaped),
    optional: fields.slice(6, separator) as ByteString[],
    fsType: unescaped(fsType),
    source: unescaped(source),
    superOptions: superOptions.split(',').map(unescaped),
  };
}

/** Separators (space, tab, newline, backslash, comma in a value) stand as a backslash and three octal digits. */
function unescaped(field: string): ByteString {
  return field.replaceAll(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  ) as ByteString;
}
