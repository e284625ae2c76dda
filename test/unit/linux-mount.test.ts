import { spawn } from 'node:child_process';
import {
  constants,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { bytesOf, type ByteString } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import { readDirectory } from '../../src/linux/directory.js';
import { erofsMount } from '../../src/linux/erofs.js';
import { AT_FDCWD, close, fdPath, openat } from '../../src/linux/files.js';
import { linuxAvailable } from '../../src/linux/libc.js';
import {
  attach,
  fsconfigCreate,
  fsconfigReconfigure,
  fsconfigString,
  fsmount,
  fsopen,
  fspick,
  mount,
  mountSetattr,
  moveMount,
  MS,
  openTree,
  umount,
} from '../../src/linux/mount.js';
import { detach } from '../../src/linux/mount-point.js';
import { mountAt, mountsBelow } from '../../src/linux/mountinfo.js';
import { overlayMount, overlayMountAt, overlayWay, type OverlayWay } from '../../src/linux/overlay.js';
import { statAt, statFd } from '../../src/linux/stat.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { at, run, scratchDirectory, writeTree } from './linux-fixture.js';

const HERE = '' as ByteString;
const scratch = scratchDirectory();

/** A detached tmpfs. */
function tmpfs(): number {
  const fsFd = fsopen('tmpfs');
  try {
    fsconfigString(fsFd, 'size', bytesOf('1m'));
    fsconfigCreate(fsFd);
    return fsmount(fsFd, { nosuid: true });
  } finally {
    close(fsFd);
  }
}

function names(dirFd: number): string[] {
  const fd = openat(dirFd, bytesOf('.'), constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    return readDirectory(fd)
      .map(({ name }) => name)
      .sort();
  } finally {
    close(fd);
  }
}

describeWith('mount calls', [needsRoot()], () => {
  it('makes a detached mount, attaches it, changes it, and moves it', () => {
    const root = writeTree(scratch(), { 'a/': '', 'b/': '' });
    const fd = tmpfs();
    writeFileSync(`${fdPath(fd)}/inside`, 'x');
    attach(fd, at(root, 'a'));
    expect(readdirSync(join(root, 'a'))).toEqual(['inside']);

    mountSetattr(fd, HERE, { readOnly: true, noexec: true, nosuid: false, noatime: true, propagation: 'private' });
    expect(mountAt(join(root, 'a'))).toMatchObject({ fsType: 'tmpfs', optional: [] });
    expect(mountAt(join(root, 'a'))?.options.toSorted()).toEqual(['noatime', 'noexec', 'ro']);
    expect(() => writeFileSync(join(root, 'a/no'), '')).toThrow(/EROFS/);
    close(fd);

    moveMount(AT_FDCWD, at(root, 'a'), AT_FDCWD, at(root, 'b'));
    expect(mountsBelow(root).map(({ mountPoint }) => mountPoint)).toEqual([at(root, 'b')]);
    umount(at(root, 'b'));
    expect(mountsBelow(root)).toEqual([]);
  });

  it('lets a detached mount go with its descriptor', () => {
    const fd = tmpfs();
    const { dev } = statFd(fd);
    close(fd);
    expect(readFileSync('/proc/self/mountinfo', 'latin1')).not.toContain(` ${dev.major}:${dev.minor} `);
  });

  it('clones a tree of mounts, with or without those below', () => {
    const root = writeTree(scratch(), { 'a/': '' });
    const outer = tmpfs();
    attach(outer, at(root, 'a'));
    close(outer);
    mkdirSync(join(root, 'a/sub'));
    const inner = tmpfs();
    attach(inner, at(root, 'a/sub'));
    close(inner);
    writeFileSync(join(root, 'a/sub/deep'), '');

    const flat = openTree(AT_FDCWD, at(root, 'a'), { clone: true });
    const whole = openTree(AT_FDCWD, at(root, 'a'), { clone: true, recursive: true });
    try {
      expect(readdirSync(`${fdPath(flat)}/sub`)).toEqual([]);
      expect(readdirSync(`${fdPath(whole)}/sub`)).toEqual(['deep']);
    } finally {
      close(flat);
      close(whole);
    }
  });

  it('shows other owners through a mapping of a user namespace', () => {
    const root = writeTree(scratch(), { 'a/file': '', 'b/': '' });
    const child = spawn('unshare', ['--user', 'sh', '-c', 'read line'], { stdio: ['pipe', 'ignore', 'inherit'] });
    const namespace = `/proc/${child.pid}/ns/user`;
    while (readlinkSync(namespace) === readlinkSync('/proc/self/ns/user')) run('sleep', '0.01');
    for (const map of ['uid_map', 'gid_map']) writeFileSync(`/proc/${child.pid}/${map}`, '0 100000 65536');
    const userns = openSync(namespace, 'r');
    const fd = openTree(AT_FDCWD, at(root, 'a'), { clone: true, recursive: true });
    mountSetattr(fd, HERE, { idmapUserns: userns, recursive: true });
    child.kill();
    try {
      expect(statAt(fd, bytesOf('file'))).toMatchObject({ uid: 100_000, gid: 100_000 });
      expect(statAt(AT_FDCWD, at(root, 'a/file'))).toMatchObject({ uid: 0, gid: 0 });
    } finally {
      close(fd);
      close(userns);
    }
  });

  it('reconfigures a mounted file system', () => {
    const root = writeTree(scratch(), { 'a/': '' });
    const fd = tmpfs();
    attach(fd, at(root, 'a'));
    close(fd);
    const fsFd = fspick(AT_FDCWD, at(root, 'a'));
    fsconfigString(fsFd, 'size', bytesOf('2m'));
    fsconfigReconfigure(fsFd);
    close(fsFd);
    expect(mountAt(join(root, 'a'))?.superOptions).toContain('size=2048k');
  });

  it('mounts by mount(2), and refuses options that the kernel would cut', () => {
    const root = writeTree(scratch(), { 'a/': '', 'b/': '' });
    const bind = { source: at(root, 'a'), target: at(root, 'b'), type: 'none', flags: MS.BIND };
    mount({ ...bind, data: HERE });
    expect(mountAt(join(root, 'b'))?.root).toBe(at(root, 'a'));
    umount(at(root, 'b'));
    const cut = (): void => mount({ ...bind, data: 'x'.repeat(4096) as ByteString });
    expect(cut).toThrow(LayerdError);
    expect(cut).toThrow(
      expect.objectContaining({ code: 'MOUNT_FAILED', details: expect.objectContaining({ found: 4096 }) }),
    );
    expect(mountsBelow(root)).toEqual([]);
  });

  it('says EBUSY for a mount in use, and detaches it when told to', () => {
    const root = writeTree(scratch(), { 'a/': '' });
    const fd = tmpfs();
    attach(fd, at(root, 'a'));
    expect(() => umount(at(root, 'a'))).toThrow(expect.objectContaining({ code: 'EBUSY', syscall: 'umount2' }));
    umount(at(root, 'a'), { detach: true });
    expect(mountsBelow(root)).toEqual([]);
    expect(names(fd)).toEqual([]);
    close(fd);
  });

  it('detaches what is mounted, and takes it for done where nothing is', () => {
    const root = writeTree(scratch(), { 'a/': '' });
    const path = join(root, 'a');
    const fd = tmpfs();
    attach(fd, at(root, 'a'));
    detach(path);
    expect(mountsBelow(root)).toEqual([]);
    detach(path);
    rmdirSync(path);
    detach(path);
    close(fd);
  });

  it('names an unknown file system and shows what the kernel says of a wrong option', () => {
    expect(() => fsopen('nosuchfs')).toThrow(expect.objectContaining({ code: 'ENODEV', path: 'nosuchfs' }));
    const fsFd = fsopen('tmpfs');
    try {
      expect(() => fsconfigString(fsFd, 'nosuchoption', HERE)).toThrow(/EINVAL.*Unknown parameter 'nosuchoption'/);
    } finally {
      close(fsFd);
    }
  });
});

const ways: OverlayWay[] = ['fd', 'string', 'mount'];

describeWith('overlay', [needsRoot()], () => {
  it.each(ways)('merges layers, writes to the upper (%s)', (way) => {
    const root = writeTree(scratch(), {
      'top/both': 'top',
      'top/only-top': '',
      'bottom/both': 'bottom',
      'bottom/only-bottom': '',
      'upper/': '',
      'work/': '',
      'merged/': '',
    });
    const spec = {
      lowers: [join(root, 'top'), join(root, 'bottom')],
      upper: join(root, 'upper'),
      work: join(root, 'work'),
      options: { index: 'off', metacopy: 'off', volatile: true } as const,
      source: 'layerd',
      attributes: { nodev: true },
    };
    overlayMountAt(spec, join(root, 'merged'), way);
    const merged = join(root, 'merged');
    expect(readFileSync(join(merged, 'both'), 'utf8')).toBe('top');
    writeFileSync(join(merged, 'new'), 'n');
    expect(readdirSync(join(root, 'upper'))).toEqual(['new']);
    const info = mountAt(merged);
    expect(info).toMatchObject({ fsType: 'overlay', source: 'layerd' });
    expect(info?.options).toContain('nodev');
    expect(info?.superOptions.join(',')).toContain('volatile');
    umount(bytesOf(merged));
  });

  it.each(ways)('reads a detached merged tree by its descriptor (%s)', (way) => {
    const root = writeTree(scratch(), { 'a/x': '1', 'a/dir/p': '', 'b/x': '2', 'b/dir/q': '' });
    const fd = overlayMount({ lowers: [join(root, 'a'), join(root, 'b')] }, way);
    try {
      expect(mountsBelow(root)).toEqual([]);
      expect(names(fd)).toEqual(['dir', 'x']);
      expect(readFileSync(`${fdPath(fd)}/x`, 'utf8')).toBe('1');
      expect(statAt(fd, bytesOf('dir/q')).kind).toBe('file');
    } finally {
      close(fd);
    }
  });

  it.each(ways)('takes separators, escapes and long paths (%s)', (way) => {
    const long = `${'d'.repeat(200)}/${'e'.repeat(200)}`;
    const odd = String.raw`a:b,c\d é`;
    const root = writeTree(scratch(), {
      [`${odd}/x`]: 'odd',
      [`${long}/y`]: 'long',
      [`u${odd}/`]: '',
      [`w${odd}/`]: '',
    });
    const fd = overlayMount(
      {
        lowers: [join(root, odd), join(root, long)],
        upper: join(root, `u${odd}`),
        work: join(root, `w${odd}`),
      },
      way,
    );
    try {
      expect(readFileSync(`${fdPath(fd)}/x`, 'utf8')).toBe('odd');
      expect(readFileSync(`${fdPath(fd)}/y`, 'utf8')).toBe('long');
      writeFileSync(`${fdPath(fd)}/z`, '');
      expect(readdirSync(join(root, `u${odd}`))).toEqual(['z']);
    } finally {
      close(fd);
    }
  });

  it.each(['fd', 'string'] as const)('stacks 500 layers (%s)', (way) => {
    const layers = Array.from({ length: 500 }, (_, index) => `l${index}`);
    const root = writeTree(scratch(), Object.fromEntries(layers.map((name) => [`${name}/${name}.txt`, name])));
    const lowers = layers.map((name) => join(root, name));
    const fd = overlayMount({ lowers }, way);
    try {
      expect(names(fd)).toHaveLength(500);
      expect(readFileSync(`${fdPath(fd)}/l499.txt`, 'utf8')).toBe('l499');
    } finally {
      close(fd);
    }
  });

  it('goes through descriptors where the paths exceed a page of mount(2) options, and refuses what still does', () => {
    const layers = Array.from({ length: 500 }, (_, index) => `layer-with-a-long-name-${index}`);
    const root = writeTree(scratch(), Object.fromEntries(layers.map((name) => [`${name}/${name}.txt`, ''])));
    const lowers = layers.map((name) => join(root, name));
    const fd = overlayMount({ lowers: lowers.slice(0, 200) }, 'mount');
    expect(names(fd)).toHaveLength(200);
    close(fd);
    expect(() => overlayMount({ lowers }, 'mount')).toThrow(
      expect.objectContaining({ code: 'MOUNT_FAILED', message: expect.stringContaining('more than mount(2) takes') }),
    );
  });

  it('refuses 501 layers by name; the kernel does so in its own words', () => {
    const root = writeTree(scratch(), { 'a/': '' });
    const lowers = Array.from({ length: 501 }, () => join(root, 'a'));
    expect(() => overlayMount({ lowers })).toThrow(
      expect.objectContaining({ code: 'LAYER_LIMIT', details: { limit: 500, found: 501 } }),
    );
    const fsFd = fsopen('overlay');
    try {
      expect(() => {
        for (const lower of lowers) fsconfigString(fsFd, 'lowerdir+', bytesOf(lower));
      }).toThrow(/EINVAL.*too many lower directories, limit is 500/);
    } finally {
      close(fsFd);
    }
  });

  it.each(ways)('says what is missing (%s)', (way) => {
    const root = writeTree(scratch(), { 'a/': '', 'u/': '', 'plain-file': '', 'm/': '' });
    const spec = { lowers: [join(root, 'a')], upper: join(root, 'u'), work: join(root, 'plain-file') };
    expect(() => overlayMountAt(spec, join(root, 'm'), way)).toThrow(LayerdError);
    expect(() => overlayMount({ lowers: [join(root, 'a')] }, way)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
    expect(() => overlayMount({ lowers: [join(root, 'a'), join(root, 'gone')] }, way)).toThrow(/ENOENT/);
    expect(mountsBelow(root)).toEqual([]);
  });

  it('knows the best way of this kernel', () => {
    expect(linuxAvailable()).toEqual({ available: true, reason: '' });
    expect(ways).toContain(overlayWay());
  });
});

describeWith('erofs', [needsRoot(), needsProgram('mkfs.erofs', 'erofs-utils')], () => {
  it.each([false, true])('mounts an image straight from a file (directio %s)', (directio) => {
    const root = writeTree(scratch(), { 'tree/dir/file': 'content', 'm/': '' });
    const image = join(root, 'image.erofs');
    run('mkfs.erofs', image, join(root, 'tree'));
    const fd = erofsMount({ image, devices: [], directio });
    expect(readFileSync(`${fdPath(fd)}/dir/file`, 'utf8')).toBe('content');
    attach(fd, at(root, 'm'));
    close(fd);
    const info = mountAt(join(root, 'm'));
    expect(info?.options).toEqual(expect.arrayContaining(['ro', 'nosuid', 'nodev', 'noexec']));
    expect(info?.source).toBe(bytesOf(image));
    umount(at(root, 'm'));
  });

  it('serves as lowers of an overlay, and takes a path longer than fsconfig does', () => {
    const long = `${'d'.repeat(200)}/${'e'.repeat(200)}`;
    const root = writeTree(scratch(), { 'one/a': '1', 'two/b': '2', 'm1/': '', 'm2/': '', [`${long}/`]: '' });
    for (const name of ['one', 'two']) run('mkfs.erofs', join(root, long, name), join(root, name));
    ['one', 'two'].forEach((name, index) => {
      const fd = erofsMount({ image: join(root, long, name), devices: [] });
      attach(fd, at(root, `m${index + 1}`));
      close(fd);
    });
    const fd = overlayMount({ lowers: [join(root, 'm1'), join(root, 'm2')] });
    expect(names(fd)).toEqual(['a', 'b']);
    close(fd);
  });

  it('names an image that is none', () => {
    const root = writeTree(scratch(), { 'not-erofs': 'x'.repeat(8192) });
    expect(() => erofsMount({ image: join(root, 'not-erofs'), devices: [] })).toThrow(
      expect.objectContaining({ code: 'MOUNT_FAILED', message: expect.stringContaining('not-erofs') }),
    );
  });
});
