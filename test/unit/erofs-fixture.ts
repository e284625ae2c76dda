/** What the tests of the erofs driver share: layers stored from tars, mounts of them, and judges that are not ours. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { StoredLayer } from '../../drivers/driver.js';
import { ErofsLayers } from '../../drivers/erofs/layers.js';
import { layerFiles, type LayerFiles } from '../../drivers/erofs/layer-files.js';
import { fileSource } from '../../src/content/file-source.js';
import { ingest } from '../../src/content/ingest.js';
import { bytesOf, type ByteString } from '../../src/core/bytes.js';
import { Places } from '../../src/core/places.js';
import { erofsMount } from '../../src/linux/erofs.js';
import { close } from '../../src/linux/files.js';
import { attach, umount } from '../../src/linux/mount.js';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { encodeEntry, endOfArchive, padding, type EntryToWrite } from '../../src/tar/writer.js';
import type { Prerequisite } from '../support.js';

/** A directory of its own for a test, gone afterwards. */
export class Scratch {
  readonly path = mkdtempSync(join(tmpdir(), 'layerd-erofs-'));
  readonly places = new Places(join(this.path, 'root'), join(this.path, 'run'));

  constructor() {
    mkdirSync(this.places.layers, { recursive: true });
  }

  at(name: string): string {
    return join(this.path, name);
  }

  directory(name: string): string {
    mkdirSync(this.at(name), { recursive: true });
    return this.at(name);
  }

  /** Mounts an index; the path of the layer inside. */
  mount(files: LayerFiles, options: { directio?: boolean } = {}): string {
    const target = mkdtempSync(join(this.path, 'mount-'));
    const fd = erofsMount({ image: files.index, devices: [files.tar], ...options });
    try {
      attach(fd, bytesOf(target));
    } finally {
      close(fd);
    }
    return join(target, 'd');
  }

  [Symbol.dispose](): void {
    for (const { mountPoint } of mountsBelow(this.path).toReversed()) umount(mountPoint, { detach: true });
    execFileSync('rm', ['-rf', this.path]); // paths beyond PATH_MAX too
  }
}

/** Stores a tar as a layer named `dir`. */
export async function store(scratch: Scratch, tar: string, dir = 'layer'): Promise<StoredLayer> {
  const layers = new ErofsLayers(scratch.places, { directio: false });
  const ingested = await ingest(fileSource(tar, 0, statSync(tar).size), layers.begin(dir), {});
  const { diffId, size, opaqueRoot } = ingested;
  return { driver: 'erofs', dir, diffId, size, opaqueRoot };
}

export function filesOf(scratch: Scratch, { dir }: StoredLayer): LayerFiles {
  return layerFiles(scratch.places.layer(dir));
}

const PLAIN: Omit<EntryToWrite, 'type' | 'path'> = {
  linkPath: '' as ByteString,
  mode: 0o644,
  uid: 0,
  gid: 0,
  size: 0,
  mtime: { sec: 1_700_000_000, nsec: 0 },
  devMajor: 0,
  devMinor: 0,
  xattrs: null,
};

export type Entry = Pick<EntryToWrite, 'type'> & { path: string } & Partial<Omit<EntryToWrite, 'type' | 'path'>> & {
    content?: Buffer;
  };

/** Headers and payload of one entry; the path is Latin-1: one char, one byte. */
export function tarEntry({ path, content = Buffer.alloc(0), ...rest }: Entry): Buffer {
  const header = encodeEntry({ ...PLAIN, size: content.length, ...rest, path: path as ByteString });
  return Buffer.concat([header, content, Buffer.alloc(padding(content.length))]);
}

export function tarOf(entries: readonly Entry[]): Buffer {
  return Buffer.concat([...entries.map(tarEntry), endOfArchive()]);
}

/** fsck.erofs before 1.7 does not know blocks of 512 bytes. */
export function needsFsckErofs(): Prerequisite {
  const shown: string | null = spawnSync('fsck.erofs', ['-V'], { encoding: 'utf8' }).stdout; // null: no such program
  const [, major = 0, minor = 0] = /erofs-utils\) (\d+)\.(\d+)/.exec(shown ?? '') ?? [];
  const met = Number(major) > 1 || (Number(major) === 1 && Number(minor) >= 7);
  return { name: 'fsck.erofs ≥ 1.7', met, enable: 'sudo scripts/erofs-utils.sh' };
}

/** Whether the running kernel mounts EROFS images from files. */
export function needsErofs(): Prerequisite {
  const [major = 0, minor = 0] = execFileSync('uname', ['-r'], { encoding: 'utf8' }).split('.').map(Number);
  const known = spawnSync('grep', ['-qw', 'erofs', '/proc/filesystems']).status === 0;
  return {
    name: 'file-backed EROFS',
    met: known && (major > 6 || (major === 6 && minor >= 12)),
    enable: 'boot Linux ≥ 6.12',
  };
}

/** Complaints of fsck.erofs about an index; '' if it has none. */
export function fsck({ index, tar }: LayerFiles, ...options: string[]): string {
  const { status, stdout, stderr } = spawnSync('fsck.erofs', [`--device=${tar}`, ...options, index], {
    encoding: 'utf8',
  });
  return status === 0 ? '' : `exit ${status}: ${stdout}${stderr}`;
}

/** One name of a tree, as Python's os module sees it. */
export interface Listed {
  path: string;
  type: string;
  mode: number;
  uid: number;
  gid: number;
  mtime: string;
  size?: number;
  sha256?: string;
  target?: string;
  device?: [number, number];
  nlink?: number;
  /** The first name of the same inode. */
  same?: string;
  xattrs: [string, string][];
}

/** Everything that can be seen of a tree, read by a program that shares no code with us. Names are Latin-1. */
export function listing(root: string): Listed[] {
  const json = execFileSync('python3', ['-c', LISTING, root], { encoding: 'utf8', maxBuffer: 1 << 30 });
  return JSON.parse(json) as Listed[];
}

const LISTING = `
import hashlib, json, os, stat, sys
root = os.fsencode(sys.argv[1])
text = lambda name: name.decode('latin1')
seen, out = {}, []
def digest(fd):
    h = hashlib.sha256()
    while chunk := os.read(fd, 1 << 20):
        h.update(chunk)
    os.close(fd)
    return h.hexdigest()
def visit(dirfd, name, path):
    s = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    kind = stat.S_IFMT(s.st_mode)
    at = b'/proc/self/fd/%d/%s' % (dirfd, name)
    xattrs = sorted((text(os.fsencode(x)), os.getxattr(at, x, follow_symlinks=False).hex()) for x in os.listxattr(at, follow_symlinks=False))
    item = dict(path=text(path), type=oct(kind), mode=stat.S_IMODE(s.st_mode), uid=s.st_uid, gid=s.st_gid, mtime=str(s.st_mtime_ns), xattrs=xattrs)
    if kind == stat.S_IFREG:
        item.update(size=s.st_size, sha256=digest(os.open(name, os.O_RDONLY, dir_fd=dirfd)))
    if kind == stat.S_IFLNK:
        item.update(size=s.st_size, target=text(os.readlink(name, dir_fd=dirfd)))
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        item.update(device=(os.major(s.st_rdev), os.minor(s.st_rdev)))
    if kind != stat.S_IFDIR:
        item.update(nlink=s.st_nlink, same=seen.setdefault(s.st_ino, text(path)))
    out.append(item)
    if kind == stat.S_IFDIR:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dirfd)
        for child in sorted(os.fsencode(n) for n in os.listdir(fd)):
            visit(fd, child, path + b'/' + child)
        os.close(fd)
sys.setrecursionlimit(100000)
visit(os.open(root, os.O_RDONLY), b'.', b'')
json.dump(out, sys.stdout)
`;
