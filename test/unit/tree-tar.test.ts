import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { bytesOf, type ByteString } from '../../src/core/bytes.js';
import { openSeenFile } from '../../src/content/tree-tar-writer.js';
import { openToRead, sortedEntries, tarOfTree } from '../../src/content/tree-tar.js';
import { close, openat } from '../../src/linux/files.js';
import { TarScanner } from '../../src/tar/scanner.js';
import type { TarEntry } from '../../src/tar/entry.js';
import { treeOfTar } from '../model/tree.js';
import { compareTrees, describeTree, showDifferences } from '../reference/tree.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { scratchDirectory } from './linux-fixture.js';
import { duringStorm, gathered, shell } from './upper-fixture.js';

const MIB = 1024 * 1024;
const APPLY = new URL('../../../test/model/apply.py', import.meta.url).pathname;
const TREE_TAR = new URL('../../src/content/tree-tar.js', import.meta.url).pathname;
const scratch = scratchDirectory();

/** Entries with their payloads. */
function read(tar: Buffer): { entry: TarEntry; payload: Buffer }[] {
  const found: { entry: TarEntry; chunks: Buffer[] }[] = [];
  const scanner = new TarScanner({
    entry: (entry) => void found.push({ entry, chunks: [] }),
    data: (chunk) => void found.at(-1)?.chunks.push(chunk),
    entryEnd: () => {},
  });
  scanner.write(tar);
  expect(scanner.finish().endMarker).toBe(true);
  return found.map(({ entry, chunks }) => ({ entry, payload: Buffer.concat(chunks) }));
}

function paths(tar: Buffer): string[] {
  return read(tar).map(({ entry }) => entry.path);
}

function payload(tar: Buffer, path: string): Buffer {
  const found = read(tar).find(({ entry }) => entry.path === path);
  if (found === undefined) throw new Error(`no entry ${path}`);
  return found.payload;
}

function tree(script: string): string {
  const root = join(scratch(), 'tree');
  mkdirSync(root);
  shell(root, script);
  return root;
}

/** Takes chunks until `payloadBytes` of the first large file have come, changes the tree, and takes the rest. */
async function whileReading(root: string, change: () => void): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of tarOfTree(root)) {
    chunks.push(Buffer.from(chunk));
    if (chunks.length === 1) change();
  }
  return Buffer.concat(chunks);
}

function errnoOf(open: () => void): string {
  try {
    open();
  } catch (thrown) {
    return (thrown as NodeJS.ErrnoException).code ?? String(thrown);
  }
  return 'opened';
}

function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

describeWith('the tar of a tree', [needsRoot(), needsProgram('python3'), needsProgram('setfattr', 'attr')], () => {
  it('makes the same tree again', async () => {
    const root = tree(`
      mkdir -p d/e $'odd\\xff' empty; echo x > d/x; ln d/x d/e/y; ln -s ../nowhere d/l; mkfifo p; mknod c c 1 3
      mknod b b 259 300000; chmod 4755 d/x; chown 70000:4294967294 d/e; setfattr -n user.a -v b d/e; chmod 700 .
      setfattr -h -n trusted.l -v x d/l; touch $'odd\\xff/\\xfe'; head -c 700000 /dev/urandom > large
      truncate -s 9M hole; echo x | dd of=hole bs=1 seek=4000000 conv=notrunc; touch -h -d @-5.25 d/l
      setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 d/x; touch -d @5000000000.123456789 d
    `);
    const file = join(scratch(), 'tar');
    const copy = join(scratch(), 'copy');
    writeFileSync(file, await gathered(tarOfTree(root)));
    mkdirSync(copy);
    execFileSync('python3', ['-I', APPLY, file, copy]);
    expect(showDifferences(compareTrees(await describeTree(copy), await describeTree(root)))).toBe('');
  });

  it('has the root first, then names in byte order, each directory before what is in it', async () => {
    const root = tree("mkdir a; touch a/z a/b a-b 'a b' b $'\\xff' B");
    expect(paths(await gathered(tarOfTree(root)))).toEqual(['./', 'B', 'a/', 'a/b', 'a/z', 'a b', 'a-b', 'b', '\xff']);
  });

  it('tells of sockets, which a tar cannot hold', async () => {
    const root = tree('mkdir d; python3 -c \'import socket; socket.socket(socket.AF_UNIX).bind("d/s")\'');
    const skipped: ByteString[] = [];
    const tar = await gathered(tarOfTree(root, { skipped: (path) => skipped.push(path) }));
    expect(skipped).toEqual(['d/s']);
    expect(paths(tar)).toEqual(['./', 'd/']);
  });

  it('leaves out what is private to overlay', async () => {
    const root = tree('mkdir d; setfattr -n trusted.overlay.opaque -v y d; setfattr -n user.overlay.x -v y d');
    expect(read(await gathered(tarOfTree(root))).map(({ entry }) => entry.xattrs)).toEqual([null, null]);
  });

  it('reaches paths of more than 4096 bytes', async () => {
    const root = tree("n=$(printf 'n%.0s' {1..250}); for i in {1..20}; do mkdir $n; cd $n; done; echo x > f");
    const tar = await gathered(tarOfTree(root));
    expect(paths(tar).at(-1)).toHaveLength(20 * 251 + 1);
    shell(scratch(), 'rm -r tree');
  });

  it('passes small files on in large chunks', async () => {
    const root = tree('for i in {1..1000}; do echo $i > $i; done');
    const sizes: number[] = [];
    for await (const chunk of tarOfTree(root)) sizes.push(chunk.length);
    expect(Math.min(...sizes.slice(0, -1))).toBeGreaterThanOrEqual(256 * 1024);
  });

  it('leaves no descriptor open, also when its reader leaves', async () => {
    const root = tree('mkdir -p a/b/c; head -c 5000000 /dev/zero | tr "\\0" x > a/b/c/f; touch a/b/c/g');
    const before = openDescriptors();
    await gathered(tarOfTree(root));
    for await (const chunk of tarOfTree(root)) if (chunk.length > 0) break;
    expect(openDescriptors()).toBe(before);
  });

  it('leaves times of access as they are', async () => {
    const root = tree('echo x > f; touch -a -d @5 f');
    await gathered(tarOfTree(root));
    expect(statSync(join(root, 'f')).atimeMs).toBe(5000);
  });

  it('works without the right to clone a mount', async () => {
    const root = tree('echo x > f');
    const script = `
      import { sortedEntries, tarOfTree } from ${JSON.stringify(TREE_TAR)};
      for await (const chunk of tarOfTree(process.argv[1])) process.stdout.write(chunk);
    `;
    const node = [process.execPath, '--input-type=module', '-e', script, root];
    const tar = execFileSync('setpriv', ['--bounding-set', '-sys_admin', '--inh-caps', '-sys_admin', ...node]);
    expect(paths(tar)).toEqual(['./', 'f']);
  });
});

describeWith('a name that was seen as a file', [needsRoot(), needsProgram('python3')], () => {
  /** What the kernel says to an open of the name, and what openSeenFile() makes of it. */
  function opened(root: string, name: string): string {
    const { fd, refusesDevices } = openToRead(bytesOf(root));
    try {
      expect(refusesDevices).toBe(true);
      const file = openSeenFile(fd, bytesOf(name));
      if (file !== null) close(file.fd);
      return file === null ? errnoOf(() => close(openat(fd, bytesOf(name), SEEN))) : `${file.stat.size} bytes`;
    } finally {
      close(fd);
    }
  }

  const SEEN = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

  it.each([
    ['is opened', 'echo x > f', '2 bytes'],
    ['is gone', 'true', 'ENOENT'],
    ['has become a device of characters', 'mknod f c 1 3', 'EACCES'],
    ['has become a device of blocks', 'mknod f b 7 0', 'EACCES'],
    ['has become a link', 'echo x > g; ln -s g f', 'ELOOP'],
    ['has become a socket', 'python3 -c \'import socket; socket.socket(socket.AF_UNIX).bind("f")\'', 'ENXIO'],
    ['has become a FIFO that nobody writes to', 'mkfifo f', 'opened'],
    ['has become a directory', 'mkdir f', 'opened'],
  ])('%s', (_, script, expected) => {
    const root = tree(script);
    const before = openDescriptors();
    expect(opened(root, 'f')).toBe(expected);
    expect(openDescriptors()).toBe(before);
  });
});

describeWith('the tar of a tree that changes meanwhile', [needsRoot()], () => {
  const LARGE = 'head -c 5000000 /dev/zero | tr "\\0" x > large';

  it('has zeros for what a file has lost', async () => {
    const root = tree(LARGE);
    const tar = await whileReading(root, () => truncateSync(join(root, 'large'), 2 * MIB));
    const bytes = payload(tar, 'large');
    expect(bytes).toHaveLength(5_000_000);
    expect(bytes.subarray(0, 2 * MIB).every((byte) => byte === 0x78)).toBe(true);
    expect(bytes.subarray(2 * MIB).every((byte) => byte === 0)).toBe(true);
  });

  it('has nothing of what a file has gained', async () => {
    const root = tree(`${LARGE}; echo y > next`);
    const tar = await whileReading(root, () => appendFileSync(join(root, 'large'), 'z'.repeat(MIB)));
    expect(payload(tar, 'large').equals(Buffer.alloc(5_000_000, 'x'))).toBe(true);
    expect(payload(tar, 'next').toString()).toBe('y\n');
  });

  it('leaves out what is gone', async () => {
    const root = tree(`${LARGE}; touch next; mkdir z; touch z/f`);
    const tar = await whileReading(root, () => {
      rmSync(join(root, 'next'));
      rmSync(join(root, 'z'), { recursive: true });
    });
    expect(paths(tar)).toEqual(['./', 'large']);
  });

  it('has an empty directory for one that is removed before its names are read', () => {
    const root = tree('mkdir d; touch d/f');
    const fd = openSync(join(root, 'd'), constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      rmSync(join(root, 'd'), { recursive: true });
      expect(sortedEntries(fd)).toEqual([]);
    } finally {
      closeSync(fd);
    }
  });

  it('never follows a link that took the place of a file or a directory', async () => {
    const root = tree(`${LARGE}; echo y > next; mkdir z; echo z > z/f`);
    const tar = await whileReading(root, () => {
      for (const name of ['next', 'z']) {
        rmSync(join(root, name), { recursive: true });
        symlinkSync(name === 'z' ? '/etc' : '/etc/passwd', join(root, name));
      }
    });
    expect(read(tar).map(({ entry }) => `${entry.type} ${entry.path} ${entry.linkPath}`)).toEqual([
      'directory ./ ',
      'file large ',
      'symlink next /etc/passwd',
      'symlink z /etc',
    ]);
  });

  it('is a whole tar, whatever a storm of writers does', async () => {
    const root = tree('mkdir d; for i in {1..200}; do head -c $((i * 3000)) /dev/zero > d/$i; done');
    await duringStorm(root, STORM, async () => {
      for (let round = 0; round < 8; round += 1) expectWhole(await gathered(tarOfTree(root)));
    });
  });
});

/** Changes the 200 names of `d` in every way that a name can change. */
const STORM = `
  i=$((RANDOM % 200 + 1)); rm -rf d/$i
  case $((RANDOM % 7)) in
    0) head -c $((RANDOM * 30)) /dev/zero > d/$i ;;
    1) mkdir -p d/$i/x; echo x > d/$i/x/f ;;
    2) ln -sfn /etc d/$i ;;
    3) mkfifo d/$i ;;
    4) ln d/1 d/$i ;;
    5) mv d/$((RANDOM % 200 + 1)) d/$i ;;
    6) mknod d/$i c 1 3 ;;
  esac
  truncate -s $((RANDOM * 20)) d/$((RANDOM % 200 + 1))
`;

/** Readers of the world and ours take it. */
function expectWhole(tar: Buffer): void {
  expect(treeOfTar(tar).entries).toBe(read(tar).length);
  execFileSync('tar', ['-tf', '-'], { input: tar });
}
