/** What is done in containers, by the shell, and what every driver says of it. */
import type { EntrySpec } from '../model/spec.js';
import { dir, fifo, file, link, symlink, xattrs } from './entries.js';

const OLD = { mtime: { sec: 1_200_000_000, nsec: 987_654_321 } };

/** The image below: two layers, so that directories are merged. */
export const IMAGE: EntrySpec[][] = [
  [
    dir('.', { mode: 0o755, ...OLD }),
    dir('etc', { mode: 0o755, ...OLD }),
    file('etc/one', 'one\n', OLD),
    file('etc/two', 'two\n', OLD),
    dir('etc/conf.d', OLD),
    file('etc/conf.d/a', 'a\n', { mode: 0o600, ...OLD }),
    file('etc/conf.d/b', 'b\n', { ...OLD, ...xattrs({ 'user.note': 'kept' }) }),
    dir('usr', OLD),
    dir('usr/bin', OLD),
    file('usr/bin/prog', '#!/bin/sh\n', { mode: 0o4755, ...OLD }),
    link('usr/bin/alias', 'usr/bin/prog'),
    symlink('usr/bin/sym', 'prog', OLD),
    dir('usr/lib', OLD),
    ...['x', 'y', 'z'].map((name) => file(`usr/lib/${name}`, `lib ${name}\n`, OLD)),
    dir('usr/lib/sub', OLD),
    file('usr/lib/sub/deep', 'deep\n', OLD),
    dir('var', OLD),
    dir('var/empty', { mode: 0o1777, ...OLD }),
    fifo('var/pipe', OLD),
    dir('twins', OLD),
    ...['left', 'right'].flatMap((name) => [
      dir(`twins/${name}`, OLD),
      file(`twins/${name}/same`, `${name} `.slice(0, 5), OLD),
    ]),
    file('large', Buffer.alloc(300_000, 'large '), OLD),
  ],
  [
    dir('etc', { mode: 0o755, ...OLD }),
    file('etc/three', 'three\n', OLD),
    dir('usr/lib/sub', OLD),
    file('usr/lib/sub/later', 'later\n', OLD),
  ],
];

export interface Edit {
  script: string;
  /** As `docker diff` would have it, in byte order of the paths. */
  changes: string[];
  /** Attributes that only root can set, or that Node alone cannot see. */
  fullFidelity?: true;
  /** A directory of a lower layer is renamed. */
  renames?: true;
  /** Names that share an inode in a lower layer: they stay together only where the driver says so. */
  links?: true;
}

export const EDITS: Record<string, Edit> = {
  nothing: { script: ':', changes: [] },
  'create, append, delete': {
    script: 'echo new > etc/new; echo more >> etc/one; rm etc/two; mkdir -p opt/a/b; echo x > opt/a/b/x; rm -r var',
    changes: [
      'C /etc',
      'A /etc/new',
      'C /etc/one',
      'D /etc/two',
      'A /opt',
      'A /opt/a',
      'A /opt/a/b',
      'A /opt/a/b/x',
      'D /var',
    ],
  },
  'a byte in a large file': {
    script: 'printf X | dd of=large bs=1 seek=150000 conv=notrunc status=none',
    changes: ['C /large'],
  },
  'truncated, extended with a hole': {
    script:
      'truncate -s 10 large; truncate -s 5000000 etc/one; printf end | dd of=etc/one bs=1 seek=4000000 conv=notrunc status=none',
    changes: ['C /etc', 'C /etc/one', 'C /large'],
  },
  emptied: { script: ': > etc/two; : > large', changes: ['C /etc', 'C /etc/two', 'C /large'] },
  'permissions alone': {
    script: 'chmod 600 etc/one; chmod 700 etc/conf.d; chmod 4711 large',
    changes: ['C /etc', 'C /etc/conf.d', 'C /etc/one', 'C /large'],
  },
  'times alone': {
    script: 'touch -d @1000000000.123456789 etc/one; touch -d @-5.25 usr/lib; touch -h -d @77.5 usr/bin/sym',
    changes: ['C /etc', 'C /etc/one', 'C /usr', 'C /usr/bin', 'C /usr/bin/sym', 'C /usr/lib'],
  },
  'the time of the root alone': { script: 'touch -d @5 .', changes: [] },
  'owners alone': {
    script: 'chown 70000:4294967294 etc/two; chown -h 5:6 usr/bin/sym; chown 7:8 etc/conf.d',
    changes: ['C /etc', 'C /etc/conf.d', 'C /etc/two', 'C /usr', 'C /usr/bin', 'C /usr/bin/sym'],
    fullFidelity: true,
  },
  'extended attributes alone': {
    script: `setfattr -n user.new -v 0x00ff0a etc/one; setfattr -x user.note etc/conf.d/b; setcap cap_net_raw+ep large
      setfattr -h -n trusted.mine -v x usr/bin/sym; chmod 644 etc/two; setfacl -m u:1000:r etc/two; chmod 1777 var/empty; setfacl -d -m g:7:rwx var/empty`,
    changes: [
      'C /etc',
      'C /etc/conf.d',
      'C /etc/conf.d/b',
      'C /etc/one',
      'C /etc/two',
      'C /large',
      'C /usr',
      'C /usr/bin',
      'C /usr/bin/sym',
      'C /var',
      'C /var/empty',
    ],
    fullFidelity: true,
  },
  'the root itself': { script: 'chmod 711 .', changes: ['C /'] },
  'the root itself, owner and extended attributes': {
    script: 'chown 3:4 .; setfattr -n user.root -v yes .',
    changes: ['C /'],
    fullFidelity: true,
  },
  'devices, fifos, sockets': {
    script: `mknod dev c 1 3; mknod blk b 7 9; mkfifo -m 600 etc/fifo; rm var/pipe
      python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("etc/socket")'; mknod etc/big c 500 200000`,
    changes: ['A /blk', 'A /dev', 'C /etc', 'A /etc/big', 'A /etc/fifo', 'A /etc/socket', 'C /var', 'D /var/pipe'],
    fullFidelity: true,
  },
  'symbolic links': {
    script: 'ln -sf other usr/bin/sym; ln -s /nowhere dangling; rm etc/one; ln -s two etc/one',
    changes: ['A /dangling', 'C /etc', 'C /etc/one', 'C /usr', 'C /usr/bin', 'C /usr/bin/sym'],
  },
  'new hard links': {
    script: 'echo shared > first; ln first second; mkdir new; ln second new/third; ln -s x s; ln -P s s2',
    changes: ['A /first', 'A /new', 'A /new/third', 'A /s', 'A /s2', 'A /second'],
  },
  'a hard link to a file of the image': {
    script: 'ln etc/one etc/uno; ln large usr/lib/large',
    changes: ['C /etc', 'C /etc/one', 'A /etc/uno', 'C /large', 'C /usr', 'C /usr/lib', 'A /usr/lib/large'],
  },
  'one name of a linked file removed': {
    script: 'rm usr/bin/alias',
    changes: ['C /usr', 'C /usr/bin', 'D /usr/bin/alias'],
    links: true,
  },
  'one name of a linked file replaced': {
    script: 'rm usr/bin/alias; echo own > usr/bin/alias',
    changes: ['C /usr', 'C /usr/bin', 'C /usr/bin/alias'],
    links: true,
  },
  'files renamed': {
    script: 'mv etc/one etc/uno; mv etc/two usr/lib/x; mv large usr/large',
    changes: [
      'C /etc',
      'D /etc/one',
      'D /etc/two',
      'A /etc/uno',
      'D /large',
      'C /usr',
      'A /usr/large',
      'C /usr/lib',
      'C /usr/lib/x',
    ],
  },
  'files exchanged': {
    script: 'mv etc/one tmp; mv etc/two etc/one; mv tmp etc/two',
    changes: ['C /etc', 'C /etc/one', 'C /etc/two'],
  },
  'a new directory renamed': {
    script: 'mkdir -p a/b; echo x > a/b/c; mv a z; mv z/b z/bb; mv z var/empty/moved',
    changes: ['C /var', 'C /var/empty', 'A /var/empty/moved', 'A /var/empty/moved/bb', 'A /var/empty/moved/bb/c'],
  },
  'a directory of the image renamed': {
    script: 'mv usr/lib usr/share',
    changes: [
      'C /usr',
      'D /usr/lib',
      'A /usr/share',
      'A /usr/share/sub',
      'A /usr/share/sub/deep',
      'A /usr/share/sub/later',
      'A /usr/share/x',
      'A /usr/share/y',
      'A /usr/share/z',
    ],
    renames: true,
  },
  'a directory of the image renamed, changed and renamed again': {
    script:
      'mv usr/lib usr/share; rm usr/share/x; echo new > usr/share/y; mv usr/share/sub usr/share/tub; mv usr/share opt; mkdir usr/lib; echo other > usr/lib/x',
    changes: [
      'A /opt',
      'A /opt/tub',
      'A /opt/tub/deep',
      'A /opt/tub/later',
      'A /opt/y',
      'A /opt/z',
      'C /usr',
      'C /usr/lib',
      'D /usr/lib/sub',
      'C /usr/lib/x',
      'D /usr/lib/y',
      'D /usr/lib/z',
    ],
    renames: true,
  },
  'two directories of the image exchanged': {
    script: 'mv etc tmp; mv var etc; mv tmp var',
    changes: [
      'C /etc',
      'D /etc/conf.d',
      'A /etc/empty',
      'D /etc/one',
      'A /etc/pipe',
      'D /etc/three',
      'D /etc/two',
      'C /var',
      'A /var/conf.d',
      'A /var/conf.d/a',
      'A /var/conf.d/b',
      'D /var/empty',
      'A /var/one',
      'D /var/pipe',
      'A /var/three',
      'A /var/two',
    ],
    renames: true,
  },
  'two directories of the image exchanged that look the same': {
    // XFS dates a directory that overlay exchanges with a whiteout, so that the container sees another time: it is set.
    script: 'mv twins/left t; mv twins/right twins/left; mv t twins/right; touch -d @1200000000 twins/*',
    changes: ['C /twins', 'C /twins/left', 'C /twins/left/same', 'C /twins/right', 'C /twins/right/same'],
    renames: true,
  },
  'names that sort around a slash': {
    script: 'mkdir usr.d usr-x usr0; touch usr.d/a usr-x/b usr0/c usr/lib/n usr/lib.d',
    changes: [
      'C /usr',
      'A /usr-x',
      'A /usr-x/b',
      'A /usr.d',
      'A /usr.d/a',
      'C /usr/lib',
      'A /usr/lib.d',
      'A /usr/lib/n',
      'A /usr0',
      'A /usr0/c',
    ],
  },
  'a directory removed and made again': {
    script: 'rm -r usr/lib; mkdir usr/lib; echo new > usr/lib/x; mkdir usr/lib/sub',
    changes: [
      'C /usr',
      'C /usr/lib',
      'C /usr/lib/sub',
      'D /usr/lib/sub/deep',
      'D /usr/lib/sub/later',
      'C /usr/lib/x',
      'D /usr/lib/y',
      'D /usr/lib/z',
    ],
  },
  'a directory replaced by a file, a file by a directory': {
    script:
      'rm -r etc/conf.d; echo file > etc/conf.d; rm large; mkdir large; echo x > large/x; rm etc/one; mkdir etc/one',
    changes: ['C /etc', 'C /etc/conf.d', 'C /etc/one', 'C /large', 'A /large/x'],
  },
  'everything removed': { script: 'rm -rf ./*', changes: ['D /etc', 'D /large', 'D /twins', 'D /usr', 'D /var'] },
  'names that are no text': {
    script: String.raw`touch "$(printf 'a\377b')" "$(printf 'new\nline')" ' space ' -- -rf; mkdir "$(printf '\360\237\230')"; touch "$(printf 'n%0254d' 0)"`,
    changes: [
      'A / space ',
      'A /-rf',
      String.raw`A /a\xffb`,
      `A /n${'0'.repeat(254)}`,
      String.raw`A /new\x0aline`,
      String.raw`A /\xf0\x9f\x98`,
    ],
  },
  'a name of 255 bytes removed': {
    script: `mv etc/one etc/${'m'.repeat(255)}; rm etc/${'m'.repeat(255)}`,
    changes: ['C /etc', 'D /etc/one'],
  },
};
