import { closeSync, openSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { bytesOf, fromBuffer } from '../../src/core/bytes.js';
import { fchown, fdPathOf } from '../../src/linux/files.js';
import { getXattr, listXattrs, readXattrs, removeXattr, setXattr } from '../../src/linux/xattr.js';
import { describeWith, needsRoot } from '../support.js';
import { at, run, scratchDirectory, writeTree } from './linux-fixture.js';

const scratch = scratchDirectory();
const NAME = bytesOf('user.test');

describeWith('extended attributes', [needsRoot()], () => {
  it('sets, reads, lists and removes them by path, descriptor, and name in a directory', () => {
    const root = writeTree(scratch(), { file: '' });
    const fd = openSync(join(root, 'file'), 'r');
    const dir = openSync(root, 'r');
    for (const target of [at(root, 'file'), fd, fdPathOf(dir, bytesOf('file'))]) {
      const value = Buffer.from([0, 255, 10, 0]);
      expect(listXattrs(target)).toEqual([]);
      expect(getXattr(target, NAME)).toBeNull();
      setXattr(target, NAME, value);
      expect(getXattr(target, NAME)).toEqual(value);
      setXattr(target, NAME, Buffer.alloc(0));
      expect(getXattr(target, NAME)).toEqual(Buffer.alloc(0));
      expect(listXattrs(target)).toEqual([NAME]);
      expect(removeXattr(target, NAME)).toBe(true);
      expect(removeXattr(target, NAME)).toBe(false);
    }
    closeSync(fd);
    closeSync(dir);
  });

  it('reads all at once, names as bytes, values of their own', () => {
    const root = writeTree(scratch(), { file: '', bare: '' });
    const odd = fromBuffer(Buffer.from('user.\xff\xe9', 'latin1'));
    setXattr(at(root, 'file'), odd, Buffer.from('one'));
    setXattr(at(root, 'file'), bytesOf('trusted.overlay.opaque'), Buffer.from('y'));
    setXattr(at(root, 'file'), bytesOf('user.long'), Buffer.alloc(3000, 7));
    const all = readXattrs(at(root, 'file'));
    expect(new Map([...all].toSorted(([a], [b]) => (a < b ? -1 : 1)))).toEqual(
      new Map([
        [bytesOf('trusted.overlay.opaque'), Buffer.from('y')],
        [bytesOf('user.long'), Buffer.alloc(3000, 7)],
        [odd, Buffer.from('one')],
      ]),
    );
    expect(readXattrs(at(root, 'bare')).size).toBe(0);
  });

  it('never follows a symbolic link', () => {
    const root = writeTree(scratch(), { file: '' });
    symlinkSync('file', join(root, 'link'));
    setXattr(at(root, 'file'), NAME, Buffer.from('file'));
    setXattr(at(root, 'link'), bytesOf('trusted.of-link'), Buffer.from('link'));
    expect(listXattrs(at(root, 'link'))).toEqual(['trusted.of-link']);
    expect(listXattrs(at(root, 'file'))).toEqual([NAME]);
  });

  it('keeps capabilities and ACLs as the bytes they are; chown clears the former', () => {
    const root = writeTree(scratch(), { file: '' });
    // struct vfs_cap_data, revision 2: cap_net_raw permitted and effective
    const capability = Buffer.from('0100000200200000000000000000000000000000', 'hex');
    const fd = openSync(join(root, 'file'), 'r');
    setXattr(fd, bytesOf('security.capability'), capability);
    expect(run('getcap', join(root, 'file'))).toContain('cap_net_raw');
    expect(getXattr(fd, bytesOf('security.capability'))).toEqual(capability);
    fchown(fd, 1, 1);
    expect(getXattr(fd, bytesOf('security.capability'))).toBeNull();
    run('setfacl', '-m', 'u:1234:rw', join(root, 'file'));
    expect(listXattrs(fd)).toEqual(['system.posix_acl_access']);
    closeSync(fd);
  });

  it('tells absence from failure', () => {
    expect(getXattr(bytesOf('/proc/self/status'), NAME)).toBeNull();
    expect(listXattrs(bytesOf('/proc/self/status'))).toEqual([]);
    expect(() => getXattr(at(scratch(), 'gone'), NAME)).toThrow(/ENOENT.*getxattr.*gone/);
    expect(() => setXattr(bytesOf('/proc/self/status'), NAME, Buffer.alloc(1))).toThrow(/ENOTSUP/);
    expect(() => setXattr(at(scratch()), NAME, Buffer.alloc(70_000))).toThrow(/E2BIG/);
    expect(() => readXattrs(-1)).toThrow(/EBADF/);
  });
});
