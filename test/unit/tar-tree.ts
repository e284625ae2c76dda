/** Trees on disk for the tests of the tar codec, and what there is to tell of them: from the disk, and from an archive. */
import { createHash } from 'node:crypto';
import { constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach } from 'vitest';
import { bytesOf, type ByteString } from '../../src/core/bytes.js';
import { ftruncate, pread, pwrite } from '../../src/linux/extents.js';
import {
  AT_FDCWD,
  close,
  fchmodat,
  fchownat,
  linkat,
  mkdirat,
  mknodat,
  openat,
  readlinkat,
  symlinkat,
  utimensat,
} from '../../src/linux/files.js';
import { readDirectory } from '../../src/linux/directory.js';
import { statAt } from '../../src/linux/stat.js';
import { readXattrs, setXattr } from '../../src/linux/xattr.js';
import type { TarEntry, TarTime } from '../../src/tar/entry.js';
import { latin1, type Scanned } from './tar-kit.js';

/** A fresh directory per call, gone after the test. */
export function scratch(): () => ByteString {
  const made: string[] = [];
  afterEach(() => {
    for (const directory of made.splice(0)) rmSync(directory, { recursive: true, force: true });
  });
  return () => {
    const directory = mkdtempSync(join(tmpdir(), 'layerd-tar-'));
    made.push(directory);
    return bytesOf(directory);
  };
}

/** Everything about a file that an archive should carry. */
export interface Facts {
  kind: string;
  mode: number;
  uid: number;
  gid: number;
  mtime: TarTime;
  device: string;
  linkTarget: string;
  size: number;
  sha256: string;
  xattrs: Record<string, string>;
  /** All names of the inode. */
  names: string[];
}

const NO_CONTENT = sha256(Buffer.alloc(0));

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** What lies below `root`, by path; the root itself is ''. */
export function factsOfTree(root: ByteString): Map<string, Facts> {
  const facts = new Map<string, Facts>();
  const inodes = new Map<bigint, string[]>();
  const visit = (path: string): void => {
    const full = latin1(path === '' ? root : `${root}/${path}`);
    const stat = statAt(AT_FDCWD, full);
    const names = inodes.get(stat.ino) ?? [];
    inodes.set(stat.ino, names);
    names.push(path);
    const isDevice = stat.kind === 'char' || stat.kind === 'block';
    facts.set(path, {
      kind: stat.kind,
      mode: stat.mode % 0o10000,
      uid: stat.uid,
      gid: stat.gid,
      mtime: { sec: stat.mtime.sec, nsec: stat.mtime.nsec },
      device: isDevice ? `${stat.rdev.major}:${stat.rdev.minor}` : '',
      linkTarget: stat.kind === 'symlink' ? readlinkat(AT_FDCWD, full) : '',
      size: stat.kind === 'file' ? stat.size : 0,
      sha256: stat.kind === 'file' ? sha256(readFile(full, stat.size)) : NO_CONTENT,
      xattrs: Object.fromEntries([...readXattrs(full)].map(([name, value]) => [name, value.toString('hex')])),
      names,
    });
    if (stat.kind === 'directory') for (const name of namesIn(full)) visit(path === '' ? name : `${path}/${name}`);
  };
  visit('');
  for (const names of inodes.values()) names.sort();
  return facts;
}

function namesIn(directory: ByteString): string[] {
  const fd = openat(AT_FDCWD, directory, constants.O_RDONLY | constants.O_DIRECTORY);
  const names = readDirectory(fd).map(({ name }) => name);
  close(fd);
  return names;
}

function readFile(path: ByteString, size: number): Buffer {
  const fd = openat(AT_FDCWD, path, constants.O_RDONLY);
  const bytes = Buffer.alloc(size);
  for (let done = 0; done < size;) done += pread(fd, bytes.subarray(done), done);
  close(fd);
  return bytes;
}

/** The content of a file as it will be read: holes filled with zeros. */
export function expanded(entry: TarEntry, payload: Buffer): Buffer {
  if (entry.sparse === null) return payload;
  const content = Buffer.alloc(entry.size);
  let at = 0;
  for (const { offset, length } of entry.sparse) {
    payload.copy(content, offset, at, at + length);
    at += length;
  }
  return content;
}

/** The same of an archive: paths without `./` before and `/` behind, hard links resolved. */
export function factsOfArchive({ entries, payloads }: Scanned): Map<string, Facts> {
  const facts = new Map<string, Facts>();
  entries.forEach((entry, i) => {
    const path = plainPath(entry.path);
    if (entry.type !== 'hardlink') {
      facts.set(path, factsOfEntry(entry, expanded(entry, payloads[i] ?? Buffer.alloc(0)), path));
      return;
    }
    const target = facts.get(plainPath(entry.linkPath));
    if (target === undefined) throw new Error(`a hard link to nothing: ${entry.path}`);
    target.names.push(path);
    facts.set(path, target);
  });
  for (const { names } of facts.values()) names.sort();
  return facts;
}

function plainPath(path: string): string {
  return path.replace(/^\.\/?/, '').replace(/\/$/, '');
}

function factsOfEntry(entry: TarEntry, content: Buffer, path: string): Facts {
  const isDevice = entry.type === 'char' || entry.type === 'block';
  return {
    kind: entry.type,
    mode: entry.mode,
    uid: entry.uid,
    gid: entry.gid,
    mtime: entry.mtime,
    device: isDevice ? `${entry.devMajor}:${entry.devMinor}` : '',
    linkTarget: entry.linkPath,
    size: entry.size,
    sha256: sha256(content),
    xattrs: Object.fromEntries([...(entry.xattrs ?? [])].map(([name, value]) => [name, value.toString('hex')])),
    names: [path],
  };
}

/** What a format cannot say is left out of the comparison. */
export interface Blind {
  nanoseconds?: boolean;
  xattrs?: boolean;
  symlinkTimes?: boolean;
  /** The directory that was unpacked into is the tool's own affair. */
  root?: boolean;
}

/** Facts in an order, without what the archive or the tool is blind for. */
export function comparable(facts: ReadonlyMap<string, Facts>, blind: Blind = {}): [string, Facts][] {
  return [...facts]
    .filter(([path]) => path !== '' || blind.root !== true)
    .map(([path, fact]): [string, Facts] => {
      const isTimeless = blind.symlinkTimes === true && fact.kind === 'symlink';
      const sec = isTimeless ? 0 : fact.mtime.sec;
      const nsec = isTimeless || blind.nanoseconds === true ? 0 : fact.mtime.nsec;
      return [path, { ...fact, mtime: { sec, nsec }, xattrs: blind.xattrs === true ? {} : fact.xattrs }];
    })
    .sort(([a], [b]) => (a < b ? -1 : 1));
}

/** Makes a tree: every call adds a file, and finish() sets the times. */
class TreeMaker {
  readonly #root: ByteString;
  readonly #times: [ByteString, TarTime][] = [];

  constructor(root: ByteString) {
    this.#root = root;
  }

  at(path: string): ByteString {
    return latin1(path === '' ? this.#root : `${this.#root}/${path}`);
  }

  directory(path: string, mode = 0o755, mtime?: TarTime): void {
    mkdirat(AT_FDCWD, this.at(path), 0o700);
    this.#set(path, mode, mtime);
  }

  file(path: string, content: string | Buffer, mode = 0o644, mtime?: TarTime): void {
    this.sparse(path, content.length, [[0, Buffer.from(content)]]);
    this.#set(path, mode, mtime);
  }

  /** A file of `size` bytes with data at these offsets alone. */
  sparse(path: string, size: number, data: (readonly [offset: number, bytes: Buffer])[]): void {
    const fd = openat(AT_FDCWD, this.at(path), constants.O_WRONLY | constants.O_CREAT, 0o644);
    ftruncate(fd, size);
    for (const [offset, bytes] of data) pwrite(fd, bytes, offset);
    close(fd);
    this.#set(path, 0o644);
  }

  symlink(path: string, target: string): void {
    symlinkat(latin1(target), AT_FDCWD, this.at(path));
    this.#times.push([this.at(path), { sec: 1_500_000_001, nsec: 500_000_000 }]);
  }

  hardLink(path: string, target: string): void {
    linkat(AT_FDCWD, this.at(target), AT_FDCWD, this.at(path));
  }

  node(path: string, mode: number, major = 0, minor = 0): void {
    mknodat(AT_FDCWD, this.at(path), mode, major, minor);
    this.#set(path, 0o640);
  }

  owner(path: string, uid: number, gid: number): void {
    fchownat(AT_FDCWD, this.at(path), uid, gid);
  }

  xattr(path: string, name: string, value: Buffer): void {
    setXattr(this.at(path), latin1(name), value);
  }

  /** Times last, deepest first: making a file changes its directory's. */
  finish(): void {
    for (const [path, mtime] of this.#times.toReversed()) utimensat(AT_FDCWD, path, mtime);
  }

  #set(path: string, mode: number, mtime: TarTime = { sec: 1_600_000_000, nsec: 123_456_789 }): void {
    fchmodat(AT_FDCWD, this.at(path), mode);
    this.#times.push([this.at(path), mtime]);
  }
}

function pattern(length: number, seed: number): Buffer {
  return Buffer.from(Uint8Array.from({ length }, (_, i) => (i * 31 + seed * 7 + (i >> 8)) % 251));
}

/** What every format can hold, v7 included. */
function addPlain(tree: TreeMaker): void {
  tree.directory('dir', 0o755);
  tree.directory('dir/sticky', 0o1777);
  tree.directory('dir/empty', 0o2750);
  tree.file('dir/hello', 'hello\n');
  tree.file('dir/setuid', '#!/bin/sh\n', 0o4755);
  tree.file('empty', '');
  tree.file('block', pattern(512, 1));
  tree.file('big', pattern(1_000_003, 2), 0o600);
  tree.owner('big', 1000, 100);
  tree.symlink('symlink', 'dir/../dir/hello');
  tree.symlink('dangling', '/nowhere/at all');
  tree.hardLink('dir/sticky/hard', 'big');
  tree.hardLink('hard', 'big');
}

/** What ustar can hold besides. */
function addNodes(tree: TreeMaker): void {
  tree.node('fifo', constants.S_IFIFO);
  tree.node('char', constants.S_IFCHR, 1, 3);
  // libarchive leaves out larger minor numbers without a word
  tree.node('block-device', constants.S_IFBLK, 4095, 0o777_777);
  tree.file('raw-\xff\xfe\x01', 'a name that is not UTF-8');
  tree.directory(`prefix-${'p'.repeat(90)}`);
  tree.file(`prefix-${'p'.repeat(90)}/${'n'.repeat(95)}`, 'a name in two fields');
}

/** What needs GNU extensions or PAX: long names, large ids, times before 1970. */
function addLong(tree: TreeMaker): void {
  const utf8 = bytesOf('ünïcödé-日本');
  tree.file(utf8, 'a name of UTF-8');
  tree.symlink('to-utf8', utf8);
  let deep = 'd'.repeat(200);
  tree.directory(deep);
  deep += `/${'e'.repeat(200)}`;
  tree.directory(deep);
  tree.file(`${deep}/${'f'.repeat(250)}`, 'a long name');
  tree.file(`${deep}/\xe9${'f'.repeat(250)}`, 'a long name that is not UTF-8');
  tree.symlink('to-long', `${deep}/${'f'.repeat(250)}`);
  tree.symlink('to-raw', `\xff${'x'.repeat(150)}`);
  tree.hardLink(`hard-${'h'.repeat(120)}`, `${deep}/${'f'.repeat(250)}`);
  tree.file('large-ids', 'x');
  tree.owner('large-ids', 3_000_000, 4_000_000_000);
  tree.file('before-1970', 'x', 0o644, { sec: -86_401, nsec: 250_000_000 });
  tree.file('just-before-1970', 'x', 0o644, { sec: -1, nsec: 999_999_999 });
  tree.file('whole-second', 'x', 0o644, { sec: 1_234_567_890, nsec: 0 });
}

/** What needs PAX: extended attributes, of any bytes. */
function addXattrs(tree: TreeMaker): void {
  tree.file('with-xattrs', 'x');
  tree.xattr('with-xattrs', 'user.text', Buffer.from('value'));
  tree.xattr('with-xattrs', 'user.empty', Buffer.alloc(0));
  tree.xattr('with-xattrs', 'user.bytes', Buffer.from([0, 10, 61, 255, 0, 49, 48, 32, 120, 61, 10]));
  tree.xattr('dir', 'user.on-directory', Buffer.from('d'));
  tree.file('ping', 'x', 0o755);
  // struct vfs_ns_cap_data, revision 2: cap_net_raw+ep
  tree.xattr('ping', 'security.capability', Buffer.from('0100000200200000000000000000000000000000', 'hex'));
}

export type TreeFeature = 'nodes' | 'long' | 'xattrs';

/** A tree of plain files, directories and links in `root`, and of what else the format to be tested can hold. */
export function makeTree(root: ByteString, ...features: TreeFeature[]): void {
  const tree = new TreeMaker(root);
  addPlain(tree);
  if (features.includes('nodes')) addNodes(tree);
  if (features.includes('long')) addLong(tree);
  if (features.includes('xattrs')) addXattrs(tree);
  tree.finish();
}

/** Files with holes: at the end, at the start, everywhere, and more segments than one header holds. */
export function makeSparseTree(root: ByteString): void {
  const tree = new TreeMaker(root);
  const page = (seed: number): Buffer => pattern(4096, seed);
  tree.sparse('hole', 1_048_577, []);
  tree.sparse('tail', 1_048_576, [[0, page(1)]]);
  tree.sparse('head', 1_052_672, [[1_048_576, page(2)]]);
  tree.sparse('ragged', 200_003, [
    [65_536, page(3)],
    [196_608, pattern(3395, 4)],
  ]);
  tree.sparse(
    'many',
    70 * 65_536,
    Array.from({ length: 70 }, (_, i) => [i * 65_536, page(i)] as const),
  );
  tree.directory('after');
  tree.file('after/all', 'the archive goes on');
  tree.sparse(`long-${'s'.repeat(150)}`, 1_048_576, [[524_288, page(5)]]);
  tree.finish();
}
