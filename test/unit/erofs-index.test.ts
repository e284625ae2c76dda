/** The image that the index writer makes, as the kernel, GNU tar and erofs-utils see it. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readdirSync,
  readSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { expect, it } from 'vitest';
import { isRightIndex, scanTarFile, writeIndexFile } from '../../drivers/erofs/index-file.js';
import { layerFiles, type LayerFiles } from '../../drivers/erofs/layer-files.js';
import { INDEX_VERSION } from '../../drivers/erofs/seal.js';
import { bytesOf, type ByteString } from '../../src/core/bytes.js';
import { sha256 } from '../../src/core/digest.js';
import { getXattr } from '../../src/linux/xattr.js';
import { encodeEntry, endOfArchive } from '../../src/tar/writer.js';
import { entrySpec } from '../model/spec.js';
import { compareTrees, describeTree, showDifferences, type TreeListing } from '../reference/tree.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { filesOf, fsck, needsErofs, needsFsckErofs, Scratch, store, tarOf, type Entry } from './erofs-fixture.js';

const DIFF_ID = sha256('for tests that need no real one');

/** An index of a tar, without hashing it. */
function index(scratch: Scratch, tar: Buffer | string, name = 'plain'): LayerFiles {
  const files = layerFiles(scratch.directory(name));
  if (typeof tar === 'string') copyFileSync(tar, files.tar);
  else writeFileSync(files.tar, tar);
  writeIndexFile(layerOf(files), files.index);
  return files;
}

function layerOf(files: LayerFiles) {
  const { size } = statSync(files.tar);
  return { files, diffId: DIFF_ID, size, tree: scanTarFile(files.tar) };
}

/** In which respects two trees differ, as independent programs see them; '' in none. */
async function differences(shown: string, expected: string, ignored: readonly string[] = []): Promise<string> {
  const ignore = ({ attribute }: { attribute: string }) => ignored.some((name) => attribute.startsWith(name));
  return showDifferences(compareTrees(await describeTree(shown), await describeTree(expected), { ignore }));
}

/** The names of the extended attributes of an entry. */
function xattrNames(tree: TreeListing, path: string): string[] {
  return Object.keys(tree.get(path)?.xattrs ?? {});
}

/** Builds a tree with one of everything below $1. */
const ONE_OF_EACH = String.raw`
set -eu
cd "$1"
umask 022
mkdir -p a/b/c deep empty-dir 'white space' sticky
printf 'hello\n' > a/file
: > empty
ln a/file a/b/other-name
ln a/file deep/third-name
ln -s ../file a/b/link
ln -s nowhere dangling
mkfifo pipe
mknod char c 5 300
mknod block b 8 70000
ln char deep/same-device
head -c 3000001 /dev/urandom > random
head -c 512 /dev/urandom > one-block
head -c 511 /dev/urandom > less
chmod 4755 a/file
chmod 2775 a/b
chmod 1777 sticky
chmod 0 one-block
chown 70000:4000000000 empty
chown -h 12:34 dangling
touch -d '2001-02-03 04:05:06.123456789' random
touch -h -d '1960-02-03 04:05:06.5' dangling
touch -d '2400-01-01 00:00:00.000000001' less
setfattr -n user.small -v 1 random
setfattr -n user.long -v "$(head -c 3000 /dev/zero | tr '\0' v)" a/b
setfattr -n trusted.layerd -v 0x00ff00 deep
setfattr -n security.other -v x less
setfacl -m u:123:rwx,g:456:r,m::rx random
setfacl -d -m u:123:rwx deep
setcap cap_net_raw+ep random
python3 - <<'PY'
import os
os.mkdir(b'names')
for name in (b'\xff\xfe', b'tab\there', b'new\nline', b'-', b'!', b'...', b'..a', b'.a', b'\xc3\xa4', b'n' * 255):
    open(b'names/' + name, 'w').close()
for n in (1, 440, 441, 447, 448, 449, 511, 512, 513, 1024, 4095):
    os.symlink(b't' * n, b'names/link-%d' % n)
fd = os.open('.', os.O_RDONLY)
for i in range(18):
    name = b'%02d' % i + b'd' * 200
    os.mkdir(name, dir_fd=fd)
    fd = os.open(name, os.O_RDONLY, dir_fd=fd)
os.close(os.open('bottom', os.O_CREAT | os.O_WRONLY, dir_fd=fd))
PY
`;

const TAR_CREATE = ['--create', '--xattrs', '--xattrs-include=*', '--acls', '--numeric-owner', '--sort=name'];
const TAR_EXTRACT = [
  '--extract',
  '--xattrs',
  '--xattrs-include=*',
  '--acls',
  '--numeric-owner',
  '--preserve-permissions',
];

const needs = [
  needsRoot(),
  needsErofs(),
  needsFsckErofs(),
  needsProgram('setfattr', 'attr'),
  needsProgram('setfacl', 'acl'),
  needsProgram('setcap', 'libcap2-bin'),
  needsProgram('python3'),
];

describeWith('an index of one of everything', needs, () => {
  it.each(['posix', 'gnu'])('equals what GNU tar extracts (%s)', async (format) => {
    using scratch = new Scratch();
    execFileSync('sh', ['-c', ONE_OF_EACH, 'sh', scratch.directory('tree')]);
    const tar = scratch.at('a.tar');
    const flags = format === 'posix' ? TAR_CREATE : ['--create', '--numeric-owner', '--sort=name'];
    execFileSync('tar', [...flags, `--format=${format}`, '--file', tar, '--directory', scratch.at('tree'), '.']);
    execFileSync('tar', [...TAR_EXTRACT, '--file', tar, '--directory', scratch.directory('extracted')]);
    const files = index(scratch, tar);
    expect(fsck(files)).toBe('');
    expect(await differences(scratch.mount(files), scratch.at('extracted'))).toBe('');
    expect(await differences(scratch.mount(files, { directio: true }), scratch.at('extracted'))).toBe('');
  });

  it('is extracted by fsck.erofs as it was', async () => {
    using scratch = new Scratch();
    execFileSync('sh', ['-c', ONE_OF_EACH, 'sh', scratch.directory('tree')]);
    execFileSync('tar', [
      '--create',
      '--file',
      scratch.at('a.tar'),
      '--directory',
      scratch.at('tree'),
      '--exclude=./00*',
      '.',
    ]);
    execFileSync('tar', ['--extract', '--file', scratch.at('a.tar'), '--directory', scratch.directory('extracted')]);
    const files = index(scratch, scratch.at('a.tar'));
    expect(fsck(files, `--extract=${scratch.at('by-fsck')}`)).toBe('');
    // It dates directories before it fills them, and knows no xattrs.
    expect(await differences(scratch.at('by-fsck/d'), scratch.at('extracted'), ['mtime', 'xattr:'])).toBe('');
  });

  it.each(['0.0', '0.1', '1.0', 'gnu'])('maps sparse files (%s)', async (version) => {
    using scratch = new Scratch();
    const tree = scratch.directory('tree');
    execFileSync('python3', ['-c', SPARSE_FILES, tree]);
    const format = version === 'gnu' ? ['--format=gnu'] : ['--format=posix', `--sparse-version=${version}`];
    const tar = scratch.at('a.tar');
    execFileSync('tar', ['--create', '--sparse', ...format, '--file', tar, '--directory', tree, '.']);
    const files = index(scratch, tar);
    expect(fsck(files)).toBe('');
    expect(await differences(scratch.mount(files), tree, ['mtime'])).toBe('');
  });
});

const SPARSE_FILES = `
import os, random, sys
os.chdir(sys.argv[1])
random.seed(1)
for name, size, pieces in (('hole', 1 << 20, []), ('end', 3 << 20, [(3 << 20) - 1]), ('start', 1 << 20, [0]),
                           ('odd', 777777, [5000, 300000, 777000]), ('terabyte', 1 << 40, [0, 1 << 35, (1 << 40) - 4096])):
    with open(name, 'wb') as f:
        f.truncate(size)
        for at in pieces:
            f.seek(at)
            f.write(random.randbytes(min(9000, size - at)))
    if name == 'terabyte':
        os.truncate(name, 1 << 28)
`;

describeWith('the index of a layer', [needsRoot(), needsErofs(), needsFsckErofs(), needsProgram('python3')], () => {
  it('shows whiteouts and opaque directories as overlay wants them', async () => {
    using scratch = new Scratch();
    const layer: Entry[] = [
      { type: 'file', path: '.wh.gone' },
      {
        type: 'directory',
        path: 'opaque/',
        mode: 0o755,
        xattrs: new Map([['user.x' as ByteString, Buffer.from('1')]]),
      },
      { type: 'file', path: 'opaque/file', content: Buffer.from('own') },
      { type: 'file', path: 'opaque/.wh..wh..opq' },
      { type: 'file', path: 'implied/below/.wh.gone' },
      { type: 'char', path: 'zero', devMajor: 0, devMinor: 0 },
      { type: 'file', path: '.wh..wh.reserved' },
    ];
    writeFileSync(scratch.at('a.tar'), tarOf(layer));
    const files = filesOf(scratch, await store(scratch, scratch.at('a.tar')));
    expect(fsck(files)).toBe('');
    const mounted = scratch.mount(files);
    const shown = await describeTree(mounted);
    const paths = ['.', 'gone', 'implied', 'implied/below', 'implied/below/gone', 'opaque', 'opaque/file', 'zero'];
    expect([...shown.keys()].sort()).toEqual(paths);
    for (const path of ['gone', 'implied/below/gone']) {
      expect(shown.get(path)).toMatchObject({ type: 'character', rdev: '0:0', mode: '0000' });
    }
    expect(getXattr(bytesOf(`${mounted}/opaque`), bytesOf('trusted.overlay.opaque'))).toEqual(Buffer.from('y'));
    expect(xattrNames(shown, 'opaque')).toEqual(['user.x']);
    expect(shown.get('implied')).toMatchObject({ mode: '0755', uid: 0, gid: 0, mtime: '0', xattrs: {} });
    expect(shown.get('zero')).toMatchObject({ type: 'file', size: 0, mode: '0000' });
  });

  it('lets the last of equal names win, and keeps the first inode under its other names', async () => {
    using scratch = new Scratch();
    const layer: Entry[] = [
      { type: 'file', path: 'name', content: Buffer.from('first') },
      { type: 'hardlink', path: 'other', linkPath: 'name' as ByteString },
      { type: 'file', path: 'name', content: Buffer.from('second') },
      { type: 'directory', path: 'was-dir/', mode: 0o755 },
      { type: 'file', path: 'was-dir/file', content: Buffer.from('gone') },
      { type: 'file', path: 'was-dir', content: Buffer.from('a file now') },
    ];
    writeFileSync(scratch.at('a.tar'), tarOf(layer));
    const files = filesOf(scratch, await store(scratch, scratch.at('a.tar')));
    expect(fsck(files)).toBe('');
    execFileSync('tar', [
      '--extract',
      '--recursive-unlink',
      '-f',
      scratch.at('a.tar'),
      '-C',
      scratch.directory('extracted'),
    ]);
    const mounted = scratch.mount(files);
    const shown = await describeTree(mounted);
    const extracted = await describeTree(scratch.at('extracted'));
    for (const tree of [shown, extracted]) tree.delete('.'); // nothing says when it was changed
    expect(shown).toEqual(extracted);
    expect([...shown.keys()]).toEqual(['name', 'other', 'was-dir']);
    expect(statSync(`${mounted}/other`).nlink).toBe(1);
  });

  it('holds 64 KiB of extended attributes per file, and names the file that has more', async () => {
    using scratch = new Scratch();
    const many = new Map(Array.from({ length: 200 }, (_, i) => [xattrName(i), Buffer.alloc(i % 400, i)]));
    const large = new Map([['user.large' as ByteString, Buffer.alloc(65_000, 1)]]);
    const layer: Entry[] = [
      { type: 'file', path: 'many', xattrs: many, content: Buffer.from('content') },
      { type: 'directory', path: 'large/', xattrs: large, mode: 0o755 },
      { type: 'file', path: 'large/next', content: Buffer.from('content') },
    ];
    const files = index(scratch, tarOf(layer));
    expect(fsck(files)).toBe('');
    const shown = await describeTree(scratch.mount(files));
    expect(shown.get('many')?.xattrs).toEqual(asListed(many));
    expect(shown.get('large')?.xattrs).toEqual(asListed(large));
    expect(shown.get('large/next')?.size).toBe(7);
    const more = new Map([...large, ['user.more' as ByteString, Buffer.alloc(1000)]]);
    const tooMany = tarOf([{ type: 'file', path: 'a/b/file', xattrs: more }]);
    expect(() => index(scratch, tooMany, 'refused')).toThrow(
      expect.objectContaining({
        code: 'LAYER_LIMIT',
        details: expect.objectContaining({ path: 'a/b/file' }) as unknown,
      }),
    );
  });

  it('leaves out attributes that Linux would not set, and refuses an access control list that is none', async () => {
    using scratch = new Scratch();
    const files = index(
      scratch,
      tarOf([
        {
          type: 'file',
          path: 'file',
          xattrs: xattrsNamed('com.apple.quarantine', 'user.', 'user.kept', 'system.other'),
        },
        {
          type: 'symlink',
          path: 'link',
          linkPath: 'file' as ByteString,
          xattrs: xattrsNamed('user.x', 'trusted.kept'),
        },
      ]),
    );
    expect(fsck(files)).toBe('');
    const shown = await describeTree(scratch.mount(files));
    expect(xattrNames(shown, 'file')).toEqual(['user.kept']);
    expect(xattrNames(shown, 'link')).toEqual(['trusted.kept']);
    const bad = tarOf([{ type: 'file', path: 'bad', xattrs: xattrsNamed('system.posix_acl_access') }]);
    expect(() => index(scratch, bad, 'refused')).toThrow(expect.objectContaining({ code: 'TAR_INVALID' }));
  });

  it('holds 170,000 inodes, a directory of 100,000 names among them', () => {
    using scratch = new Scratch();
    const big = Array.from({ length: 100_000 }, (_, i): Entry => ({ path: `big/${(i * 7919) % 100_000}` }));
    const small = Array.from({ length: 70_000 }, (_, i): Entry => ({ path: `small/${i % 700}/${i}`, mode: i % 512 }));
    const files = index(scratch, tarOf([...big, ...small]));
    expect(fsck(files)).toBe('');
    expect(execFileSync('python3', ['-c', COUNT, scratch.mount(files)], { encoding: 'utf8' })).toBe(
      '100000 70000 700\n',
    );
  });

  it('holds paths far beyond PATH_MAX', async () => {
    using scratch = new Scratch();
    const path = Array.from({ length: 100 }, (_, i) => String(i).padEnd(200, 'd')).join('/');
    const files = index(scratch, tarOf([{ type: 'file', path: `${path}/bottom`, content: Buffer.from('deep') }]));
    const shown = await describeTree(scratch.mount(files));
    expect(shown.size).toBe(102);
    expect(shown.get(`${path}/bottom`)).toMatchObject({ type: 'file', sha256: sha256('deep').slice(7) });
  });

  it('maps files beyond 4 GiB', () => {
    using scratch = new Scratch();
    const files = layerFiles(scratch.directory('large'));
    const size = 5 * 2 ** 30 + 123;
    const marks = [0, 2 ** 32 - 3, 2 ** 32 + 4096, size - 10];
    const header = encodeEntry({ ...entrySpec(bytesOf('large')), size });
    const tar = openSync(files.tar, 'w');
    writeSync(tar, header, 0, header.length, 0);
    for (const at of marks) writeSync(tar, `at ${at}`, header.length + at);
    ftruncateSync(tar, Math.ceil((header.length + size) / 512) * 512 + 1024);
    closeSync(tar);
    writeIndexFile(layerOf(files), files.index);
    expect(fsck(files)).toBe('');
    const fd = openSync(`${scratch.mount(files)}/large`, 'r');
    const found = Buffer.alloc(10);
    for (const at of marks) {
      readSync(fd, found, 0, 10, at);
      expect(found.toString('latin1').startsWith(`at ${at}`.slice(0, 10))).toBe(true);
    }
    closeSync(fd);
  });

  it('is the same, byte for byte, each time it is written', () => {
    using scratch = new Scratch();
    const files = index(scratch, tarOf([{ type: 'file', path: 'a', content: Buffer.from('x') }]));
    const isRight = () => isRightIndex(layerOf(files), () => layerOf(files));
    expect(isRight()).toBe(true);
    writeFileSync(files.tar, tarOf([{ type: 'file', path: 'b', content: Buffer.from('x') }]));
    expect(isRight()).toBe(false);
  });

  it('of other bytes has another version: who changes what is written raises INDEX_VERSION and this digest', () => {
    using scratch = new Scratch();
    const tar = tarOf([
      { type: 'directory', path: 'd/', mode: 0o2755, mtime: { sec: -1, nsec: 5 } },
      ...Array.from({ length: 100 }, (_, i) => ({ path: `d/file ${i}`, content: Buffer.alloc(i, i) })),
      { path: 'xattrs', content: Buffer.from('x'), xattrs: new Map([['user.x' as ByteString, Buffer.alloc(600, 1)]]) },
      { type: 'symlink', path: 'short', linkPath: 'target' as ByteString },
      { type: 'symlink', path: 'long', linkPath: 'l'.repeat(4000) as ByteString },
      { type: 'hardlink', path: 'link', linkPath: 'xattrs' as ByteString },
      { type: 'char', path: 'device', devMajor: 4095, devMinor: 0xfffff },
      { type: 'fifo', path: 'fifo', uid: 70_000, gid: 4_000_000_000 },
      { type: 'file', path: 'd/.wh.gone' },
      { type: 'file', path: 'implied/.wh..wh..opq' },
    ]);
    const files = index(scratch, tar);
    expect([INDEX_VERSION, sha256(readFileSync(files.index))]).toEqual([
      1,
      'sha256:e57994e4ea83a2ffa5aacd6fa5587cf9fcb99de679d4031b428e942668572bab',
    ]);
  });

  it('is what dump.erofs reads', async () => {
    using scratch = new Scratch();
    const files = index(scratch, tarOf([{ path: 'dir/file', content: Buffer.alloc(1234), uid: 70_000, mode: 0o711 }]));
    const dump = (...options: string[]) =>
      execFileSync('dump.erofs', [`--device=${files.tar}`, ...options, files.index], { encoding: 'utf8' });
    expect(dump('-s')).toMatch(/blocksize: +512\n[^]*root nid: +48\n[^]*inode count: +4\n/);
    expect(dump('--path=/d/dir/file')).toMatch(/Size: 1234 [^]*Uid: 70000 [^]*Access: 0711/);
  });

  it('of an empty layer is an empty directory', async () => {
    using scratch = new Scratch();
    writeFileSync(scratch.at('a.tar'), endOfArchive());
    const files = filesOf(scratch, await store(scratch, scratch.at('a.tar')));
    expect(fsck(files)).toBe('');
    expect(readdirSync(scratch.mount(files))).toEqual([]);
  });
});

function xattrName(i: number): ByteString {
  return `user.${String(i).padStart(4, '0')}${'n'.repeat(i % 200)}` as ByteString;
}

function xattrsNamed(...names: string[]): Map<ByteString, Buffer> {
  return new Map(names.map((name) => [name as ByteString, Buffer.from('value')]));
}

function asListed(xattrs: ReadonlyMap<ByteString, Buffer>): Record<string, string> {
  return Object.fromEntries([...xattrs].map(([name, value]) => [name, value.toString('hex')]));
}

/** Looks every name up, and prints how many came out right. */
const COUNT = `
import os, stat, sys
os.chdir(sys.argv[1])
big = sum(stat.S_ISREG(os.lstat(f'big/{i}').st_mode) for i in range(100000)) if len(os.listdir('big')) == 100000 else -1
small = sum(os.lstat(f'small/{i % 700}/{i}').st_mode == stat.S_IFREG | i % 512 for i in range(70000))
print(big, small, len(os.listdir('small')))
`;
