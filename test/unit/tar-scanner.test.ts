import { describe, expect, it } from 'vitest';
import { bytesOf } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import { TarScanner } from '../../src/tar/scanner.js';
import type { TarEntry, TarLimits } from '../../src/tar/entry.js';
import { END, archive, block, extension, latin1, only, padded, records, scan } from './tar-kit.js';

/** The error that scanning these bytes ends with. */
function refusal(bytes: Buffer, limits?: Partial<TarLimits>): LayerdError {
  try {
    scan(bytes, undefined, limits);
  } catch (thrown) {
    if (thrown instanceof LayerdError) return thrown;
    throw thrown;
  }
  throw new Error('was accepted');
}

function base256(value: bigint, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let rest = BigInt.asUintN(length * 8, value);
  for (let i = length - 1; i >= 0; i--, rest >>= 8n) bytes[i] = Number(rest & 0xffn);
  bytes[0] = (bytes[0] ?? 0) | 0x80;
  return bytes;
}

function pax(...pairs: Parameters<typeof records>): Buffer {
  return extension('x', records(...pairs));
}

/** An old GNU sparse map, or a part of it. */
function oldMap(...numbers: number[]): string {
  return numbers.map((number) => `${number.toString(8).padStart(11, '0')}\0`).join('');
}

describe('headers', () => {
  it('tells all fields of an entry, and where it lies', () => {
    const before = Buffer.concat([block({ name: 'first', size: 700 }), padded(Buffer.alloc(700, 1))]);
    const { entries, payloads, summary } = scan(
      archive(
        before,
        block({
          name: 'dir/second',
          mode: '0104755\0',
          uid: '0001750\0',
          gid: '0000144\0',
          size: 5,
          mtime: '14371573061\0',
        }),
        padded('hello'),
      ),
    );
    expect(entries[1]).toEqual({
      type: 'file',
      path: latin1('dir/second'),
      linkPath: latin1(''),
      mode: 0o4755,
      uid: 1000,
      gid: 100,
      size: 5,
      mtime: { sec: 0o14371573061, nsec: 0 },
      devMajor: 0,
      devMinor: 0,
      xattrs: null,
      sparse: null,
      headerOffset: before.length,
      dataOffset: before.length + 512,
      storedSize: 5,
    } satisfies TarEntry);
    expect(payloads[1]?.toString()).toBe('hello');
    expect(summary).toEqual({ entries: 2, bytes: before.length + 1024 + 1024, endMarker: true });
  });

  it.each([
    ['0', 'file'],
    ['\0', 'file'],
    ['7', 'file'],
    ['1', 'hardlink'],
    ['2', 'symlink'],
    ['3', 'char'],
    ['4', 'block'],
    ['5', 'directory'],
    ['6', 'fifo'],
  ])('the flag %j means %s', (flag, type) => {
    expect(only(block({ flag, linkName: 'target' })).type).toBe(type);
  });

  it('takes an old regular file whose name ends in a slash for a directory, but not one of flag 0', () => {
    expect(only(block({ flag: '\0', name: 'dir/', size: 5 })).type).toBe('directory');
    expect(only(block({ flag: '0', name: 'dir/' })).type).toBe('file');
    const long = extension('L', 'also/by/long/name/\0');
    expect(only(long, block({ flag: '\0' })).type).toBe('directory');
  });

  it('gives links, directories, devices and fifos no payload, whatever size they state', () => {
    for (const flag of ['1', '2', '3', '4', '5', '6']) {
      const { entries } = scan(archive(block({ flag, linkName: 'x', size: 4096 }), block({ name: 'next' })));
      expect(entries.map(({ size, storedSize }) => [size, storedSize])).toEqual([
        [0, 0],
        [0, 0],
      ]);
    }
    expect(only(block({ flag: '5', size: base256(-1n, 12) })).size).toBe(0);
  });

  it('keeps a link target for links only', () => {
    expect(only(block({ flag: '2', linkName: '../target' })).linkPath).toBe('../target');
    expect(only(block({ flag: '0', linkName: 'residue' })).linkPath).toBe('');
  });

  it('joins the prefix of ustar and star, but of neither v7 nor GNU', () => {
    const at = { 345: 'some/prefix' };
    expect(only(block({ at })).path).toBe('some/prefix/file');
    expect(only(block({ magic: 'ustar\x0000', at: { ...at, 508: 'tar\0' } })).path).toBe('some/prefix/file');
    expect(only(block({ magic: '', at })).path).toBe('file');
    const times = { 345: '14371573061\x0014371573061\0' };
    expect(only(block({ magic: 'ustar  \0', at: times })).path).toBe('file');
  });

  it('takes the prefix that Go before 1.8 wrote into GNU headers, where it cannot be times', () => {
    expect(only(block({ magic: 'ustar  \0', at: { 345: 'some/prefix' } })).path).toBe('some/prefix/file');
    expect(only(block({ magic: 'ustar  \0', at: { 345: 'non-ascii/\xe9' } })).path).toBe('file');
  });

  it('reads names that fill their fields, and any bytes', () => {
    const name = '\x01\x7f\xff\xe9 "\\\n'.padEnd(100, 'n');
    const entry = only(block({ name, flag: '2', linkName: 'l'.repeat(100), at: { 345: 'p'.repeat(155) } }));
    expect(entry.path).toBe(`${'p'.repeat(155)}/${name}`);
    expect(entry.linkPath).toBe('l'.repeat(100));
  });

  it('reads device numbers of devices only', () => {
    const numbers = { devMajor: '0000010\0', devMinor: '0000003\0' };
    expect(only(block({ flag: '3', ...numbers }))).toMatchObject({ devMajor: 8, devMinor: 3 });
    expect(only(block({ flag: '4', ...numbers }))).toMatchObject({ devMajor: 8, devMinor: 3 });
    expect(only(block({ flag: '0', ...numbers }))).toMatchObject({ devMajor: 0, devMinor: 0 });
    expect(only(block({ flag: '3', magic: '', ...numbers }))).toMatchObject({ devMajor: 0, devMinor: 0 });
  });

  it('reads GNU base-256 numbers, a time before 1970 among them', () => {
    const entry = only(block({ uid: base256(3_000_000n, 8), gid: base256(5n, 8), mtime: base256(-86400n, 12) }));
    expect(entry).toMatchObject({ uid: 3_000_000, gid: 5, mtime: { sec: -86400, nsec: 0 } });
  });

  it('takes a checksum over unsigned and over signed bytes', () => {
    const name = 'caf\xe9';
    const sum = block({ name, checksum: '        ' }).reduce((total, byte) => total + byte, 0);
    expect(only(block({ name, checksum: `${sum.toString(8)} \0` })).path).toBe(name);
    expect(only(block({ name, checksum: `${(sum - 256).toString(8)} \0` })).path).toBe(name);
    expect(refusal(archive(block({ name, checksum: `${(sum - 255).toString(8)} \0` }))).code).toBe('TAR_INVALID');
  });
});

describe('what a header may not say', () => {
  it.each<[string, Parameters<typeof block>[0], string, RegExp]>([
    ['a wrong checksum', { checksum: '000001\0 ' }, 'TAR_INVALID', /checksum .* states 1, the sum is \d+/],
    ['a checksum of all bytes but one', { checksum: 'xxxxxxxx' }, 'TAR_INVALID', /states no number/],
    ['an unknown flag', { flag: 'V' }, 'TAR_UNSUPPORTED', /flag "V"/],
    ['letters for a mode', { mode: 'rw-r--r-' }, 'TAR_INVALID', /field mode/],
    ['letters for a size', { size: 'many bytes..' }, 'TAR_INVALID', /field size/],
    ['a negative size', { size: base256(-512n, 12) }, 'TAR_INVALID', /size is negative: -512/],
    ['a negative mode', { mode: base256(-1n, 8) }, 'TAR_INVALID', /mode is negative/],
    ['a negative uid', { uid: base256(-2n, 8) }, 'TAR_INVALID', /uid is negative: -2/],
    ['a negative gid', { gid: base256(-2n, 8) }, 'TAR_INVALID', /gid is negative/],
    ['a uid that means none', { uid: base256(0xffff_ffffn, 8) }, 'TAR_UNSUPPORTED', /uid 4294967295/],
    ['a gid beyond 32 bits', { gid: base256(1n << 40n, 8) }, 'TAR_UNSUPPORTED', /gid 1099511627776/],
    ['a size of 8 EiB', { size: base256((1n << 63n) - 1n, 12) }, 'TAR_INVALID', /field size/],
    ['an empty name', { name: '' }, 'TAR_INVALID', /path is empty/],
    ['an empty link target', { flag: '2' }, 'TAR_INVALID', /link target is empty/],
    ['a major number of 13 bits', { flag: '3', devMajor: '0010000\0' }, 'TAR_UNSUPPORTED', /major device number 4096/],
    ['a minor number of 21 bits', { flag: '4', devMinor: '4000000\0' }, 'TAR_UNSUPPORTED', /minor device number/],
    ['letters for a device of a file', { devMinor: 'residue' }, 'TAR_INVALID', /field devMinor/],
    ['a sparse file of star', { flag: 'S', at: { 508: 'tar\0' } }, 'TAR_UNSUPPORTED', /format star/],
  ])('%s', (_, fields, code, message) => {
    const good = block({ name: 'good' });
    const error = refusal(archive(good, block(fields)));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expect(error.message).toMatch(/^tar entry 2 .*at offset 512: /);
    expect(error.details).toMatchObject({ entry: 2, offset: 512 });
    expect(error.hint).not.toBe('');
  });

  it('names the entry by its bytes, escaped', () => {
    const error = refusal(archive(extension('L', 'long\xffname\n\0'), block({ flag: 'V' })));
    expect(error.message).toContain('tar entry 1 (long\\xc3\\xbfname\\x0a) at offset 1024');
  });
});

describe('PAX headers', () => {
  it('override what the header block says', () => {
    const entry = only(
      pax(['path', 'a/ä=\n.txt'], ['uid', '3000000'], ['gid', '4000000'], ['mtime', '-0.25'], ['size', '3']),
      block({ size: 700 }),
      padded('abc'),
    );
    expect(entry).toMatchObject({
      path: bytesOf('a/ä=\n.txt'),
      uid: 3_000_000,
      gid: 4_000_000,
      size: 3,
      storedSize: 3,
    });
    expect(entry.mtime).toEqual({ sec: -1, nsec: 750_000_000 });
    expect(entry.headerOffset).toBe(0);
    expect(entry.dataOffset).toBe(1536);
  });

  it('give a link its target', () => {
    expect(only(pax(['linkpath', 'elsewhere']), block({ flag: '2', linkName: 'x' })).linkPath).toBe('elsewhere');
  });

  it('hold for one entry only', () => {
    const { entries } = scan(archive(pax(['path', 'first']), block(), block({ name: 'second' })));
    expect(entries.map(({ path }) => path)).toEqual(['first', 'second']);
  });

  it('take a record back by an empty value, and keep the last of several', () => {
    expect(only(pax(['path', 'pax'], ['path', '']), block()).path).toBe('file');
    expect(only(pax(['path', 'one'], ['path', 'two']), block()).path).toBe('two');
  });

  it('replace the PAX header before, as archive/tar has it', () => {
    expect(only(pax(['path', 'one'], ['uid', '7']), pax(['gid', '8']), block())).toMatchObject({
      path: 'file',
      uid: 0,
      gid: 8,
      headerOffset: 0,
    });
  });

  it('that are global mean nothing, and end what came before', () => {
    const global = extension('g', records(['path', 'global'], ['comment', 'git']));
    const { entries } = scan(archive(pax(['path', 'lost']), global, block(), block({ name: 'second' })));
    expect(entries.map(({ path }) => path)).toEqual(['file', 'second']);
    expect(entries[0]?.headerOffset).toBe(2048);
  });

  it('carry extended attributes as bytes, empty ones too', () => {
    const value = Buffer.from([0, 1, 0x0a, 0x3d, 0xff]);
    const { xattrs } = only(pax(['SCHILY.xattr.user.x', value], ['SCHILY.xattr.user.empty', '']), block());
    expect(xattrs).toEqual(
      new Map([
        [latin1('user.x'), value],
        [latin1('user.empty'), Buffer.alloc(0)],
      ]),
    );
  });

  it('take LIBARCHIVE.xattr where there is no SCHILY.xattr of the name', () => {
    const { xattrs } = only(
      pax(
        ['LIBARCHIVE.xattr.user.both', Buffer.from('no').toString('base64')],
        ['SCHILY.xattr.user.both', 'yes'],
        ['LIBARCHIVE.xattr.user.a%3Db%20c', 'AAEC/w'],
      ),
      block(),
    );
    expect(xattrs).toEqual(
      new Map([
        [latin1('user.both'), Buffer.from('yes')],
        [latin1('user.a=b c'), Buffer.from([0, 1, 2, 255])],
      ]),
    );
  });

  it.each<[string, Buffer, RegExp]>([
    ['a length beyond the header', Buffer.from('99 path=x\n'), /record at byte 0/],
    ['a length that is short', Buffer.from('9 path=xx\n'), /record at byte 0/],
    ['no length', Buffer.from('path=x\n'), /record at byte 0/],
    ['a length of nothing but itself', Buffer.from('3 \n'), /record at byte 0/],
    ['an endless length', Buffer.from(`${'9'.repeat(400)} path=x\n`), /record at byte 0/],
    ['no "="', Buffer.from('9 path x\n'), /no "="/],
    ['a "=" of the next record', Buffer.from('9 path x\n10 uid=12\n'), /no "="/],
    ['no key', records(['', 'x']), /bad key/],
    ['a NUL in a key', records(['pa\0th', 'x']), /bad key/],
    ['a second record that lies', Buffer.concat([records(['uid', '1']), Buffer.from('5 x\n')]), /record at byte 8/],
    ['a NUL in a path', records(['path', 'a\0b']), /path holds a NUL/],
    ['a NUL in a link target', records(['linkpath', 'a\0b']), /linkpath holds a NUL/],
    ['a NUL in a user name', records(['uname', 'a\0b']), /uname holds a NUL/],
    ['a size of 8 EiB', records(['size', '9223372036854775807']), /size is not a number/],
    ['a negative size', records(['size', '-1']), /size is negative/],
    ['a negative uid', records(['uid', '-1']), /uid is negative/],
    ['a hexadecimal gid', records(['gid', '0x10']), /gid is not a number/],
    ['a time that is none', records(['mtime', '12:00']), /mtime is not a number/],
    ['an xattr without a name', records(['SCHILY.xattr.', 'x']), /bad name/],
    ['an xattr with a NUL in its name', records(['LIBARCHIVE.xattr.a%00b', 'eA']), /bad name/],
    ['an xattr that is not base64', records(['LIBARCHIVE.xattr.user.a', 'a b']), /base64/],
  ])('may not have %s', (_, body, message) => {
    const error = refusal(archive(extension('x', body), block()));
    expect(error.code).toBe('TAR_INVALID');
    expect(error.message).toMatch(message);
  });

  it('that are global are read all the same, and may not lie', () => {
    expect(refusal(archive(extension('g', '99 comment=x\n'), block())).code).toBe('TAR_INVALID');
  });

  it('must have an entry behind them', () => {
    expect(refusal(archive(pax(['path', 'x']))).message).toMatch(/no entry behind it/);
    const cut = refusal(pax(['path', 'x']));
    expect(cut.code).toBe('TAR_TRUNCATED');
    expect(cut.message).toMatch(/only extension headers/);
  });
});

describe('GNU long names', () => {
  it('end at the first NUL, and go before a PAX path', () => {
    const entry = only(
      extension('x', records(['path', 'pax'], ['linkpath', 'paxlink'])),
      extension('K', 'target\0residue'),
      extension('L', 'name\0residue'),
      block({ flag: '2' }),
    );
    expect(entry).toMatchObject({ path: 'name', linkPath: 'target', headerOffset: 0 });
  });

  it('that are empty mean nothing', () => {
    expect(only(extension('L', ''), extension('K', '\0'), block({ flag: '2', linkName: 'x' }))).toMatchObject({
      path: 'file',
      linkPath: 'x',
    });
  });
});

describe('sparse files', () => {
  it('of old GNU tar hold the map in the header', () => {
    const header = block({
      flag: 'S',
      magic: 'ustar  \0',
      size: 6,
      at: { 386: oldMap(512, 2, 4096, 4), 483: oldMap(8192) },
    });
    const { entries, payloads } = scan(archive(header, padded('abcdef')));
    expect(entries[0]).toMatchObject({ type: 'file', size: 8192, storedSize: 6, dataOffset: 512 });
    expect(entries[0]?.sparse).toEqual([
      { offset: 512, length: 2 },
      { offset: 4096, length: 4 },
    ]);
    expect(payloads[0]?.toString()).toBe('abcdef');
  });

  it('of old GNU tar go on in blocks of their own', () => {
    const segments = Array.from({ length: 30 }, (_, i) => ({ offset: i * 1000, length: 1 }));
    const pairs = segments.map(({ offset, length }) => oldMap(offset, length));
    const header = block({
      flag: 'S',
      magic: 'ustar  \0',
      size: 30,
      at: { 386: pairs.slice(0, 4).join(''), 482: '\x01', 483: oldMap(29_001) },
    });
    const extra = (from: number, more: string): Buffer => {
      const bytes = Buffer.alloc(512);
      bytes.write(pairs.slice(from, from + 21).join(''), 0, 'latin1');
      bytes.write(more, 504, 'latin1');
      return bytes;
    };
    const { entries, raw } = scan(archive(header, extra(4, '\x01'), extra(25, '\0'), padded('x'.repeat(30))), [100]);
    expect(entries[0]?.sparse).toEqual(segments);
    expect(entries[0]?.dataOffset).toBe(1536);
    expect(raw.length).toBe(1536 + 482 + 1024);
  });

  const oldRecords = [
    ['GNU.sparse.size', '1000'],
    ['GNU.sparse.numblocks', '2'],
  ] as const;
  const newRecords = [
    ['GNU.sparse.major', '1'],
    ['GNU.sparse.minor', '0'],
    ['GNU.sparse.name', 'real/name'],
    ['GNU.sparse.realsize', '1000'],
  ] as const;
  const twoSegments = [
    { offset: 100, length: 3 },
    { offset: 900, length: 2 },
  ];

  it('of PAX 0.0 have a record per number', () => {
    const body = records(
      ...oldRecords,
      ['GNU.sparse.offset', '100'],
      ['GNU.sparse.numbytes', '3'],
      ['GNU.sparse.offset', '900'],
      ['GNU.sparse.numbytes', '2'],
    );
    const entry = only(extension('x', body), block({ size: 5 }), padded('abcde'));
    expect(entry).toMatchObject({ size: 1000, storedSize: 5, sparse: twoSegments });
  });

  it('of PAX 0.1 have one record for the map, and the name in another', () => {
    const body = records(...oldRecords, ['GNU.sparse.name', 'real/name'], ['GNU.sparse.map', '100,3,900,2']);
    const entry = only(extension('x', body), block({ size: 5 }), padded('abcde'));
    expect(entry).toMatchObject({ path: 'real/name', size: 1000, storedSize: 5, sparse: twoSegments });
  });

  it('of PAX 1.0 have the map before the data, which is not payload then', () => {
    const header = extension('x', records(...newRecords));
    const tar = archive(header, block({ size: 517 }), padded('2\n100\n3\n900\n2\n'), padded('abcde'));
    for (const chunk of [tar.length, 1, 513]) {
      const { entries, payloads, all } = scan(tar, [chunk]);
      expect(entries[0]).toMatchObject({ path: 'real/name', size: 1000, storedSize: 5, dataOffset: 2048 });
      expect(entries[0]?.sparse).toEqual(twoSegments);
      expect(payloads[0]?.toString()).toBe('abcde');
      expect(all.equals(tar)).toBe(true);
    }
  });

  it('may be one hole', () => {
    const entry = only(extension('x', records(...newRecords)), block({ size: 512 }), padded('1\n1000\n0\n'));
    expect(entry).toMatchObject({ size: 1000, storedSize: 0, sparse: [] });
    expect(only(extension('x', records(...newRecords)), block({ size: 512 }), padded('0\n'))).toMatchObject({
      size: 1000,
      sparse: [],
    });
  });

  it.each<[string, string, number, RegExp]>([
    ['segments out of order', '2\n900\n2\n100\n3\n', 517, /not in order/],
    ['segments that overlap', '2\n100\n3\n102\n2\n', 517, /not in order/],
    ['a segment beyond the end', '1\n998\n5\n', 517, /beyond the end of the file/],
    ['a map for other than the payload', '1\n100\n4\n', 517, /4 stored bytes, the header of 5/],
    ['letters', '1\nabc\n5\n', 517, /not a number/],
    ['a negative number', '1\n-1\n5\n', 517, /not a number/],
    ['an empty line', '1\n\n5\n', 517, /empty line/],
    ['a number of 16 digits and more', '1\n99999999999999999\n5\n', 517, /not a number/],
    ['more segments than the payload can hold', `300\n${'0\n'.repeat(254)}`, 512, /beyond the payload/],
    ['no payload to lie in', '', 0, /beyond the payload/],
  ])('may not have %s', (_, text, size, message) => {
    const error = refusal(
      archive(extension('x', records(...newRecords)), block({ size }), padded(text), Buffer.alloc(512)),
    );
    expect(error).toMatchObject({ code: 'TAR_INVALID' });
    expect(error.message).toMatch(message);
  });

  it.each<[string, Parameters<typeof records>, string]>([
    ['numbers out of turn', [['GNU.sparse.numbytes', '1']], 'TAR_INVALID'],
    ['fewer numbers than blocks', [...oldRecords, ['GNU.sparse.map', '1,2']], 'TAR_INVALID'],
    ['an odd map', [...oldRecords, ['GNU.sparse.map', '100,3,900']], 'TAR_INVALID'],
    ['an empty number', [...oldRecords, ['GNU.sparse.map', '100,3,900,']], 'TAR_INVALID'],
    [
      'a negative size',
      [
        ['GNU.sparse.size', '-1'],
        ['GNU.sparse.numblocks', '0'],
        ['GNU.sparse.major', '0'],
        ['GNU.sparse.minor', '1'],
      ],
      'TAR_INVALID',
    ],
    ['a NUL in the name', [...newRecords, ['GNU.sparse.name', 'a\0b']], 'TAR_INVALID'],
    [
      'an unknown version',
      [
        ['GNU.sparse.major', '2'],
        ['GNU.sparse.minor', '0'],
      ],
      'TAR_UNSUPPORTED',
    ],
  ])('may not state %s in PAX', (_, pairs, code) => {
    expect(refusal(archive(extension('x', records(...pairs)), block({ size: 5 }), padded('abcde'))).code).toBe(code);
  });

  it('may not be other than files', () => {
    expect(refusal(archive(extension('x', records(...newRecords)), block({ flag: '5' }))).message).toMatch(/directory/);
  });
});

describe('the end', () => {
  const entry = Buffer.concat([block({ size: 700 }), padded(Buffer.alloc(700, 7))]);

  it('is two zero blocks; what follows is raw, whatever it is', () => {
    const tar = Buffer.concat([entry, END, block({ name: 'ghost' }), Buffer.from('junk')]);
    const { entries, summary, all, raw } = scan(tar);
    expect(entries.length).toBe(1);
    expect(summary).toEqual({ entries: 1, bytes: tar.length, endMarker: true });
    expect(all.equals(tar)).toBe(true);
    expect(raw.length).toBe(tar.length - 700);
  });

  it('may lack the marker, half of it, or the last padding', () => {
    for (const length of [0, 512 + 700, 512 + 701, 512 + 1024, 512 + 1024 + 512]) {
      const tar = Buffer.concat([entry, END]).subarray(0, length);
      expect(scan(tar).summary).toEqual({ entries: length === 0 ? 0 : 1, bytes: length, endMarker: false });
    }
  });

  it('may not be one zero block with another behind it', () => {
    const error = refusal(Buffer.concat([entry, Buffer.alloc(512), entry, END]));
    expect(error.code).toBe('TAR_INVALID');
    expect(error.message).toMatch(/two end an archive/);
  });

  it('may not be inside an entry', () => {
    const tar = Buffer.concat([extension('x', records(['path', 'y'])), entry, END]);
    const whole = new Set([0, ...range(1536 + 700, 2560), 2560 + 512]);
    for (let length = 0; length < tar.length; length++) {
      if (whole.has(length)) {
        expect(scan(tar.subarray(0, length)).summary.bytes).toBe(length);
        continue;
      }
      const error = refusal(tar.subarray(0, length));
      expect(error.code).toBe('TAR_TRUNCATED');
      expect(error.message).toContain(`after ${length} bytes`);
    }
    expect(refusal(tar.subarray(0, 2000)).message).toMatch(
      /^tar entry 1 \(y\) at offset 1024: .* 236 bytes are missing/,
    );
  });
});

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}

describe('limits', () => {
  it.each<[string, Partial<TarLimits>, Buffer, RegExp]>([
    ['entries', { maxEntries: 1 }, Buffer.concat([block(), block()]), /entries: 2, the limit is 1/],
    ['an extension header', { maxMetaBytes: 99 }, extension('L', 'x'.repeat(100)), /extension header: 100/],
    ['a path', { maxPathBytes: 99 }, Buffer.concat([extension('L', 'x'.repeat(100)), block()]), /path: 100/],
    ['a link target', { maxPathBytes: 99 }, block({ flag: '2', linkName: 'x'.repeat(100) }), /link target: 100/],
    [
      'extended attributes',
      { maxXattrBytes: 99 },
      extension('x', records(['SCHILY.xattr.user.x', 'x'.repeat(50)], ['SCHILY.xattr.user.y', 'y'.repeat(50)])),
      /extended attributes: 138/,
    ],
    [
      'segments',
      { maxSparseSegments: 1 },
      Buffer.concat([
        extension('x', records(['GNU.sparse.map', '0,1,2,1'], ['GNU.sparse.numblocks', '2'])),
        block({ size: 2 }),
      ]),
      /segments of a sparse file: 2/,
    ],
    [
      'segments that are only announced',
      { maxSparseSegments: 9 },
      Buffer.concat([
        extension('x', records(['GNU.sparse.major', '1'], ['GNU.sparse.minor', '0'])),
        block({ size: 512 }),
        padded('9007199254740991\n'),
      ]),
      /segments of a sparse file: 9007199254740991/,
    ],
  ])('hold for %s', (_, limits, parts, message) => {
    const error = refusal(archive(parts), limits);
    expect(error.code).toBe('TAR_LIMIT');
    expect(error.message).toMatch(message);
  });

  it('by default refuse an extension header of 16 MiB and a byte before any of it came', () => {
    expect(refusal(block({ flag: 'x', size: 16 * 1024 * 1024 + 1 })).code).toBe('TAR_LIMIT');
  });
});

describe('the scanner', () => {
  const quiet = { entry: () => undefined, data: () => undefined, entryEnd: () => undefined };

  it('throws the same again once it has failed', () => {
    const scanner = new TarScanner(quiet);
    const bad = archive(block({ flag: 'V' }));
    expect(() => scanner.write(bad)).toThrow(/flag "V"/);
    expect(() => scanner.write(block())).toThrow(/flag "V"/);
    expect(() => scanner.finish()).toThrow(/flag "V"/);
  });

  it('passes on what a handler throws, and stays failed', () => {
    const scanner = new TarScanner({
      ...quiet,
      entry: () => {
        throw new RangeError('mine');
      },
    });
    expect(() => scanner.write(block())).toThrow(RangeError);
    expect(() => scanner.finish()).toThrow(RangeError);
  });

  it('hands out slices of the input, not copies', () => {
    const tar = archive(block({ size: 5 }), padded('abcde'));
    const seen: Buffer[] = [];
    const scanner = new TarScanner({ ...quiet, data: (chunk) => seen.push(chunk) });
    scanner.write(tar);
    expect(seen.map((chunk) => [chunk.buffer === tar.buffer, chunk.byteOffset - tar.byteOffset, chunk.length])).toEqual(
      [[true, 512, 5]],
    );
  });

  it('passes over payloads that are not there', () => {
    const seen: string[] = [];
    const scanner = new TarScanner({
      entry: ({ path, dataOffset }) => seen.push(`${path} at ${dataOffset}`),
      data: (chunk) => seen.push(`${chunk.length} bytes`),
      entryEnd: () => seen.push('end'),
    });
    scanner.write(block({ name: 'one', size: 700 }));
    expect(scanner.payloadDue).toBe(700);
    scanner.write(Buffer.alloc(100));
    scanner.skip(600);
    expect(scanner.payloadDue).toBe(0);
    scanner.write(Buffer.concat([Buffer.alloc(324), block({ name: 'two', size: 512 })]));
    scanner.skip(512);
    scanner.write(END);
    expect(seen).toEqual(['one at 512', '100 bytes', 'end', 'two at 2048', 'end']);
    expect(scanner.finish()).toEqual({ entries: 2, bytes: 512 + 1024 + 512 + 512 + 1024, endMarker: true });
  });

  it('does not pass over more than is due', () => {
    const scanner = new TarScanner(quiet);
    scanner.write(block({ size: 10 }));
    expect(() => scanner.skip(11)).toThrow(/10 are due/);
  });
});
