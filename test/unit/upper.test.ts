import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { displayBytes, type ByteString } from '../../src/core/bytes.js';
import { mergeTrees, type MergedNode } from '../../src/content/merge.js';
import { tarOfTree } from '../../src/content/tree-tar.js';
import { TarScanner } from '../../src/tar/scanner.js';
import type { TarEntry } from '../../src/tar/entry.js';
import { treeOfTar } from '../model/tree.js';
import { compareTrees, describeTree, showDifferences, type TreeListing } from '../reference/tree.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { run, scratchDirectory } from './linux-fixture.js';
import { Container, duringStorm, gathered, shell } from './upper-fixture.js';

const EMPTY_TAR = Buffer.alloc(1024);
const scratch = scratchDirectory();

/** A root as small images have it. */
const LOWER = `
  mkdir -p etc/conf.d usr/bin usr/lib/app/sub var/empty
  echo one > etc/one; echo two > etc/two; echo a > etc/conf.d/a; echo b > etc/conf.d/b
  echo prog > usr/bin/prog; chmod 4755 usr/bin/prog; ln usr/bin/prog usr/bin/alias
  ln -s prog usr/bin/link
  for i in 1 2 3; do echo $i > usr/lib/app/$i; echo sub$i > usr/lib/app/sub/$i; done
  find . -exec touch -h -d @1200000000.123456789 {} +
`;

function container(lowers: string[] = [LOWER], options: Record<string, string> = {}): Container {
  return new Container(scratch(), lowers, options);
}

/** In memory, for many files: they are of no interest to the disk. */
function largeContainer(lower: string): Container {
  const root = join(scratch(), 'memory');
  mkdirSync(root);
  run('mount', '-t', 'tmpfs', 'none', root);
  return new Container(root, [lower]);
}

function entriesOf(tar: Buffer): TarEntry[] {
  const entries: TarEntry[] = [];
  const scanner = new TarScanner({ entry: (entry) => void entries.push(entry), data: () => {}, entryEnd: () => {} });
  scanner.write(tar);
  expect(scanner.finish().endMarker).toBe(true);
  return entries;
}

const pathsOf = (tar: Buffer): string[] => entriesOf(tar).map(({ path }) => displayBytes(path));

/** A tar holds no sockets. */
function withoutSockets(listing: TreeListing): TreeListing {
  return new Map([...listing].filter(([, { type }]) => type !== 'socket'));
}

function expectEqual(found: TreeListing, expected: TreeListing): void {
  expect(showDifferences(compareTrees(found, withoutSockets(expected)))).toBe('');
}

function* pathsOfMerged(node: MergedNode, path: string): Generator<string> {
  yield path === '' ? '.' : path;
  for (const [name, child] of node.children ?? []) yield* pathsOfMerged(child, path === '' ? name : `${path}/${name}`);
}

/** The diff is the same mounted and not, and on top of the lowers it makes the tree that the container saw. */
async function expectFaithful(subject: Container): Promise<void> {
  const seen = await describeTree(subject.merged);
  const changes = await subject.changes();
  const tar = await subject.diff();
  expectEqual(await subject.applied(tar), seen);
  await expectSameTree(subject, tar, seen);
  subject.unmount();
  expect(await subject.changes()).toEqual(changes);
  expect((await subject.diff()).equals(tar)).toBe(true);
}

/** Layerd's own reading of the diff, too. */
async function expectSameTree(subject: Container, tar: Buffer, seen: TreeListing): Promise<void> {
  const below = await gathered(tarOfTree(await subject.copyOfLowers('copy')));
  const merged = mergeTrees([treeOfTar(below), treeOfTar(tar)]);
  const paths = [...pathsOfMerged(merged, '')].map((path) => displayEscaped(path as ByteString));
  expect(paths.sort()).toEqual([...withoutSockets(seen).keys()].sort());
}

/** As the reference listing escapes names. */
function displayEscaped(path: ByteString): string {
  return path.replace(/[^\x20-\x5b\x5d-\x7e]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

const TOOLS = [
  needsRoot(),
  needsProgram('python3'),
  needsProgram('setfattr', 'attr'),
  needsProgram('setfacl', 'acl'),
  needsProgram('setcap', 'libcap2-bin'),
];

describeWith('an upper', TOOLS, () => {
  it('without changes is an empty diff', async () => {
    const subject = container();
    expect(await subject.changes()).toEqual([]);
    expect((await subject.diff()).equals(EMPTY_TAR)).toBe(true);
    subject.unmount();
    expect(await subject.changes()).toEqual([]);
    expect((await subject.diff()).equals(EMPTY_TAR)).toBe(true);
    expect(subject.mergedOpened).toBe(0);
  });

  it('tells what was created, modified and deleted', async () => {
    const subject = container();
    subject.run(
      'echo new > etc/new; echo more >> etc/one; rm etc/two; mkdir -p opt/a/b; echo x > opt/a/b/x; rm -r var',
    );
    expect(await subject.changeLines()).toEqual([
      'C /etc',
      'A /etc/new',
      'C /etc/one',
      'D /etc/two',
      'A /opt',
      'A /opt/a',
      'A /opt/a/b',
      'A /opt/a/b/x',
      'D /var',
    ]);
    expect(pathsOf(await subject.diff())).toEqual([
      './',
      'etc/',
      'etc/new',
      'etc/one',
      'etc/.wh.two',
      'opt/',
      'opt/a/',
      'opt/a/b/',
      'opt/a/b/x',
      '.wh.var',
    ]);
    await expectFaithful(subject);
    expect(subject.mergedOpened).toBe(0);
  });

  it('tells nothing of what was created and deleted again', async () => {
    const subject = container();
    subject.run('touch etc/x; rm etc/x; touch -d @1200000000.123456789 etc');
    expect(await subject.changeLines()).toEqual(['C /etc']);
    await expectFaithful(subject);
  });

  it('tells changes of attributes alone', async () => {
    const subject = container();
    subject.run(`
      chmod 600 etc/one; chown 70000:4294967294 etc/two; setfattr -n user.note -v hello etc/conf.d/a
      touch -d @-5.25 etc/conf.d/b; setcap cap_net_raw+ep usr/bin/prog; chmod 1777 var/empty
      setfattr -h -n trusted.mine -v x usr/bin/link; touch -h -d @77.5 usr/bin/link; chown -h 5:6 usr/bin/link
      setfacl -m u:1000:r etc/one; setfacl -d -m g:7:rwx var/empty
    `);
    const prog = entriesOf(await subject.diff()).find(({ path }) => path === 'usr/bin/prog');
    expect([...(prog?.xattrs?.keys() ?? [])]).toEqual(['security.capability']);
    await expectFaithful(subject);
  });

  it('tells attributes of the root', async () => {
    const subject = container();
    subject.run('chmod 700 .; setfattr -n user.root -v yes .');
    expect(await subject.changeLines()).toEqual(['C /']);
    expect(pathsOf(await subject.diff())).toEqual(['./']);
    await expectFaithful(subject);
  });

  it('is not changed by the time of its root alone', async () => {
    const subject = container();
    subject.run('touch x; rm x');
    expect(await subject.changes()).toEqual([]);
    expect((await subject.diff()).equals(EMPTY_TAR)).toBe(true);
  });

  it('keeps hard links among what it has', async () => {
    const subject = container();
    subject.run(`
      echo h > etc/h1; ln etc/h1 etc/h2; mkdir z; ln etc/h1 z/h3
      ln -s nowhere z/s1; ln -P z/s1 z/s2; mkfifo z/p1; ln z/p1 z/p2
      echo more >> usr/bin/alias; ln etc/one etc/same
    `);
    const links = entriesOf(await subject.diff()).filter(({ type }) => type === 'hardlink');
    expect(links.map(({ path, linkPath }) => `${path} > ${linkPath}`)).toEqual([
      'etc/h2 > etc/h1',
      'etc/same > etc/one',
      'z/h3 > etc/h1',
      'z/p2 > z/p1',
      'z/s2 > z/s1',
    ]);
    await expectFaithful(subject);
  });

  it('marks a directory opaque that was removed and made again', async () => {
    const subject = container();
    subject.run('rm -r etc; mkdir etc; echo b > etc/new; mkdir etc/conf.d; echo c > etc/conf.d/b');
    expect(await subject.changeLines()).toEqual([
      'C /etc',
      'C /etc/conf.d',
      'D /etc/conf.d/a',
      'C /etc/conf.d/b',
      'A /etc/new',
      'D /etc/one',
      'D /etc/two',
    ]);
    expect(pathsOf(await subject.diff())).toEqual([
      './',
      'etc/',
      'etc/.wh..wh..opq',
      'etc/conf.d/',
      'etc/conf.d/b',
      'etc/new',
    ]);
    await expectFaithful(subject);
  });

  it('has no opaque marker where the lowers have no directory', async () => {
    const subject = container();
    subject.run('mkdir a; mkdir b; mv b a/c; rm etc/one; mkdir etc/one; echo x > etc/one/x');
    expect(pathsOf(await subject.diff())).not.toContain('.wh..wh..opq');
    await expectFaithful(subject);
  });

  it('tells a file in the place of a directory and the other way round', async () => {
    const subject = container();
    subject.run(
      'rm -r etc/conf.d; echo f > etc/conf.d; rm usr/bin/link; mkdir -p usr/bin/link/d; rm -r var; ln -s etc var',
    );
    expect(await subject.changeLines()).toEqual([
      'C /etc',
      'C /etc/conf.d',
      'C /usr',
      'C /usr/bin',
      'C /usr/bin/link',
      'A /usr/bin/link/d',
      'C /var',
    ]);
    await expectFaithful(subject);
  });

  it('keeps names that are not UTF-8, and says their bytes', async () => {
    const subject = container([`${LOWER}\n touch $'etc/gone\\xff'`]);
    subject.run(`
      touch $'etc/\\xff\\xfe' $'etc/new\\nline' etc/ä ' ' -- -rf; mkdir $'d\\xc3'; touch $'d\\xc3'/x; rm $'etc/gone\\xff'
      touch "$(printf 'n%.0s' {1..255})"
    `);
    const changes = await subject.changes();
    expect(changes.find(({ path }) => path === '/etc/ä')).toEqual({ kind: 'A', path: '/etc/ä' });
    expect(changes.find(({ path }) => path === '/etc/gone\\xff')).toEqual({
      kind: 'D',
      path: '/etc/gone\\xff',
      bytes: Buffer.from('/etc/gone\xff', 'latin1').toString('base64'),
    });
    expect(changes.find(({ path }) => path === '/etc/new\\x0aline')?.bytes).toBeDefined();
    await expectFaithful(subject);
  });

  it('keeps symbolic links, devices and fifos, and leaves sockets out', async () => {
    const subject = container();
    subject.run(`
      ln -s "$(printf 'x%.0s' {1..4000})" long; ln -s ../../.. up; mkfifo p; mknod c c 1 3; mknod b b 259 300000
      python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("s")'
    `);
    expect(await subject.changeLines()).toContain('A /s');
    expect(pathsOf(await subject.diff())).not.toContain('s');
    await expectFaithful(subject);
  });

  it('keeps the content of large and sparse files', async () => {
    const subject = container();
    subject.run(`
      head -c 3000001 /dev/urandom > big; truncate -s 50M sparse; echo x | dd of=sparse bs=1 seek=20000000 conv=notrunc
      truncate -s 5000000 hole; cp sparse tail; truncate -s 50000001 tail; head -c 262144 /dev/urandom > edge
      head -c 262145 /dev/urandom > edge1
    `);
    await expectFaithful(subject);
  });

  it('never carries what is private to overlay', async () => {
    const subject = container([LOWER], { index: 'on' });
    subject.run('mv usr/lib/app opt; chmod 600 etc/one; rm -r etc/conf.d; mkdir etc/conf.d; echo >> usr/bin/prog');
    const names = entriesOf(await subject.diff()).flatMap(({ xattrs }) => Array.from(xattrs?.keys() ?? []));
    expect(names.filter((name) => name.includes('overlay'))).toEqual([]);
  });

  it('refuses a file whose name stands for a whiteout', async () => {
    const subject = container();
    subject.run('touch etc/.wh.one');
    await expect(subject.diff()).rejects.toMatchObject({ code: 'NAME_UNSUPPORTED', details: { path: '/etc/.wh.one' } });
    expect(await subject.changeLines()).toContain('A /etc/.wh.one');
  });

  it('reads whiteouts that are files with an attribute', async () => {
    const subject = container();
    subject.run('rm etc/one; echo two > etc/two');
    subject.unmount();
    const { upper } = subject.places;
    shell(upper, 'rm etc/one; touch etc/one; setfattr -n trusted.overlay.whiteout etc/one; touch etc/empty');
    expect(await subject.changeLines()).toEqual(['C /etc', 'A /etc/empty', 'D /etc/one', 'C /etc/two']);
    expect(pathsOf(await subject.diff())).toEqual(['etc/', 'etc/empty', 'etc/.wh.one', 'etc/two']);
  });

  it('takes nothing for a mark that a user could have set', async () => {
    const subject = container();
    subject.run(
      'setfattr -n user.overlay.opaque -v y etc; setfattr -n user.overlay.redirect -v /usr usr/lib; touch etc/x',
    );
    expect(pathsOf(await subject.diff())).toEqual(['etc/', 'etc/x', 'usr/', 'usr/lib/']);
    expect(subject.mergedOpened).toBe(0);
  });

  it('lies over several lowers, whiteouts among them', async () => {
    const subject = container([
      LOWER,
      'mkdir -p etc usr/lib; mknod etc/one c 0 0; echo 2 > etc/two; mknod usr/lib/app c 0 0',
      'mkdir -p etc/conf.d; setfattr -n trusted.overlay.opaque -v y etc/conf.d; echo z > etc/conf.d/z',
    ]);
    subject.run('touch etc/one; rm etc/two; rm -r etc/conf.d; mkdir etc/conf.d usr/lib/app; touch usr/lib/app/1');
    expect(await subject.changeLines()).toEqual([
      'C /etc',
      'C /etc/conf.d',
      'D /etc/conf.d/z',
      'A /etc/one',
      'D /etc/two',
      'C /usr',
      'C /usr/lib',
      'A /usr/lib/app',
      'A /usr/lib/app/1',
    ]);
    await expectFaithful(subject);
  });

  it('lies over one lower that has whiteouts of its own', async () => {
    const subject = container(['mkdir a; mknod a/gone c 0 0; mknod gone c 0 0; touch there']);
    subject.run('touch a/gone; mkdir gone; rm there');
    expect(await subject.changeLines()).toEqual(['C /a', 'A /a/gone', 'A /gone', 'D /there']);
    expect(pathsOf(await subject.diff())).toEqual(['./', 'a/', 'a/gone', 'gone/', '.wh.there']);
  });

  it('writes nothing of what is mounted inside it', async () => {
    const subject = container();
    subject.run(
      'mkdir vol; mount -t tmpfs none vol; touch vol/secret; mv usr/lib/app app; mount -t tmpfs none app; touch app/s',
    );
    try {
      expect(pathsOf(await subject.diff()).filter((path) => /secret|app.s$/.test(path))).toEqual([]);
      expect(pathsOf(await subject.diff())).toContain('app/sub/3');
      expect(pathsOf(await gathered(tarOfTree(subject.merged)))).toContain('app/sub/3');
    } finally {
      shell(subject.merged, 'umount vol app');
    }
    await expectFaithful(subject);
  });
});

describeWith('an upper with renamed directories', TOOLS, () => {
  it('is the whole directory at its new place and a whiteout at the old', async () => {
    const subject = container();
    subject.run('mv usr/lib/app opt');
    expect(await subject.changeLines()).toEqual([
      'A /opt',
      'A /opt/1',
      'A /opt/2',
      'A /opt/3',
      'A /opt/sub',
      'A /opt/sub/1',
      'A /opt/sub/2',
      'A /opt/sub/3',
      'C /usr',
      'C /usr/lib',
      'D /usr/lib/app',
    ]);
    expect(subject.mergedOpened).toBe(1);
    await expectFaithful(subject);
  });

  it.each([
    [
      'changed inside',
      'echo more >> opt/1; rm opt/2; touch opt/new; chmod 700 opt/sub; rm opt/sub/1; echo > opt/sub/1',
    ],
    ['with a whiteout and an opaque directory inside', 'rm opt/3; rm -r opt/sub; mkdir opt/sub; touch opt/sub/x'],
    ['renamed again', 'mv opt srv; mv srv usr/lib/again'],
    ['renamed back', 'mv opt usr/lib/app'],
    ['with a renamed directory inside', 'mv opt/sub opt/sub2; echo x > opt/sub2/4'],
    ['with a directory renamed out of it', 'mv opt/sub sub; rm sub/2'],
    ['with files moved out of it', 'mv opt/1 etc/moved; mv opt/sub/2 moved2; ln opt/3 etc/linked'],
    ['with another directory moved into it', 'mv etc/conf.d opt/sub/conf; mv opt/sub/conf/a opt/a'],
    ['whose old parent is deleted', 'rm -r usr/lib'],
    ['whose old place is taken by a new directory', 'mkdir usr/lib/app; echo other > usr/lib/app/1'],
    ['whose old place is taken by a file', 'echo file > usr/lib/app'],
    ['deleted', 'rm -r opt'],
    ['with a file in the place of its subdirectory', 'rm -r opt/sub; echo f > opt/sub'],
    ['with hard links across its border', 'ln opt/1 opt/sub/one; ln opt/sub/one etc/one-more; ln opt/2 opt/two'],
    ['with names that are not UTF-8', "mv opt/sub $'opt/\\xff'; touch $'opt/\\xff/\\xfe'"],
  ])('is right %s', async (_, script) => {
    const subject = container();
    subject.run(`mv usr/lib/app opt; ${script}`);
    await expectFaithful(subject);
  });

  it('hides what was at the new place', async () => {
    const subject = container();
    subject.run('rm -r etc; mv usr/lib/app etc; touch etc/one');
    expect(await subject.changeLines()).toEqual([
      'C /etc',
      'A /etc/1',
      'A /etc/2',
      'A /etc/3',
      'D /etc/conf.d',
      'C /etc/one',
      'A /etc/sub',
      'A /etc/sub/1',
      'A /etc/sub/2',
      'A /etc/sub/3',
      'D /etc/two',
      'C /usr',
      'C /usr/lib',
      'D /usr/lib/app',
    ]);
    await expectFaithful(subject);
  });

  it('keeps the hard links of the lowers inside it', async () => {
    const subject = container();
    subject.run('mv usr/bin bin');
    const links = entriesOf(await subject.diff()).filter(({ type }) => type === 'hardlink');
    expect(links).toMatchObject([{ path: 'bin/prog', linkPath: 'bin/alias' }]);
    await expectFaithful(subject);
  });

  it('is right for directories that several lowers make together', async () => {
    const subject = container([
      LOWER,
      'mkdir -p usr/lib/app/sub; echo 1b > usr/lib/app/1; mknod usr/lib/app/2 c 0 0; echo 4 > usr/lib/app/sub/4',
    ]);
    subject.run('mv usr/lib/app opt; mv opt/sub deep; rm deep/4; mkdir opt/sub; touch opt/2');
    await expectFaithful(subject);
  });

  it('is right for 10,000 files', async () => {
    const files = 'for d in {0..99}; do mkdir -p big/$d; for f in {0..99}; do echo $d/$f > big/$d/$f; done; done';
    const subject = largeContainer(files);
    subject.run('mkdir new; mv big new/big; rm new/big/0/0; mv new/big/1 new/big/one');
    expect(await subject.changes()).toHaveLength(10_102);
    await expectFaithful(subject);
  });
});

describeWith('an upper that is written to meanwhile', TOOLS, () => {
  it('is a whole layer all the time', async () => {
    const subject = container([
      'for d in {1..20}; do mkdir $d; for f in {1..20}; do head -c 2000 /dev/zero > $d/$f; done; done',
    ]);
    const storm = `
      a=$((RANDOM % 20 + 1)); b=$((RANDOM % 20 + 1)); f=$((RANDOM % 20 + 1))
      case $((RANDOM % 7)) in
        0) echo $RANDOM > $a/$f ;;
        1) rm -rf $a/$f ;;
        2) mv $a $b/$f ;;
        3) mv $a/$f $b ;;
        4) rm -rf $b; mkdir -p $b; echo x > $b/$f ;;
        5) ln $a/$f $b/$f ;;
        6) truncate -s $((RANDOM * 100)) $a/$f ;;
      esac
    `;
    // until the storm has had its effect, however slow it is on a busy machine
    let mostChanges = 0;
    await duringStorm(subject.merged, storm, async () => {
      for (let round = 0; round < 20 || mostChanges < 100; round += 1) {
        const tar = await subject.diff();
        expect(treeOfTar(tar).entries).toBe(pathsOf(tar).length);
        mostChanges = Math.max(mostChanges, (await subject.changes()).length);
      }
    });
    await expectFaithful(subject);
  });
});

describeWith('the time of a diff', [needsRoot()], () => {
  it('goes with the changes, not with the lowers', async () => {
    const files = 'for d in {0..399}; do mkdir -p big/$d; for f in {0..99}; do : > big/$d/$f; done; done';
    const subject = largeContainer(files);
    subject.run('for d in {0..99}; do echo x > big/$d/50; done');
    const times = [];
    for (let i = 0; i < 5; i += 1) {
      const start = performance.now();
      await subject.changes();
      await subject.diff();
      times.push(performance.now() - start);
    }
    // generous for both: the machine of a test may be busy; a walk of the lowers takes several times as long
    expect(Math.min(...times)).toBeLessThan(100);
    expect(await subject.changes()).toHaveLength(201);
  });
});
