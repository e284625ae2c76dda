/**
 * Real archives, damaged: the scanner accepts or refuses by name, tells every byte once, and takes neither long nor much
 * memory. LAYERD_FUZZ_CASES says how many (default 3000); a failure prints the seed that fast-check runs it again with.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { bytesOf } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import { TarScanner } from '../../src/tar/scanner.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { makeSparseTree, makeTree } from '../unit/tar-tree.js';
import { archive, block, extension, padded, records } from '../unit/tar-kit.js';
import { runs } from './runs.js';

const CASES = Number(process.env['LAYERD_FUZZ_CASES'] ?? 3000);

/** Small archives of every format, made by GNU tar, and some by hand. */
const corpus: Buffer[] = [];

function makeCorpus(): void {
  const directory = mkdtempSync(join(tmpdir(), 'layerd-fuzz-'));
  const tar = (tree: string, ...options: string[]): void => {
    const target = join(directory, 'tar');
    // what is large makes cases slow and says nothing more
    const args = [...options, '--exclude=big', '--exclude=hard', '--exclude=many', '-cf', target, '-C', tree, '.'];
    execFileSync('tar', args, { stdio: ['ignore', 'ignore', 'pipe'] });
    corpus.push(readFileSync(target));
  };
  const plain = mkdtempSync(join(directory, 'plain-'));
  const full = mkdtempSync(join(directory, 'full-'));
  const sparse = mkdtempSync(join(directory, 'sparse-'));
  makeTree(bytesOf(plain));
  makeTree(bytesOf(full), 'nodes', 'long', 'xattrs');
  makeSparseTree(bytesOf(sparse));
  tar(plain, '--format=v7');
  tar(plain, '--format=ustar');
  tar(full, '--format=gnu');
  tar(full, '--format=posix', '--xattrs', '--xattrs-include=*');
  tar(sparse, '--format=gnu', '--sparse');
  for (const version of ['0.0', '0.1', '1.0']) tar(sparse, '--format=posix', '--sparse', `--sparse-version=${version}`);
  corpus.push(
    archive(
      extension('g', records(['comment', 'global'])),
      extension('x', records(['path', 'p'], ['LIBARCHIVE.xattr.user.x', 'AAEC'], ['mtime', '-1.5'])),
      block({ size: 3, at: { 508: 'tar\0' } }),
      padded('abc'),
      extension('L', 'long'),
      extension('K', 'link'),
      block({ flag: '2', magic: 'ustar  \0' }),
    ),
  );
  rmSync(directory, { recursive: true });
}

/** Where a number or a word stands in a header, and what may be written over it. */
const FIELDS = [0, 100, 108, 116, 124, 136, 148, 156, 157, 257, 263, 329, 337, 345, 386, 398, 482, 483, 504, 508];
const WORDS = [
  '\0',
  'V',
  'D',
  'x',
  'g',
  'K',
  'L',
  'S',
  '0',
  '1',
  '5',
  '7',
  'ustar\x0000',
  'ustar  \0',
  'tar\0',
  '77777777777\0',
  '00000000000\0',
  '\x80\0\0\0\0\0\0\0\0\0\x10\0',
  '\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff',
  '\x80\xff\xff\xff\xff\xff\xff\xff',
  '9 a=b\n',
  '0 path=\n',
  '30 mtime=9',
  'GNU.sparse.',
  'size=',
  'path=\0',
  '1\n0\n9\n',
  '99999999999999999999',
  '-1',
].map((word) => Buffer.from(word, 'latin1'));

type Damage =
  | { kind: 'flip'; at: number; mask: number }
  | { kind: 'field'; block: number; field: number; word: Buffer }
  | { kind: 'word'; at: number; word: Buffer }
  | { kind: 'digit'; at: number; digit: number }
  | { kind: 'remove' | 'repeat' | 'zero'; block: number; blocks: number }
  | { kind: 'cut'; at: number };

const place = fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true });
const word = fc.constantFrom(...WORDS);
const damage: fc.Arbitrary<Damage> = fc.oneof(
  fc.record({ kind: fc.constant('flip'), at: place, mask: fc.integer({ min: 1, max: 255 }) }),
  fc.record({ kind: fc.constant('field'), block: place, field: fc.constantFrom(...FIELDS), word }),
  fc.record({ kind: fc.constant('field'), block: place, field: fc.constant(156), word: word }),
  fc.record({ kind: fc.constant('word'), at: place, word }),
  fc.record({ kind: fc.constant('digit'), at: place, digit: fc.nat(9) }),
  fc.record({
    kind: fc.constantFrom('remove', 'repeat', 'zero'),
    block: place,
    blocks: fc.integer({ min: 1, max: 4 }),
  }),
  fc.record({ kind: fc.constant('cut'), at: place }),
);
/** An archive that only ends too early: other damage before the end would be told first. */
const cutShort: fc.Arbitrary<Damage[]> = fc.tuple(fc.record({ kind: fc.constant('cut' as const), at: place }));

const testCase = fc.record({
  which: fc.nat(),
  damages: fc.oneof(
    { weight: 19, arbitrary: fc.array(damage, { minLength: 1, maxLength: 5 }) },
    { weight: 1, arbitrary: cutShort },
  ),
  // most damage to headers would end at the checksum otherwise
  mend: fc.boolean(),
  chunk: fc.oneof(fc.integer({ min: 1, max: 700 }), fc.constant(1_000_000)),
});

function harm(tar: Buffer, what: Damage): Buffer {
  const at = (share: number): number => Math.floor(share * tar.length);
  const blockAt = (share: number): number => Math.floor((share * tar.length) / 512) * 512;
  if ('blocks' in what) return harmBlocks(tar, what.kind, blockAt(what.block), what.blocks);
  switch (what.kind) {
    case 'flip':
      if (tar.length > 0) tar.writeUInt8((tar.readUInt8(at(what.at)) ^ what.mask) & 0xff, at(what.at));
      return tar;
    case 'field':
      what.word.copy(tar, blockAt(what.block) + what.field);
      return tar;
    case 'word':
      what.word.copy(tar, at(what.at));
      return tar;
    case 'digit': {
      // the next digit from there on: lengths of records, sizes, maps
      for (let pos = at(what.at); pos < tar.length; pos++) {
        const byte = tar.readUInt8(pos);
        if (byte >= 0x30 && byte <= 0x39) {
          tar.writeUInt8(0x30 + what.digit, pos);
          break;
        }
      }
      return tar;
    }
    case 'cut':
      return tar.subarray(0, at(what.at));
    default:
      return what satisfies never;
  }
}

function harmBlocks(tar: Buffer, kind: 'remove' | 'repeat' | 'zero', start: number, blocks: number): Buffer {
  const end = Math.min(start + blocks * 512, tar.length);
  if (kind === 'zero') return tar.fill(0, start, end);
  const [keepUntil, resume] = kind === 'remove' ? [start, end] : [end, start];
  return Buffer.concat([tar.subarray(0, keepUntil), tar.subarray(resume)]);
}

/** Sets the checksum of every block that looks like a header. */
function mendChecksums(tar: Buffer): void {
  for (let at = 0; at + 512 <= tar.length; at += 512) {
    if (!/^[0-7]{6}\0 $/.test(tar.toString('latin1', at + 148, at + 156))) continue;
    tar.write('        ', at + 148);
    const sum = tar.subarray(at, at + 512).reduce((total, byte) => total + byte, 0);
    tar.write(`${sum.toString(8).padStart(6, '0')}\0 `, at + 148);
  }
}

const CODES = new Set(['TAR_INVALID', 'TAR_UNSUPPORTED', 'TAR_LIMIT', 'TAR_TRUNCATED']);

/** Scans; answers the code of the refusal, or 'accepted'. Throws for all that must not be. */
function examine(tar: Buffer, chunk: number): string {
  let told = 0;
  let due = 0;
  let entries = 0;
  const tell = (bytes: Buffer, where: Buffer): void => {
    // every byte of the chunk in its turn
    if (bytes.buffer !== where.buffer || bytes.byteOffset !== tar.byteOffset + told)
      throw new Error('bytes out of turn');
    told += bytes.length;
  };
  const scanner = new TarScanner({
    entry(entry) {
      entries++;
      if (entry.path === '') throw new Error('a path is empty');
      if (entry.dataOffset !== told) throw new Error('the payload lies elsewhere');
      if (!(entry.headerOffset <= entry.dataOffset - 512)) throw new Error('the header lies elsewhere');
      const stored = entry.sparse?.reduce((sum, { length }) => sum + length, 0) ?? entry.size;
      if (stored !== entry.storedSize) throw new Error('the sizes do not agree');
      const last = entry.sparse?.at(-1);
      if (last !== undefined && last.offset + last.length > entry.size) throw new Error('data beyond the end');
      due = entry.storedSize;
    },
    data(bytes) {
      tell(bytes, tar);
      due -= bytes.length;
      if (due < 0) throw new Error('too much payload');
    },
    entryEnd() {
      if (due !== 0) throw new Error('payload is missing');
    },
    raw: (bytes) => tell(bytes, tar),
  });
  try {
    for (let at = 0; at < tar.length; at += chunk) scanner.write(tar.subarray(at, at + chunk));
    const summary = scanner.finish();
    if (told !== tar.length || summary.bytes !== told || summary.entries !== entries) throw new Error('bytes are lost');
    return 'accepted';
  } catch (thrown) {
    if (thrown instanceof LayerdError && CODES.has(thrown.code)) return thrown.code;
    throw thrown;
  }
}

describeWith('damaged archives', [needsRoot(), needsProgram('tar')], () => {
  beforeAll(makeCorpus);

  it('are accepted or refused by name, with every byte told once', () => {
    const outcomes = new Map<string, number>();
    fc.assert(
      fc.property(testCase, ({ which, damages, mend, chunk }) => {
        const whole = corpus[which % corpus.length] ?? Buffer.alloc(0);
        let tar: Buffer = Buffer.from(whole);
        for (const what of damages) tar = harm(tar, what);
        if (mend) mendChecksums(tar);
        const before = process.cpuUsage();
        const outcome = examine(tar, chunk);
        // of the processor, not of the wall: other work on the machine is not ours
        expect(process.cpuUsage(before).user).toBeLessThan(1_000_000);
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      }),
      { numRuns: runs(CASES) },
    );
    // the damage is of a kind that reaches everything
    for (const outcome of ['accepted', 'TAR_INVALID', 'TAR_UNSUPPORTED', 'TAR_TRUNCATED']) {
      expect(outcomes.get(outcome) ?? 0, outcome).toBeGreaterThan(CASES / 1000);
    }
  }, 36_000_000);
});

/** Heap and buffers that scanning takes, in bytes. */
function memoryOf(scan: () => void): number {
  const before = process.memoryUsage();
  scan();
  const after = process.memoryUsage();
  return after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers;
}

describe('hostile archives', () => {
  const MiB = 1024 * 1024;
  const quiet = { entry: () => undefined, data: () => undefined, entryEnd: () => undefined };

  it('of extension headers without end take no more and more memory', () => {
    const pax = extension('x', records(['SCHILY.xattr.user.x', Buffer.alloc(60_000)]));
    const scanner = new TarScanner(quiet);
    expect(
      memoryOf(() => {
        for (let i = 0; i < 5000; i++) scanner.write(pax);
      }),
    ).toBeLessThan(100 * MiB);
    expect(() => scanner.finish()).toThrow(/only extension headers/);
  });

  it('of a sparse map without end take no more and more memory', () => {
    const scanner = new TarScanner(quiet);
    const more = Buffer.alloc(512);
    more.write('\x01', 504);
    scanner.write(block({ flag: 'S', magic: 'ustar  \0', at: { 482: '\x01', 483: '00000000000\0' } }));
    expect(
      memoryOf(() => {
        for (let i = 0; i < 200_000; i++) scanner.write(more);
      }),
    ).toBeLessThan(100 * MiB);
    expect(() => scanner.finish()).toThrow(/a sparse map/);
  });

  it('of records that repeat a key take time in proportion', () => {
    const body = Buffer.concat(Array.from({ length: 500_000 }, () => records(['path', 'a'])));
    const before = process.cpuUsage();
    new TarScanner(quiet).write(archive(extension('x', body), block()));
    expect(process.cpuUsage(before).user).toBeLessThan(3_000_000);
  });
});
