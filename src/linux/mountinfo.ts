/** The mount table: /proc/PID/mountinfo (proc_pid_mountinfo(5)), and who keeps a mount busy. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { bytesOf, displayBytes, fromBuffer, type ByteString } from '../core/bytes.js';
import { isErrno } from '../core/errors.js';
import { mountIdOf } from './stat.js';

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

/** Those of `parts` that stand in a mount table of any namespace that is visible here: in paths, sources or options. */
export function partsOfMounts(parts: readonly string[]): Set<string> {
  const found = new Set<string>();
  const seen = new Set<string>();
  for (const pid of list('/proc').filter((name) => /^\d+$/.test(name))) {
    const namespace = link(`/proc/${pid}/ns/mnt`);
    if (namespace === null || seen.has(namespace)) continue;
    const table = unlessGone(() => readFileSync(`/proc/${pid}/mountinfo`, 'latin1'));
    if (table === null) continue;
    seen.add(namespace);
    for (const part of parts) if (table.includes(part)) found.add(part);
  }
  return found;
}

/** A process that keeps a mount from going. */
export interface MountHolder {
  pid: number;
  command: string;
  /** By its working directory, root, program, an open file, a mapped file, or a copy of the mount in its own namespace. */
  how: 'cwd' | 'root' | 'exe' | 'file' | 'mapping' | 'namespace';
}

/**
 * Who uses what is mounted at `target`: processes of any mount namespace that are visible here. A copy in another
 * namespace does not make an unmount fail, but keeps the file system alive after it. Reads all of /proc: for errors.
 */
export function mountHolders(target: string): MountHolder[] {
  const mount = mountAt(target);
  if (mount === null) return [];
  const seen = new Set([link('/proc/self/ns/mnt')]);
  const holders: MountHolder[] = [];
  for (const pid of list('/proc').filter((name) => /^\d+$/.test(name))) {
    const how = use(`/proc/${pid}`, mount) ?? (namespaceHolds(pid, mount, seen) ? 'namespace' : null);
    if (how !== null) holders.push({ pid: Number(pid), command: commandOf(pid), how });
  }
  return holders;
}

/** At most so many mounts and processes are named. */
const HOLDERS_SHOWN = 8;

/** Mounts below `target` and {@link mountHolders} as a phrase for a "busy" message; '' if none is found. */
export function describeHolders(target: string): string {
  const top = bytesOf(target);
  const below = mountsBelow(target).filter(({ mountPoint }) => mountPoint !== top);
  const names = [
    ...below.map(({ mountPoint }) => `the mount ${displayBytes(mountPoint)}`),
    ...mountHolders(target).map(({ pid, command, how }) => `${command} (pid ${pid}, ${how})`),
  ];
  const more = names.length - HOLDERS_SHOWN;
  return names.slice(0, HOLDERS_SHOWN).join(', ') + (more > 0 ? ` and ${more} more` : '');
}

function use(process: string, { id }: MountInfo): MountHolder['how'] | null {
  const on = (path: string): boolean => mountIdOf(bytesOf(path)) === id;
  const direct = (['cwd', 'root', 'exe'] as const).find((name) => on(`${process}/${name}`));
  if (direct !== undefined) return direct;
  if (list(`${process}/fd`).some((fd) => on(`${process}/fd/${fd}`))) return 'file';
  return list(`${process}/map_files`).some((range) => on(`${process}/map_files/${range}`)) ? 'mapping' : null;
}

/** One process speaks for all of its namespace. */
function namespaceHolds(pid: string, { major, minor }: MountInfo, seen: Set<string | null>): boolean {
  const namespace = link(`/proc/${pid}/ns/mnt`);
  if (namespace === null || seen.has(namespace)) return false;
  seen.add(namespace);
  const mounts = unlessGone(() => readMountinfo(Number(pid))) ?? [];
  return mounts.some((mount) => mount.major === major && mount.minor === minor);
}

function commandOf(pid: string): string {
  const text = unlessGone(() => fromBuffer(readFileSync(`/proc/${pid}/comm`)));
  return text === null ? 'a process' : displayBytes(text.trimEnd() as ByteString);
}

function list(directory: string): string[] {
  return unlessGone(() => readdirSync(directory)) ?? [];
}

function link(path: string): string | null {
  return unlessGone(() => readlinkSync(path));
}

/** Processes come and go, and some are hidden: what cannot be read holds nothing that we could name. */
function unlessGone<T>(read: () => T): T | null {
  try {
    return read();
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT', 'ESRCH', 'EACCES', 'EPERM', 'EINVAL')) return null;
    throw thrown;
  }
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
