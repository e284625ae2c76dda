/** Stacks of layers that every driver shows as the model says, each the name of what it is about. */
import type { EntrySpec } from '../model/spec.js';
import { device, dir, fifo, file, link, opaque, symlink, whiteout, xattrs } from './entries.js';

/** cap_net_raw+ep, as the kernel keeps it. */
const CAPABILITY = Buffer.from('0100000200200000000000000000000000000000', 'hex');
/** u::rw-, u:1000:r--, g::r--, m::r--, o::--- : linux/posix_acl_xattr.h. */
const ACL = Buffer.from(
  ['02000000', '01000600ffffffff', '02000400e8030000', '04000400ffffffff', '10000400ffffffff', '20000000ffffffff'].join(
    '',
  ),
  'hex',
);
const LATE = { mtime: { sec: 1_600_000_000, nsec: 123_456_789 } };
const EARLY = { mtime: { sec: -77, nsec: 1 } };
const LONG = 'n'.repeat(255);

const BASE: EntrySpec[] = [
  dir('d', { mode: 0o750, uid: 3, gid: 4, ...LATE }),
  file('d/a', 'a of base'),
  file('d/b', 'b of base'),
  dir('d/sub'),
  file('d/sub/c', 'c of base'),
  file('top', 'top of base'),
];

export const STACKS: Record<string, EntrySpec[][]> = {
  'no layer': [],
  'a layer of nothing': [[]],
  'every kind of file': [
    [
      dir('.', { mode: 0o711, uid: 5, gid: 6, ...LATE }),
      file('empty'),
      file('small', 'x'.repeat(511)),
      file('block', 'y'.repeat(4096)),
      file('large', Buffer.alloc(1_500_000, 'layers ')),
      symlink('link', 'large', { uid: 7, gid: 8, ...LATE }),
      symlink('dangling', `/${'far/'.repeat(200)}away`),
      fifo('fifo', { mode: 0o640, ...EARLY }),
      device('null', 'char', 1, 3),
      device('disk', 'block', 259, 200_000),
    ],
  ],
  attributes: [
    [
      file('setuid', '#!', { mode: 0o4755, uid: 1000, gid: 1000, ...LATE }),
      file('nothing', 'allowed', { mode: 0, ...EARLY }),
      dir('sticky', { mode: 0o1777, uid: 65_534, gid: 4_294_967_294 }),
      dir('locked', { mode: 0, ...LATE }),
      file('locked/inside', 'still there'),
      dir('setgid', { mode: 0o2755, gid: 50 }),
      file('setgid/own', 'group', { gid: 0 }),
      dir('setgid/below'),
    ],
  ],
  'extended attributes': [
    [
      file('capable', 'prog', { mode: 0o755, ...xattrs({ 'security.capability': CAPABILITY }) }),
      file(
        'noted',
        'text',
        xattrs({ 'user.note': 'hello', 'user.binary': Buffer.from([0, 255, 10]), 'user.empty': '' }),
      ),
      file('acl', 'text', { mode: 0o640, ...xattrs({ 'system.posix_acl_access': ACL }) }),
      dir('noted-dir', xattrs({ 'user.note': 'on a directory', 'trusted.mine': 'root only' })),
      symlink('noted-link', 'noted', xattrs({ 'trusted.mine': 'on a link' })),
      fifo('noted-fifo', xattrs({ 'trusted.mine': 'on a fifo' })),
    ],
    [file('noted', 'text without', xattrs({ 'user.other': 'new' })), dir('noted-dir', xattrs({ 'user.late': 'only' }))],
  ],
  'attributes of the root': [
    [dir('.', { mode: 0o700, uid: 9, gid: 9, ...LATE }), file('a')],
    [file('b')],
    [dir('.', { mode: 0o1755, ...EARLY }), file('c')],
    [file('d')],
  ],
  'extended attributes of the root': [
    [dir('.', { mode: 0o711, ...xattrs({ 'user.root': 'base' }) }), file('a')],
    [file('b')],
  ],
  'attributes of the root taken back': [
    [dir('.', { mode: 0o711, ...xattrs({ 'user.root': 'base', 'user.more': 'x' }) }), file('a')],
    [dir('.', { mode: 0o755, ...xattrs({ 'user.root': 'new' }) })],
  ],
  'hard links': [
    [
      file('first', 'shared', { mode: 0o4711, ...LATE }),
      link('second', 'first'),
      dir('deep/er'),
      link('deep/er/third', 'second'),
      symlink('sym', 'first'),
      link('sym2', 'sym'),
      fifo('pipe'),
      link('pipe2', 'pipe'),
    ],
    [file('second', 'replaced'), whiteout('sym')],
  ],
  'a hard link whose target is replaced in its layer': [
    [file('a', 'one'), link('b', 'a'), file('a', 'two'), link('c', 'a'), link('b', 'c')],
  ],
  'whiteouts of a file, a directory and what is not there': [
    BASE,
    [whiteout('top'), whiteout('d/sub'), whiteout('nothing'), whiteout('new/below')],
    [file('d/sub', 'a file now')],
  ],
  'a whiteout and what comes again': [BASE, [whiteout('d')], [dir('d'), file('d/new', 'alone')]],
  'a whiteout before its own file': [BASE, [whiteout('top'), file('top', 'own')]],
  'a whiteout behind its own directory': [BASE, [dir('d'), file('d/new'), whiteout('d')]],
  'a whiteout where a directory is implied later': [BASE, [whiteout('d'), file('d/x/y', 'implied')]],
  'a whiteout of a directory that was implied before': [BASE, [file('d/x/y', 'implied'), whiteout('d')]],
  'opaque marker first': [BASE, [opaque('d'), dir('d', { mode: 0o700 }), file('d/new'), dir('d/sub')]],
  'opaque marker in the middle': [BASE, [dir('d', { mode: 0o700 }), file('d/b', 'new'), opaque('d'), dir('d/sub')]],
  'opaque marker last': [BASE, [dir('d'), file('d/sub/new', 'implied'), opaque('d')]],
  'opaque marker alone': [BASE, [opaque('d')]],
  'opaque marker where nothing is below': [[file('x')], [dir('d'), file('d/a'), opaque('d')], [file('d/b')]],
  'opaque root, marker first': [BASE, [opaque(''), file('only')]],
  'opaque root, marker last': [BASE, [file('top', 'only'), opaque('')], [file('later')]],
  'opaque root twice': [BASE, [opaque(''), dir('d'), file('d/x')], [opaque(''), file('d/y')]],
  'other reserved names': [[file('.wh..wh.plnk/12.34', 'aufs'), file('.wh..wh.aufs'), file('x'), dir('.wh..wh.orph')]],
  'file over directory over file': [
    [file('x', 'file')],
    [dir('x'), file('x/inside')],
    [file('x', 'file again')],
    [dir('x'), file('x/other')],
  ],
  'symbolic link over directory, directory over symbolic link': [
    [dir('a'), file('a/f', 'below'), symlink('b', 'a')],
    [symlink('a', '/b'), dir('b'), file('b/g')],
  ],
  'a name twice, the last wins': [
    [
      file('x', 'first'),
      file('x', 'second'),
      dir('y'),
      file('y/a', 'in a directory'),
      file('y', 'a file'),
      file('z', 'file'),
      dir('z', { mode: 0o700 }),
      file('z/in'),
      dir('z', { mode: 0o711, ...LATE }),
      symlink('s', 'one'),
      symlink('s', 'two'),
      file('long', Buffer.alloc(70_000, 1)),
      fifo('long'),
    ],
  ],
  'a directory replaced that holds both names of an inode': [
    [dir('y'), file('y/a', 'payload'), link('y/b', 'y/a'), file('y', 'a file')],
  ],
  'a directory replaced whose file lives on elsewhere': [
    [dir('y'), file('y/a', 'payload'), link('keep', 'y/a'), symlink('y', 'keep')],
  ],
  'ways that lead through symbolic links of the layer': [
    [
      dir('usr/lib'),
      symlink('lib', 'usr/lib'),
      file('lib/x', 'through the link'),
      symlink('abs', '/usr'),
      file('abs/y'),
    ],
    [file('lib/z', 'a directory of its own here')],
  ],
  'odd ways of writing a path': [[file('./a'), file('/b'), dir('./c/'), file('c/../d'), file('c//e')]],
  'implied directories': [
    [
      dir('a', { mode: 0o700, uid: 1, gid: 2, ...LATE, ...xattrs({ 'user.kept': 'yes' }) }),
      dir('a/b', { mode: 0o750 }),
    ],
    [file('a/b/c/d', 'two inherited, one not')],
    [file('a/b/c/e'), file('new/f')],
    [dir('new', { mode: 0o711 })],
    [file('new/g')],
  ],
  'implied directories over whiteouts and opaque directories': [
    [
      dir('a', { mode: 0o700, ...LATE }),
      dir('a/b', { mode: 0o711 }),
      dir('o', { mode: 0o700 }),
      dir('o/p', { mode: 0o711 }),
    ],
    [whiteout('a/b'), opaque('o')],
    [file('a/b/c'), file('o/p/q')],
  ],
  names: [
    [
      file(LONG, 'name of 255 bytes'),
      dir('d'.repeat(255)),
      file(`${'d'.repeat(255)}/${'e'.repeat(255)}`),
      file(Buffer.from('not utf8 \xff\xfe', 'latin1'), 'bytes'),
      file('new\nline', 'x'),
      file(' leading and trailing '),
      file('tab\tand "quotes" \'and\' \\ backslash'),
      file('-rf'),
      file('*?[a]'),
      file('ümläut'),
      file('.wh'),
      file('wh.x'),
      file('a:b,c=d'),
    ],
    [whiteout(LONG), whiteout('new\nline')],
  ],
  '3,000 names in one directory': [
    Array.from({ length: 3000 }, (_, index) => file(`many/file-${index}`, `${index}`)),
    Array.from({ length: 300 }, (_, index) => whiteout(`many/file-${index * 10}`)),
  ],
};

/** What not every file system can hold; where it cannot, the file that begins with this is refused by name. */
export const AT_THE_LIMITS: Record<string, { contents: EntrySpec[][]; refused: string }> = {
  'a path beyond PATH_MAX': {
    contents: [
      [file(`${`${'p'.repeat(200)}/`.repeat(25)}end`, 'far down')],
      [file(`${`${'p'.repeat(200)}/`.repeat(24)}other`, 'nearly as far')],
    ],
    refused: 'pppp',
  },
  'a symbolic link of 4,095 bytes': { contents: [[symlink('long', `/${'far/'.repeat(1023)}aw`)]], refused: 'long' },
  'a device with the largest numbers': { contents: [[device('dev', 'block', 4095, 1_048_575)]], refused: 'dev' },
};

/** Things that steer overlay where they reach it. */
export const HOSTILE: EntrySpec[][] = [
  [dir('d'), file('d/below', 'must stay'), file('f', 'must stay'), dir('r'), file('r/x', 'must stay')],
  [
    dir('d', xattrs({ 'trusted.overlay.opaque': 'y', 'user.overlay.opaque': 'y' })),
    device('f', 'char', 0, 0),
    device('g', 'char', 0, 0),
    file('h', '', xattrs({ 'trusted.overlay.whiteout': 'y', 'user.overlay.whiteout': 'y' })),
    dir('moved', xattrs({ 'trusted.overlay.redirect': '/r', 'user.overlay.redirect': '/r' })),
    file('meta', 'own bytes', xattrs({ 'trusted.overlay.metacopy': '', 'trusted.overlay.redirect': '/d/below' })),
    dir('.', xattrs({ 'trusted.overlay.opaque': 'y' })),
    dir('w', xattrs({ 'trusted.overlay.opaque': 'x' })),
  ],
];
