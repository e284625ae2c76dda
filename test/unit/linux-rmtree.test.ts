import {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { bytesOf, fromBuffer, type ByteString } from '../../src/core/bytes.js';
import { createSubvolume } from '../../src/linux/btrfs.js';
import { AT_FDCWD, close, mkdirat, mknodat, openat } from '../../src/linux/files.js';
import { mount, MS, umount } from '../../src/linux/mount.js';
import { removeTree, removeTreeSync, type RemovedCounts } from '../../src/linux/rmtree.js';
import { statAt } from '../../src/linux/stat.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { at, mountBtrfs, run, scratchDirectory, writeTree } from './linux-fixture.js';

const scratch = scratchDirectory();
const TREE = bytesOf('tree');
const HERE = '' as ByteString;

function bind(source: string, target: string): void {
  mount({ source: bytesOf(source), target: bytesOf(target), type: 'none', flags: MS.BIND, data: HERE });
}

describeWith('removing a tree', [needsRoot()], () => {
  it('removes everything of every kind, and counts it', async () => {
    const root = writeTree(scratch(), { 'tree/a': 'x'.repeat(5000), 'tree/d/b': 'y', 'tree/d/empty/': '', keep: '' });
    const raw = fromBuffer(Buffer.from([0xff, 0x0a, 0x20]));
    mknodat(AT_FDCWD, at(root, 'tree/fifo'), constants.S_IFIFO | 0o600);
    mknodat(AT_FDCWD, at(root, 'tree/whiteout'), constants.S_IFCHR);
    mkdirat(AT_FDCWD, `${at(root, 'tree')}/${raw}` as ByteString, 0);
    linkSync(join(root, 'tree/a'), join(root, 'tree/d/hard'));
    const bytes = ['tree', 'tree/a', 'tree/d', 'tree/d/b', 'tree/d/empty']
      .map((path) => statAt(AT_FDCWD, at(root, path)).blocks * 512)
      .reduce((sum, size) => sum + size, statAt(AT_FDCWD, `${at(root, 'tree')}/${raw}` as ByteString).blocks * 512);
    expect(await removeTree(root, TREE)).toEqual({ files: 5, directories: 4, bytes });
    expect(readdirSync(root)).toEqual(['keep']);
  });

  it('removes what is no directory, and takes absence for done', async () => {
    const root = writeTree(scratch(), { file: '' });
    const dir = openSync(root, 'r');
    expect(await removeTree(dir, bytesOf('file'))).toEqual({ files: 1, directories: 0, bytes: 0 });
    expect(removeTreeSync(dir, bytesOf('file'))).toEqual({ files: 0, directories: 0, bytes: 0 });
    expect(readdirSync(root)).toEqual([]);
    closeSync(dir);
  });

  it('never follows a symbolic link', async () => {
    const root = writeTree(scratch(), { 'tree/x': '', 'outside/precious': '', 'outside/dir/': '' });
    symlinkSync('../outside', join(root, 'tree/relative'));
    symlinkSync(join(root, 'outside/dir'), join(root, 'tree/absolute'));
    symlinkSync('outside', join(root, 'link'));
    await removeTree(root, TREE);
    await removeTree(root, bytesOf('link'));
    expect(readdirSync(root)).toEqual(['outside']);
    expect(readdirSync(join(root, 'outside'))).toEqual(['dir', 'precious']);
  });

  it('stops at a mount, even of the same file system, and names it', async () => {
    const root = writeTree(scratch(), { 'tree/deep/mnt/': '', 'outside/precious': '' });
    bind(join(root, 'outside'), join(root, 'tree/deep/mnt'));
    await expect(removeTree(root, TREE)).rejects.toMatchObject({
      code: 'MOUNT_BUSY',
      details: { path: 'tree/deep/mnt', mounts: [`${join(root, 'tree/deep/mnt')} (ext4)`] },
    });
    expect(readdirSync(join(root, 'outside'))).toEqual(['precious']);
    umount(at(root, 'tree/deep/mnt'));
    await removeTree(root, TREE);
    expect(readdirSync(root)).toEqual(['outside']);
  });

  it('stops at a tree that is itself a mount point, and at a file with a mount on it', async () => {
    const root = writeTree(scratch(), { 'tree/': '', 'outside/precious': '', 'files/target': '' });
    bind(join(root, 'outside'), join(root, 'tree'));
    await expect(removeTree(root, TREE)).rejects.toMatchObject({ code: 'MOUNT_BUSY', details: { path: 'tree' } });
    bind(join(root, 'outside/precious'), join(root, 'files/target'));
    await expect(removeTree(root, bytesOf('files'))).rejects.toMatchObject({
      code: 'MOUNT_BUSY',
      details: { path: 'files/target', mounts: [expect.stringContaining('files/target')] },
    });
    expect(existsSync(join(root, 'outside/precious'))).toBe(true);
  });

  it('removes 3,000 levels with few descriptors', async () => {
    const root = writeTree(scratch(), { 'tree/': '' });
    let fd = openat(AT_FDCWD, at(root, 'tree'), constants.O_RDONLY);
    const name = bytesOf('a-directory-name');
    for (let depth = 0; depth < 3000; depth++) {
      mkdirat(fd, name, 0o755);
      if (depth % 500 === 0) mkdirat(fd, bytesOf('side'), 0o755);
      const next = openat(fd, name, constants.O_RDONLY);
      close(fd);
      fd = next;
    }
    close(fd);
    const before = openDescriptors();
    let most = 0;
    const counts = await removeTree(root, TREE, { throttle: () => void (most = Math.max(most, openDescriptors())) });
    expect(counts).toMatchObject({ files: 0, directories: 3007 });
    expect(most - before).toBeLessThan(70);
    expect(openDescriptors()).toBe(before);
  });

  it('removes directories with more names than one read gives, in steps that can wait', async () => {
    const root = writeTree(scratch(), { 'tree/': '' });
    for (let index = 0; index < 6000; index++) writeFileSync(join(root, 'tree', `${'n'.repeat(60)}${index}`), '');
    const seen: number[] = [];
    await removeTree(root, TREE, {
      throttle: async ({ files }) => {
        seen.push(files);
        await Promise.resolve();
      },
    });
    expect(seen.slice(0, 2)).toEqual([128, 256]);
    expect(existsSync(join(root, 'tree'))).toBe(false);
  });

  it('stops where the throttle throws, leaks nothing, and goes on later', async () => {
    const root = writeTree(scratch(), { 'tree/': '' });
    for (let index = 0; index < 300; index++) writeFileSync(join(root, 'tree', `f${index}`), '');
    const before = openDescriptors();
    await expect(removeTree(root, TREE, { throttle: stop })).rejects.toThrow('enough');
    expect(readdirSync(join(root, 'tree'))).toHaveLength(172);
    expect(openDescriptors()).toBe(before);
    expect(await removeTree(root, TREE)).toMatchObject<Partial<RemovedCounts>>({ files: 172, directories: 1 });
  });

  it('removes what has no permissions or is immutable', async () => {
    const root = writeTree(scratch(), {
      'tree/locked/f': '',
      'tree/frozen/g': '',
      'tree/frozen/sub/': '',
      'tree/log': '',
    });
    chmodSync(join(root, 'tree/locked'), 0);
    run('chattr', '+i', join(root, 'tree/frozen/g'), join(root, 'tree/frozen/sub'), join(root, 'tree/frozen'));
    run('chattr', '+a', join(root, 'tree/log'));
    expect(await removeTree(root, TREE)).toMatchObject({ files: 3, directories: 4 });
    expect(readdirSync(root)).toEqual([]);
  });

  it('leaves the flags of the directory that the tree is in', async () => {
    const root = writeTree(scratch(), { 'parent/tree/x': '' });
    run('chattr', '+i', join(root, 'parent'));
    await expect(removeTree(join(root, 'parent'), TREE)).rejects.toMatchObject({ code: 'EPERM' });
    expect(run('lsattr', '-d', join(root, 'parent'))).toMatch(/^-+i/);
    run('chattr', '-i', join(root, 'parent'));
  });
});

describeWith('removing a tree on btrfs', [needsRoot(), needsProgram('mkfs.btrfs', 'btrfs-progs')], () => {
  it('removes a subvolume as one, whatever it holds', async () => {
    const root = mountBtrfs(scratch());
    mkdirSync(join(root, 'tree'));
    run('btrfs', 'subvolume', 'create', join(root, 'tree/sub'));
    writeTree(root, { 'tree/sub/deep/file': '', 'tree/plain': '' });
    expect(await removeTree(root, TREE)).toMatchObject({ files: 1, directories: 2 });
    expect(readdirSync(root)).toEqual([]);
  });

  it('removes subvolumes that are read-only or hold others, whatever their names', async () => {
    const root = mountBtrfs(scratch());
    run('btrfs', 'subvolume', 'create', join(root, 'tree'));
    run('btrfs', 'subvolume', 'create', join(root, 'tree/inner'));
    run('btrfs', 'subvolume', 'create', join(root, 'tree/inner/innermost'));
    writeTree(root, { 'tree/file': '', 'tree/inner/file': '', 'tree/inner/innermost/file': '' });
    const directory = openSync(join(root, 'tree/inner'), 'r');
    createSubvolume(directory, fromBuffer(Buffer.from([0xff, 0x0a])));
    closeSync(directory);
    for (const path of ['tree/inner/innermost', 'tree/inner', 'tree']) {
      run('btrfs', 'property', 'set', join(root, path), 'ro', 'true');
    }
    await removeTree(root, TREE);
    expect(readdirSync(root)).toEqual([]);
    expect(run('btrfs', 'subvolume', 'list', root)).toBe('');
  });

  it('touches nothing behind a mount inside a subvolume', async () => {
    const root = mountBtrfs(scratch());
    run('btrfs', 'subvolume', 'create', join(root, 'tree'));
    writeTree(root, { 'tree/m/': '', 'tree/file': '', 'outside/precious': 'x' });
    bind(join(root, 'outside'), join(root, 'tree/m'));
    await expect(removeTree(root, TREE)).rejects.toMatchObject({ code: 'MOUNT_BUSY' });
    expect(readdirSync(join(root, 'tree/m'))).toEqual(['precious']);
    umount(at(root, 'tree/m'), { detach: false });
    await removeTree(root, TREE);
    expect(readdirSync(root)).toEqual(['outside']);
  });
});

function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

function stop(): void {
  throw new Error('enough');
}
