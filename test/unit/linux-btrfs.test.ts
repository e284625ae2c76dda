import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { bytesOf, fromBuffer, type ByteString } from '../../src/core/bytes.js';
import {
  createSnapshot,
  createSubvolume,
  destroySubvolume,
  enableQuota,
  isReadOnly,
  isSnapshotOf,
  limitExclusive,
  setReadOnly,
  SUBVOLUME_ROOT_INO,
  subvolumeId,
  subvolumeUsage,
} from '../../src/linux/btrfs.js';
import { toLayerdError } from '../../src/core/errors.js';
import { pwrite } from '../../src/linux/extents.js';
import { canClone, fileSystemType } from '../../src/linux/features.js';
import { statFd } from '../../src/linux/stat.js';
import { syncfs } from '../../src/linux/sync.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { mountBtrfs, run, scratchDirectory, thrownBy } from './linux-fixture.js';

const scratch = scratchDirectory();

/** Runs with an open directory. */
function opened<T>(path: string, body: (fd: number) => T): T {
  const fd = openSync(path, 'r');
  try {
    return body(fd);
  } finally {
    closeSync(fd);
  }
}

describeWith('btrfs', [needsRoot(), needsProgram('mkfs.btrfs', 'btrfs-progs')], () => {
  it('makes subvolumes and snapshots, read-only and not, and removes them with their content', () => {
    const root = mountBtrfs(scratch());
    const raw = fromBuffer(Buffer.from([0xff, 0x20]));
    opened(root, (dir) => {
      createSubvolume(dir, bytesOf('base'));
      createSubvolume(dir, raw);
      writeFileSync(join(root, 'base/file'), 'content');
      opened(join(root, 'base'), (base) => {
        expect(statFd(base).ino).toBe(SUBVOLUME_ROOT_INO);
        createSnapshot(base, dir, bytesOf('frozen'), { readOnly: true });
        createSnapshot(base, dir, bytesOf('live'), { readOnly: false });
      });
      expect(readFileSync(join(root, 'frozen/file'), 'utf8')).toBe('content');
      expect(() => writeFileSync(join(root, 'frozen/file'), '')).toThrow(/EROFS/);
      const fromBase = (name: string): boolean =>
        opened(join(root, name), (fd) => opened(join(root, 'base'), (base) => isSnapshotOf(fd, base)));
      expect(['frozen', 'live', 'base'].map(fromBase)).toEqual([true, true, false]);
      writeFileSync(join(root, 'live/file'), 'changed');
      expect(readFileSync(join(root, 'base/file'), 'utf8')).toBe('content');
      for (const name of [bytesOf('base'), bytesOf('frozen'), bytesOf('live'), raw]) destroySubvolume(dir, name);
    });
    expect(readdirSync(root)).toEqual([]);
  });

  it('switches read-only on and off, and tells ids', () => {
    const root = mountBtrfs(scratch());
    opened(root, (dir) => createSubvolume(dir, bytesOf('s')));
    opened(join(root, 's'), (fd) => {
      expect(isReadOnly(fd)).toBe(false);
      setReadOnly(fd, true);
      expect(isReadOnly(fd)).toBe(true);
      expect(run('btrfs', 'property', 'get', join(root, 's'), 'ro').trim()).toBe('ro=true');
      setReadOnly(fd, false);
      expect(run('btrfs', 'property', 'get', join(root, 's'), 'ro').trim()).toBe('ro=false');
      expect(String(subvolumeId(fd))).toBe(run('btrfs', 'inspect-internal', 'rootid', join(root, 's')).trim());
    });
  });

  it('counts and limits what a snapshot holds for itself', () => {
    const root = mountBtrfs(scratch());
    opened(root, (dir) => {
      createSubvolume(dir, bytesOf('base'));
      expect(subvolumeUsage(dir, 256n)).toBeNull();
      writeFileSync(join(root, 'base/shared'), Buffer.alloc(3_000_000, 1));
      opened(join(root, 'base'), (base) => {
        syncfs(base);
        enableQuota(base);
        createSnapshot(base, dir, bytesOf('snap'), { readOnly: false });
      });
    });
    opened(join(root, 'snap'), (snap) => {
      const id = subvolumeId(snap);
      writeFileSync(join(root, 'snap/own'), Buffer.alloc(1_000_000, 2));
      syncfs(snap);
      const usage = subvolumeUsage(snap, id);
      expect(usage?.referenced).toBeGreaterThan(4_000_000);
      expect(usage?.exclusive).toBeGreaterThanOrEqual(1_000_000);
      expect(usage?.exclusive).toBeLessThan(1_200_000);
      limitExclusive(snap, 4_000_000);
      const fd = openSync(join(root, 'snap/more'), 'w');
      expect(() => pwrite(fd, Buffer.alloc(8_000_000, 3), 0)).toThrow(/EDQUOT/);
      const thrown = thrownBy(() => writeFileSync(fd, Buffer.alloc(8_000_000, 3)));
      expect(toLayerdError(thrown)).toMatchObject({ code: 'NO_SPACE', details: { errno: 'EDQUOT' } });
      closeSync(fd);
      limitExclusive(snap, null);
      writeFileSync(join(root, 'snap/more'), Buffer.alloc(8_000_000, 3));
    });
  });

  it('says what cannot be done', () => {
    const root = mountBtrfs(scratch());
    mkdirSync(join(root, 'plain'));
    opened(root, (dir) => {
      createSubvolume(dir, bytesOf('outer'));
      opened(join(root, 'outer'), (outer) => createSubvolume(outer, bytesOf('inner')));
      expect(() => createSubvolume(dir, bytesOf('outer'))).toThrow(/EEXIST.*outer/);
      expect(() => destroySubvolume(dir, bytesOf('outer'))).toThrow(/ENOTEMPTY/);
      expect(() => destroySubvolume(dir, bytesOf('gone'))).toThrow(/ENOENT/);
      expect(() => destroySubvolume(dir, bytesOf('plain'))).toThrow(/EINVAL|ENOTDIR/);
      expect(() => createSubvolume(dir, bytesOf('a/b'))).toThrow(/EINVAL/);
      expect(() => createSubvolume(dir, 'n'.repeat(256) as ByteString)).toThrow(/ENAMETOOLONG/);
      expect(() => limitExclusive(dir, 1)).toThrow(/ENOTCONN/);
    });
    opened(scratch(), (ext4) => expect(() => subvolumeId(ext4)).toThrow(/ENOTTY/));
    expect(existsSync(join(root, 'outer/inner'))).toBe(true);
  });

  it('is known as a file system that shares blocks', () => {
    const root = mountBtrfs(scratch());
    expect(fileSystemType(root)).toBe('btrfs');
    expect(canClone(root)).toBe(true);
    expect(readdirSync(root)).toEqual([]);
  });
});
