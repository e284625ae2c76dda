import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { bytesOf, displayBytes, fromBuffer, toBuffer, type ByteString } from '../../src/core/bytes.js';
import { isErrno, toLayerdError } from '../../src/core/errors.js';
import { nextEntries, readDirectory, rewind } from '../../src/linux/directory.js';
import {
  cloneFile,
  cloneFileRange,
  copyFileRange,
  dataSegments,
  fallocate,
  ftruncate,
  pread,
  punchHole,
  pwrite,
} from '../../src/linux/extents.js';
import {
  AT_FDCWD,
  close,
  fchmod,
  fchmodat,
  fchown,
  fchownat,
  fdPath,
  fdPathOf,
  futimens,
  linkat,
  linkFd,
  mkdirat,
  mknodat,
  O_PATH,
  O_TMPFILE,
  openat,
  openat2,
  readlinkat,
  RENAME,
  renameat,
  RESOLVE,
  rmdirat,
  symlinkat,
  tryOpenat,
  unlinkat,
  utimensat,
} from '../../src/linux/files.js';
import { linuxAvailable } from '../../src/linux/libc.js';
import { tryLock } from '../../src/linux/lock.js';
import { directAlignment, statAt, statFd, statFollowing, tryStatAt, uniqueMountId } from '../../src/linux/stat.js';
import { ADVICE, cachedBytes, fadvise, SYNC_RANGE, syncfs, syncFileRange } from '../../src/linux/sync.js';
import { SystemError } from '../../src/linux/system-error.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { mountBtrfs, run, scratchDirectory, thrownBy, writeTree } from './linux-fixture.js';

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_RDWR, O_WRONLY } = constants;
const scratch = scratchDirectory();

/** Runs with a descriptor of a fresh directory. */
function inDirectory(body: (dirFd: number, path: string) => void): void {
  const fd = openSync(scratch(), O_RDONLY | O_DIRECTORY);
  try {
    body(fd, scratch());
  } finally {
    closeSync(fd);
  }
}

function create(dirFd: number, name: ByteString, content = ''): void {
  const fd = openat(dirFd, name, O_CREAT | O_EXCL | O_WRONLY, 0o644);
  pwrite(fd, Buffer.from(content), 0);
  close(fd);
}

/** Bytes that are no UTF-8, and one that looks like it. */
const RAW = fromBuffer(Buffer.from([0x66, 0xff, 0xfe, 0x2d, 0xc3, 0xa9, 0x0a]));

describeWith('names and attributes', [needsRoot()], () => {
  it('makes, links, renames and removes names of any bytes', () => {
    inDirectory((dir, path) => {
      mkdirat(dir, RAW, 0o750);
      expect(readdirSync(path, { encoding: 'buffer' })).toEqual([toBuffer(RAW)]);
      const sub = openat(dir, RAW, O_RDONLY | O_DIRECTORY);
      create(sub, RAW, 'x');
      linkat(sub, RAW, dir, bytesOf('hard'));
      expect(statAt(dir, bytesOf('hard')).nlink).toBe(2);
      renameat(dir, bytesOf('hard'), sub, bytesOf('moved'));
      symlinkat(RAW, sub, bytesOf('link'));
      expect(readlinkat(sub, bytesOf('link'))).toBe(RAW);
      expect(readDirectory(sub).toSorted((a, b) => (a.name < b.name ? -1 : 1))).toEqual([
        { name: RAW, kind: 'file' },
        { name: 'link', kind: 'symlink' },
        { name: 'moved', kind: 'file' },
      ]);
      for (const name of [RAW, bytesOf('link'), bytesOf('moved')]) unlinkat(sub, name);
      close(sub);
      rmdirat(dir, RAW);
      expect(readdirSync(path)).toEqual([]);
    });
  });

  it('takes paths as buffers too', () => {
    inDirectory((dir) => {
      mkdirat(dir, toBuffer(RAW), 0o755);
      expect(statAt(dir, RAW).kind).toBe('directory');
    });
  });

  it('opens close-on-exec', () => {
    inDirectory((dir) => {
      const fd = openat(dir, bytesOf('.'), O_RDONLY | O_DIRECTORY);
      const flags = /flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '';
      expect(Number.parseInt(flags, 8) & 0o2000000).toBe(0o2000000);
      close(fd);
    });
  });

  it('exchanges two names, and refuses to replace', () => {
    inDirectory((dir, path) => {
      writeTree(path, { a: 'A', b: 'B' });
      renameat(dir, bytesOf('a'), dir, bytesOf('b'), RENAME.exchange);
      expect(readFileSync(join(path, 'a'), 'utf8')).toBe('B');
      expect(() => renameat(dir, bytesOf('a'), dir, bytesOf('b'), RENAME.noReplace)).toThrow(/EEXIST/);
      renameat(dir, bytesOf('a'), dir, bytesOf('b'));
      expect(readdirSync(path)).toEqual(['b']);
    });
  });

  it('makes device nodes with large numbers, fifos and sockets', () => {
    inDirectory((dir) => {
      mknodat(dir, bytesOf('char'), constants.S_IFCHR | 0o600, 4095, 1_048_575);
      mknodat(dir, bytesOf('block'), constants.S_IFBLK | 0o600, 7, 300);
      mknodat(dir, bytesOf('whiteout'), constants.S_IFCHR);
      mknodat(dir, bytesOf('fifo'), constants.S_IFIFO | 0o600);
      mknodat(dir, bytesOf('socket'), constants.S_IFSOCK | 0o600);
      expect(statAt(dir, bytesOf('char'))).toMatchObject({ kind: 'char', rdev: { major: 4095, minor: 1_048_575 } });
      expect(statAt(dir, bytesOf('block'))).toMatchObject({ kind: 'block', rdev: { major: 7, minor: 300 } });
      expect(statAt(dir, bytesOf('whiteout'))).toMatchObject({ kind: 'char', rdev: { major: 0, minor: 0 } });
      expect(statAt(dir, bytesOf('fifo')).kind).toBe('fifo');
      expect(statAt(dir, bytesOf('socket')).kind).toBe('socket');
      expect(() => mknodat(dir, bytesOf('x'), constants.S_IFCHR, 4096, 0)).toThrow(/EINVAL/);
    });
  });

  it('changes owner, mode and times without following links', () => {
    inDirectory((dir, path) => {
      writeTree(path, { file: '' });
      symlinkSync('file', join(path, 'link'));
      const mtime = { sec: 1_234_567_890, nsec: 123_456_789 };
      fchownat(dir, bytesOf('link'), 1234, 4_000_000_000);
      utimensat(dir, bytesOf('link'), mtime);
      expect(statAt(dir, bytesOf('link'))).toMatchObject({ kind: 'symlink', uid: 1234, gid: 4_000_000_000, mtime });
      expect(statAt(dir, bytesOf('file'))).toMatchObject({ uid: 0, gid: 0 });
      expect(statAt(dir, bytesOf('file')).mtime).not.toEqual(mtime);
      expect(() => fchmodat(dir, bytesOf('link'), 0o600)).toThrow(/ENOTSUP/);
      fchmodat(dir, bytesOf('file'), 0o6711);
      expect(statAt(dir, bytesOf('file')).mode & 0o7777).toBe(0o6711);
    });
  });

  it('changes owner, mode and times of open files, times before the epoch and far ahead included', () => {
    inDirectory((dir) => {
      const fd = openat(dir, bytesOf('f'), O_CREAT | O_RDWR, 0o600);
      fchown(fd, 5, 6);
      fchmod(fd, 0o4755);
      for (const mtime of [
        { sec: -1_000_000, nsec: 999_999_999 },
        { sec: 10_000_000_000, nsec: 1 },
      ]) {
        futimens(fd, mtime, { sec: 7, nsec: 0 });
        expect(statFd(fd).mtime).toEqual(mtime);
        expect(fstatSync(fd).atimeMs).toBe(7000);
      }
      expect(statFd(fd)).toMatchObject({ uid: 5, gid: 6, mode: constants.S_IFREG | 0o4755 });
      close(fd);
    });
  });

  it('names an unnamed file', () => {
    inDirectory((dir, path) => {
      const fd = openat(dir, bytesOf('.'), O_TMPFILE | O_WRONLY, 0o644);
      pwrite(fd, Buffer.from('content'), 0);
      expect(readdirSync(path)).toEqual([]);
      linkFd(fd, dir, bytesOf('named'));
      close(fd);
      expect(readFileSync(join(path, 'named'), 'utf8')).toBe('content');
    });
  });

  it('reaches names through the descriptor of their directory', () => {
    inDirectory((dir, path) => {
      writeTree(path, { x: 'through' });
      expect(readFileSync(toBuffer(fdPathOf(dir, bytesOf('x'))), 'utf8')).toBe('through');
      expect(readlinkSync(fdPath(dir))).toBe(path);
    });
  });
});

describeWith('openat2', [needsRoot()], () => {
  it('stays beneath the directory', () => {
    inDirectory((dir, path) => {
      writeTree(path, { 'in/file': '' });
      symlinkSync('/etc', join(path, 'out'));
      symlinkSync('in', join(path, 'inner'));
      const open = (name: string, resolve: number): void => close(openat2(dir, bytesOf(name), O_RDONLY, resolve));
      open('inner/file', RESOLVE.BENEATH);
      expect(() => open('out/passwd', RESOLVE.BENEATH)).toThrow(/EXDEV/);
      expect(() => open('in/../../x', RESOLVE.BENEATH)).toThrow(/EXDEV/);
      expect(() => open('out/passwd', RESOLVE.IN_ROOT)).toThrow(/ENOENT/);
      open('../../in/file', RESOLVE.IN_ROOT);
      expect(() => open('inner/file', RESOLVE.NO_SYMLINKS)).toThrow(/ELOOP/);
      expect(() => close(openat2(AT_FDCWD, bytesOf('/proc/self/fd'), O_PATH, RESOLVE.NO_XDEV))).toThrow(/EXDEV/);
      expect(() => open('../..', RESOLVE.BENEATH | RESOLVE.NO_MAGICLINKS)).toThrow(/EXDEV/);
    });
  });

  it('creates with a mode', () => {
    inDirectory((dir) => {
      close(openat2(dir, bytesOf('new'), O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, RESOLVE.BENEATH, 0o640));
      expect(statAt(dir, bytesOf('new')).mode & 0o777).toBe(0o640);
    });
  });
});

describeWith('stat', [needsRoot()], () => {
  it('agrees with Node, in full precision', () => {
    inDirectory((dir, path) => {
      writeTree(path, { file: 'x'.repeat(10_000) });
      const ours = statAt(dir, bytesOf('file'));
      const nodes = lstatSync(join(path, 'file'), { bigint: true });
      expect(ours).toMatchObject({
        kind: 'file',
        mode: Number(nodes.mode),
        uid: 0,
        gid: 0,
        ino: nodes.ino,
        nlink: 1,
        size: 10_000,
        blocks: Number(nodes.blocks),
        mountRoot: false,
        immutable: false,
      });
      expect(BigInt(ours.mtime.sec) * 1_000_000_000n + BigInt(ours.mtime.nsec)).toBe(nodes.mtimeNs);
      expect(BigInt(ours.ctime.sec) * 1_000_000_000n + BigInt(ours.ctime.nsec)).toBe(nodes.ctimeNs);
      expect(`${ours.dev.major}:${ours.dev.minor}`).toBe(run('stat', '-c', '%Hd:%Ld', join(path, 'file')).trim());
    });
  });

  it('tells links from what they lead to, and absence from failure', () => {
    inDirectory((dir, path) => {
      writeTree(path, { file: '' });
      symlinkSync('file', join(path, 'link'));
      expect(statAt(dir, bytesOf('link')).kind).toBe('symlink');
      expect(statFollowing(dir, bytesOf('link')).kind).toBe('file');
      expect(tryStatAt(dir, bytesOf('gone'))).toBeNull();
      expect(tryStatAt(dir, bytesOf('file/below'))).toBeNull();
      expect(tryOpenat(dir, bytesOf('gone'), O_RDONLY)).toBeNull();
      expect(() => tryStatAt(dir, 'n'.repeat(256) as ByteString)).toThrow(/ENAMETOOLONG/);
    });
  });

  it('knows mount ids and roots, and sizes beyond 32 bits', () => {
    inDirectory((dir) => {
      expect(statAt(AT_FDCWD, bytesOf('/proc'))).toMatchObject({ mountRoot: true });
      expect(statFd(dir).mountId).toBe(
        Number(/mnt_id:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${dir}`, 'utf8'))?.[1]),
      );
      expect(uniqueMountId(dir)).toBeGreaterThan(2 ** 31);
      const fd = openat(dir, bytesOf('large'), O_CREAT | O_RDWR, 0o600);
      ftruncate(fd, 2 ** 40 + 5);
      expect(statFd(fd)).toMatchObject({ size: 2 ** 40 + 5, blocks: 0 });
      close(fd);
      expect(directAlignment(bytesOf('/proc/self/stat'))).toBeNull();
    });
  });
});

describeWith('directories', [needsRoot()], () => {
  it('lists more names than one call gives, from the start, as often as asked', () => {
    inDirectory((dir, path) => {
      const count = 9000;
      for (let index = 0; index < count; index++) writeFileSync(join(path, `${'n'.repeat(40)}${index}`), '');
      expect(new Set(readDirectory(dir).map(({ name }) => name)).size).toBe(count);
      expect(nextEntries(dir)).toEqual([]);
      rewind(dir);
      const first = nextEntries(dir).length;
      expect(first).toBeGreaterThan(1000);
      expect(first).toBeLessThan(count);
      expect(readDirectory(dir)).toHaveLength(count);
    });
  });

  it('says what is no directory', () => {
    inDirectory((dir) => {
      create(dir, bytesOf('f'));
      const fd = openat(dir, bytesOf('f'), O_RDONLY);
      expect(() => nextEntries(fd)).toThrow(/ENOTDIR/);
      close(fd);
    });
  });
});

describeWith('extents', [needsRoot()], () => {
  it('finds data between holes, and punches them', () => {
    inDirectory((dir) => {
      const fd = openat(dir, bytesOf('sparse'), O_CREAT | O_RDWR, 0o600);
      const block = Buffer.alloc(65_536, 1);
      expect(dataSegments(fd, 0)).toEqual([]);
      pwrite(fd, block, 65_536);
      pwrite(fd, block, 2 ** 33);
      ftruncate(fd, 2 ** 33 + 500_000);
      const size = 2 ** 33 + 500_000;
      expect(dataSegments(fd, size)).toEqual([
        { offset: 65_536, length: 65_536 },
        { offset: 2 ** 33, length: 65_536 },
      ]);
      punchHole(fd, 65_536, 65_536);
      expect(dataSegments(fd, size)).toEqual([{ offset: 2 ** 33, length: 65_536 }]);
      expect(dataSegments(fd, 1000)).toEqual([]);
      close(fd);
    });
  });

  it('reserves blocks, with the size or without', () => {
    inDirectory((dir) => {
      const fd = openat(dir, bytesOf('f'), O_CREAT | O_RDWR, 0o600);
      fallocate(fd, 0, 1_000_000, true);
      expect(statFd(fd).size).toBe(0);
      expect(statFd(fd).blocks * 512).toBeGreaterThanOrEqual(1_000_000);
      fallocate(fd, 0, 1_000_000);
      expect(statFd(fd).size).toBe(1_000_000);
      expect(() => fallocate(fd, 0, 2 ** 50)).toThrow(/EFBIG|ENOSPC/);
      close(fd);
    });
  });

  it('copies inside the kernel, up to the end of the source', () => {
    inDirectory((dir) => {
      const from = openat(dir, bytesOf('from'), O_CREAT | O_RDWR, 0o600);
      const to = openat(dir, bytesOf('to'), O_CREAT | O_RDWR, 0o600);
      pwrite(from, Buffer.from('0123456789'), 0);
      expect(copyFileRange(from, 2, to, 5, 100)).toBe(8);
      const copied = Buffer.alloc(20);
      expect(pread(to, copied, 0)).toBe(13);
      expect(copied.subarray(0, 13).toString('latin1')).toBe('\0\0\0\0\x0023456789');
      close(from);
      close(to);
    });
  });
});

describeWith('shared blocks', [needsRoot(), needsProgram('mkfs.btrfs', 'btrfs-progs')], () => {
  it('clones where the file system can, says ENOTSUP where not', () => {
    inDirectory((dir, path) => {
      const from = openat(dir, bytesOf('from'), O_CREAT | O_RDWR, 0o600);
      pwrite(from, Buffer.alloc(8192, 7), 0);
      const other = openat(dir, bytesOf('other'), O_CREAT | O_RDWR, 0o600);
      expect(() => cloneFile(from, other)).toThrow(/ENOTSUP/);
      close(from);
      close(other);
      mountBtrfs(path);
      writeFileSync(join(path, 'mnt/a'), Buffer.alloc(8192, 7));
      const a = openSync(join(path, 'mnt/a'), 'r');
      const b = openSync(join(path, 'mnt/b'), 'wx+');
      cloneFile(a, b);
      expect(readFileSync(join(path, 'mnt/b'))).toEqual(Buffer.alloc(8192, 7));
      cloneFileRange(a, 4096, b, 8192, 4096);
      expect(statSync(join(path, 'mnt/b')).size).toBe(12_288);
      closeSync(a);
      closeSync(b);
    });
  });
});

describeWith('sync and locks', [needsRoot()], () => {
  it('syncs a file system, starts and awaits writeback, drops pages', () => {
    inDirectory((dir, path) => {
      writeFileSync(join(path, 'f'), Buffer.alloc(1_000_000, 1));
      const fd = openat(dir, bytesOf('f'), O_RDWR);
      syncFileRange(fd, 0, 0, SYNC_RANGE.waitBefore | SYNC_RANGE.write | SYNC_RANGE.waitAfter);
      syncFileRange(fd, 2 ** 40, 4096, SYNC_RANGE.write);
      syncfs(fd);
      expect(cachedBytes(fd)).toBe(
        Number(run('fincore', '--bytes', '--noheadings', '--output', 'RES', join(path, 'f'))),
      );
      expect(cachedBytes(fd)).toBeGreaterThanOrEqual(1_000_000);
      fadvise(fd, 0, 0, ADVICE.dontNeed);
      expect(cachedBytes(fd)).toBe(0);
      expect(cachedBytes(-1)).toBeNull();
      expect(run('fincore', '--noheadings', '--output', 'PAGES', join(path, 'f')).trim()).toBe('0');
      expect(() => fadvise(-1, 0, 0, ADVICE.dontNeed)).toThrow(expect.objectContaining({ code: 'EBADF' }));
      expect(() => syncFileRange(fd, 0, 0, 64)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
      close(fd);
    });
  });

  it('gives a lock to one, until its descriptor is closed', () => {
    const path = join(scratch(), 'lock');
    const first = openSync(path, 'w');
    const second = openSync(path, 'w');
    expect(tryLock(first)).toBe(true);
    expect(tryLock(second)).toBe(false);
    expect(() => execFileSync('flock', ['-n', path, 'true'])).toThrow();
    closeSync(first);
    expect(tryLock(second)).toBe(true);
    closeSync(second);
    expect(() => tryLock(second)).toThrow(/EBADF/);
  });
});

describeWith('errors', [needsRoot()], () => {
  it('are shaped like those of Node, with the bytes of the path shown', () => {
    const missing = fromBuffer(Buffer.from('/nonexistent/\xff', 'latin1'));
    const thrown = thrownBy(() => openat(AT_FDCWD, missing, O_RDONLY));
    expect(thrown).toBeInstanceOf(SystemError);
    expect(thrown).toMatchObject({ code: 'ENOENT', errno: 2, syscall: 'openat', path: displayBytes(missing) });
    expect(isErrno(thrown, 'ENOENT')).toBe(true);
    expect((thrown as Error).message).toBe(String.raw`ENOENT: No such file or directory, openat '/nonexistent/\xff'`);
    expect(toLayerdError(thrownBy(() => close(-1))).details).toEqual({ errno: 'EBADF', path: '' });
  });

  it('come before the kernel is asked where a path cannot be one', () => {
    expect(() => openat(AT_FDCWD, 'x'.repeat(4096) as ByteString, O_RDONLY)).toThrow(/ENAMETOOLONG/);
    expect(() => openat(AT_FDCWD, 'etc\0/passwd' as ByteString, O_RDONLY)).toThrow(/EINVAL/);
    expect(() => openat(AT_FDCWD, Buffer.from('a\0b'), O_RDONLY)).toThrow(/EINVAL/);
    expect(() => openat(AT_FDCWD, bytesOf(`/tmp/${'./'.repeat(2044)}none`), O_RDONLY)).toThrow(/ENAMETOOLONG|ENOENT/);
  });

  it('are right in worker threads that fail in other ways at the same time', async () => {
    const module = new URL('../../src/linux/files.js', import.meta.url).href;
    const source = `
      const { parentPort, workerData } = require('node:worker_threads');
      import(workerData.module).then(({ openat, close }) => {
        const codes = new Set();
        for (let i = 0; i < 20000; i++) {
          try { workerData.bad ? close(-1) : openat(-100, '/nonexistent', 0); } catch (error) { codes.add(error.code); }
        }
        parentPort.postMessage([...codes]);
      });`;
    const codesOf = (bad: boolean): Promise<string[]> =>
      new Promise((resolve, reject) => {
        const worker = new Worker(source, { eval: true, workerData: { module, bad } });
        worker.once('message', resolve).once('error', reject);
      });
    expect(await Promise.all([codesOf(true), codesOf(false)])).toEqual([['EBADF'], ['ENOENT']]);
  });

  it('say why, where the calls are switched off', () => {
    expect(linuxAvailable().available).toBe(true);
    const module = new URL('../../src/linux/files.js', import.meta.url).href;
    const libc = new URL('../../src/linux/libc.js', import.meta.url).href;
    const script = `
      const { linuxAvailable } = await import('${libc}');
      const { close } = await import('${module}');
      try { close(0); } catch (error) { console.log(JSON.stringify([linuxAvailable(), error.code, error.hint])); }`;
    const printed = execFileSync(process.execPath, ['--input-type=module', '-e', script], {
      env: { ...process.env, LAYERD_NO_FFI: '1' },
      encoding: 'utf8',
    });
    expect(JSON.parse(printed)).toEqual([
      { available: false, reason: 'LAYERD_NO_FFI=1 switches them off' },
      'DRIVER_UNAVAILABLE',
      expect.stringContaining('copy driver'),
    ]);
  });
});
