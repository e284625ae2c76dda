import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bytesOf, type ByteString } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import type { TarEntry, TarEntryType } from '../../src/tar/entry.js';
import { encodeEntry, endOfArchive, EntryHeaders, padding, type EntryToWrite } from '../../src/tar/writer.js';
import { END, entryToWrite, latin1, only, scan } from './tar-kit.js';

const TYPES: TarEntryType[] = ['file', 'hardlink', 'symlink', 'char', 'block', 'directory', 'fifo'];

/** Names of any bytes but NUL, short and long, with slashes and UTF-8 among them. */
const name = fc
  .array(
    fc.oneof(
      { weight: 3, arbitrary: fc.string({ unit: 'binary-ascii', minLength: 1, maxLength: 60 }) },
      { weight: 1, arbitrary: fc.string({ minLength: 1, maxLength: 20, unit: 'grapheme' }).map(bytesOf) },
      {
        weight: 1,
        arbitrary: fc.uint8Array({ min: 1, minLength: 1, maxLength: 40 }).map((b) => String.fromCharCode(...b)),
      },
      { weight: 1, arbitrary: fc.constant('n'.repeat(150)) },
    ),
    { minLength: 1, maxLength: 6 },
  )
  .map((parts) => latin1(parts.join('/').replaceAll('\0', '0')));

function withoutSlashes(path: ByteString): ByteString {
  return latin1(path.replace(/\/+$/, '') || 'x');
}

const id = fc.oneof(fc.nat(70_000), fc.constantFrom(0o7777777, 0o10000000, 0xffff_fffe));

const entry: fc.Arbitrary<EntryToWrite> = fc
  .record({
    type: fc.constantFrom(...TYPES),
    path: name,
    linkPath: name,
    mode: fc.nat(0o7777),
    uid: id,
    gid: id,
    size: fc.nat(3000),
    mtime: fc.record({
      sec: fc.oneof(fc.nat(2_000_000_000), fc.constantFrom(-1, -86_400, 0o77777777777, 0o100000000000)),
      nsec: fc.oneof(fc.constant(0), fc.nat(999_999_999)),
    }),
    devMajor: fc.nat(0xfff),
    devMinor: fc.nat(0xfffff),
    xattrs: fc.option(
      fc
        .array(
          fc.tuple(
            name.map((text) => latin1(`user.${text}`)),
            fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
          ),
          {
            minLength: 1,
            maxLength: 3,
          },
        )
        .map((pairs) => new Map(pairs)),
    ),
  })
  .map((given) => {
    const isLink = given.type === 'hardlink' || given.type === 'symlink';
    const isDevice = given.type === 'char' || given.type === 'block';
    return Object.assign(given, {
      path: given.type === 'directory' ? given.path : withoutSlashes(given.path),
      linkPath: isLink ? given.linkPath : latin1(''),
      size: given.type === 'file' ? given.size : 0,
      devMajor: isDevice ? given.devMajor : 0,
      devMinor: isDevice ? given.devMinor : 0,
    });
  });

const chunks = fc.array(fc.oneof(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 2000 })), {
  minLength: 1,
  maxLength: 8,
});

function payloadOf({ size }: { size: number }, seed: number): Buffer {
  return Buffer.alloc(size, seed + 1);
}

describe('what the writer writes', () => {
  it('the scanner reads, however it is cut into chunks', () => {
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 8 }), chunks, (entries, sizes) => {
        const parts: Buffer[] = [];
        const expected: TarEntry[] = [];
        let offset = 0;
        entries.forEach((given, i) => {
          const header = encodeEntry(given);
          parts.push(header, payloadOf(given, i), Buffer.alloc(padding(given.size)));
          expected.push({
            ...given,
            sparse: null,
            headerOffset: offset,
            dataOffset: offset + header.length,
            storedSize: given.size,
          });
          offset += header.length + given.size + padding(given.size);
        });
        const tar = Buffer.concat([...parts, endOfArchive()]);
        const scanned = scan(tar, sizes);
        expect(scanned.entries).toEqual(expected);
        scanned.payloads.forEach((payload, i) => {
          expect(payload.equals(payloadOf({ size: expected[i]?.size ?? -1 }, i))).toBe(true);
        });
        expect(scanned.all.equals(tar)).toBe(true);
        expect(scanned.raw.length).toBe(tar.length - expected.reduce((sum, { storedSize }) => sum + storedSize, 0));
        expect(scanned.summary).toEqual({ entries: entries.length, bytes: tar.length, endMarker: true });
      }),
      { numRuns: 300 },
    );
  });

  it('depends on nothing but the entry', () => {
    const xattrs: [ByteString, Buffer][] = [
      [latin1('user.b'), Buffer.from('2')],
      [latin1('user.a'), Buffer.from('1')],
    ];
    const one = encodeEntry(entryToWrite({ xattrs: new Map(xattrs) }));
    expect(one.equals(encodeEntry(entryToWrite({ xattrs: new Map(xattrs.toReversed()) })))).toBe(true);
  });

  it('is the same wherever it is written, and touches nothing beside it', () => {
    fc.assert(
      fc.property(entry, fc.nat(1000), (given, at) => {
        const headers = new EntryHeaders(given);
        const into = Buffer.alloc(at + headers.length + 10, 0xee);
        headers.writeTo(into, at);
        const around = Buffer.alloc(into.length, 0xee);
        encodeEntry(given).copy(around, at);
        expect(into.equals(around)).toBe(true);
      }),
    );
  });

  it('ends in two blocks of zeros, and pads to blocks', () => {
    expect(endOfArchive().equals(END)).toBe(true);
    expect([0, 1, 511, 512, 513, 2 ** 40, 2 ** 40 + 1].map(padding)).toEqual([0, 511, 1, 0, 511, 0, 511]);
  });
});

describe('the plain header', () => {
  it.each<[string, Partial<EntryToWrite>]>([
    ['a short ASCII name', { path: latin1('dir/file') }],
    ['a name of 100 bytes', { path: latin1('n'.repeat(100)) }],
    ['a name of two fields', { path: latin1(`${'p'.repeat(155)}/${'n'.repeat(100)}`) }],
    ['a directory of two fields', { type: 'directory', path: latin1(`${'p'.repeat(100)}/${'n'.repeat(99)}/`) }],
    ['a name that is not UTF-8', { path: latin1('raw-\xff') }],
    ['a link target that is not UTF-8', { type: 'symlink', linkPath: latin1('\xff'.repeat(100)) }],
    ['the largest ids', { uid: 0o7777777, gid: 0o7777777 }],
    ['the largest size', { size: 0o77777777777 }],
    ['the last time', { mtime: { sec: 0o77777777777, nsec: 0 } }],
    ['the largest device', { type: 'char', devMajor: 0xfff, devMinor: 0xfffff }],
  ])('is enough for %s', (_, given) => {
    expect(encodeEntry(entryToWrite(given)).length).toBe(512);
  });
});

/** The records of the PAX header, as text. */
function paxRecords(given: Partial<EntryToWrite>): string {
  const bytes = encodeEntry(entryToWrite(given));
  const size = parseInt(bytes.toString('latin1', 124, 135), 8);
  expect(bytes.length).toBe(1024 + size + padding(size));
  expect(bytes.toString('latin1', 156, 157)).toBe('x');
  return bytes.toString('latin1', 512, 512 + size);
}

describe('the PAX header', () => {
  it.each<[string, Partial<EntryToWrite>, string]>([
    ['UTF-8', { path: bytesOf('é') }, '11 path=\xc3\xa9\n'],
    ['a long name without a slash', { path: latin1('n'.repeat(101)) }, `111 path=${'n'.repeat(101)}\n`],
    ['a prefix too long', { path: latin1(`${'p'.repeat(156)}/n`) }, `168 path=${'p'.repeat(156)}/n\n`],
    ['an absolute long name', { path: latin1(`/${'n'.repeat(100)}`) }, `111 path=/${'n'.repeat(100)}\n`],
    [
      'a long link target',
      { type: 'hardlink', linkPath: latin1('l'.repeat(101)) },
      `115 linkpath=${'l'.repeat(101)}\n`,
    ],
    [
      'a long name that is not UTF-8, told as such',
      { path: latin1(`\xff${'n'.repeat(100)}`) },
      `21 hdrcharset=BINARY\n111 path=\xff${'n'.repeat(100)}\n`,
    ],
    ['large ids', { uid: 0o10000000, gid: 3_000_000_000 }, '18 gid=3000000000\n15 uid=2097152\n'],
    ['a large size', { size: 2 ** 40 }, '22 size=1099511627776\n'],
    ['nanoseconds', { mtime: { sec: 5, nsec: 120_000_000 } }, '14 mtime=5.12\n'],
    ['a time before 1970', { mtime: { sec: -2, nsec: 750_000_000 } }, '15 mtime=-1.25\n'],
    ['a time after 2242', { mtime: { sec: 2 ** 33, nsec: 0 } }, '20 mtime=8589934592\n'],
    [
      'xattrs, sorted',
      {
        xattrs: new Map([
          [latin1('user.b'), Buffer.from('\n')],
          [latin1('user.a'), Buffer.from('')],
        ]),
      },
      '24 SCHILY.xattr.user.a=\n25 SCHILY.xattr.user.b=\n\n',
    ],
    [
      'an xattr with a "=" in its name',
      { xattrs: new Map([[latin1('user.a=%b'), Buffer.from('v')]]) },
      '37 LIBARCHIVE.xattr.user.a%3D%25b=dg\n',
    ],
  ])('holds %s', (_, given, records) => {
    expect(paxRecords(given)).toBe(records);
    const { type, path, linkPath, uid, gid, mtime, xattrs } = entryToWrite(given);
    if (given.size === undefined) {
      expect(only(encodeEntry(entryToWrite(given)))).toMatchObject({ type, path, linkPath, uid, gid, mtime, xattrs });
    }
  });

  it('counts the digits of its own length', () => {
    for (let length = 80; length < 120; length++) {
      const value = Buffer.alloc(length, 'v');
      const { xattrs } = only(encodeEntry(entryToWrite({ xattrs: new Map([[latin1('user.x'), value]]) })));
      expect(xattrs?.get(latin1('user.x'))?.equals(value)).toBe(true);
    }
  });

  it('has nothing of the machine or the day in it', () => {
    const bytes = encodeEntry(
      entryToWrite({ path: latin1(`dir/${'n'.repeat(120)}`), uid: 5, mtime: { sec: 9, nsec: 9 } }),
    );
    expect(bytes.toString('latin1', 0, 100)).toBe(`PaxHeaders.0/${'n'.repeat(87)}`);
    expect(bytes.toString('latin1', 100, 124)).toBe('0000644\x000000000\x000000000\0');
    expect(bytes.toString('latin1', 136, 147)).toBe('00000000000');
  });
});

describe('what the writer refuses', () => {
  it.each<[string, Partial<EntryToWrite>, string, RegExp]>([
    ['an empty path', { path: latin1('') }, 'TAR_INVALID', /path is empty/],
    ['a NUL in a path', { path: latin1('a\0b') }, 'TAR_INVALID', /path holds a NUL/],
    ['a file with a slash at its end', { path: latin1('a/') }, 'TAR_INVALID', /ends in a slash/],
    ['a link without a target', { type: 'symlink' }, 'TAR_INVALID', /link target is empty/],
    ['a negative uid', { uid: -1 }, 'TAR_INVALID', /uid is not a number/],
    ['a size that is no integer', { size: 0.5 }, 'TAR_INVALID', /size is not a number/],
    ['a mode that is none', { mode: NaN }, 'TAR_INVALID', /mode is not a number/],
    ['a time without nanoseconds', { mtime: { sec: 0, nsec: 1e9 } }, 'TAR_INVALID', /mtime/],
    ['a device beyond the header', { type: 'char', devMinor: 0o10000000 }, 'TAR_UNSUPPORTED', /devMinor/],
    [
      'a NUL in the name of an xattr',
      { xattrs: new Map([[latin1('user.\0'), Buffer.alloc(0)]]) },
      'TAR_INVALID',
      /name/,
    ],
    [
      'xattrs that other tools would not read',
      { xattrs: new Map([[latin1('user.x'), Buffer.alloc(1024 * 1024)]]) },
      'TAR_LIMIT',
      /PAX header: 1048\d{3}, the limit is 1048576/,
    ],
  ])('%s', (_, given, code, message) => {
    try {
      encodeEntry(entryToWrite({ ...given, path: given.path ?? bytesOf('dir/é') }));
    } catch (thrown) {
      expect(thrown).toBeInstanceOf(LayerdError);
      expect(thrown).toMatchObject({ code, message: expect.stringMatching(message) });
      if (given.path === undefined) expect(String(thrown)).toContain('dir/é');
      return;
    }
    throw new Error('was accepted');
  });
});
