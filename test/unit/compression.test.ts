import { execFileSync } from 'node:child_process';
import { constants, createGzip, crc32, deflateRawSync, gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { detectCompression, type Compression } from '../../src/content/compression-magic.js';
import { inflate, inflaterName, openCompressed, type Inflater } from '../../src/content/compression.js';
import { zlibKnowsZstd } from '../../src/content/inflate-zlib.js';
import { describeWith, needsProgram } from '../support.js';
import { chunked, collect, KIB, MIB, needsLibrary, refusal, sampleBytes } from './content-samples.js';

const plain = sampleBytes(5 * MIB + 123);

/** What a program makes of its standard input. */
function filter(input: Buffer, program: string, ...args: string[]): Buffer {
  return execFileSync(program, args, { input, maxBuffer: 64 * MIB });
}

function inflated(bytes: Buffer, inflater: Inflater, compression: Compression, chunk = 100 * KIB): Promise<Buffer> {
  return collect(inflate(chunked(bytes, chunk), compression, { inflater }));
}

/** A gzip member with every optional header field (RFC 1952, 2.3). */
function memberWithAllFields(content: Buffer): Buffer {
  const header = Buffer.concat([
    Buffer.from([0x1f, 0x8b, 8, 0x02 | 0x04 | 0x08 | 0x10, 1, 2, 3, 4, 0, 3]),
    Buffer.from([5, 0]),
    Buffer.from('extra'),
    Buffer.from('a name\0a comment\0', 'latin1'),
  ]);
  const check = Buffer.alloc(2);
  check.writeUInt16LE(crc32(header) & 0xffff);
  const trailer = Buffer.alloc(8);
  trailer.writeUInt32LE(crc32(content), 0);
  trailer.writeUInt32LE(content.length, 4);
  return Buffer.concat([header, check, deflateRawSync(content), trailer]);
}

describe('detectCompression', () => {
  it('tells gzip, zstd and plain by their first bytes', () => {
    expect(detectCompression(gzipSync('x'))).toBe('gzip');
    expect(detectCompression(Buffer.from('28b52ffd2401', 'hex'))).toBe('zstd');
    expect(detectCompression(Buffer.from('5a2a4d1804000000', 'hex'))).toBe('zstd'); // a skippable frame
    expect(detectCompression(Buffer.from('etc/passwd'))).toBe('none');
    expect(detectCompression(Buffer.alloc(0))).toBe('none');
    expect(detectCompression(Buffer.from([0x1f]))).toBe('none');
  });

  it.each([
    ['xz', 'fd377a585a0000'],
    ['bzip2', '425a6839314159265359'],
    ['lz4', '04224d18'],
    ['lzip', '4c5a495001'],
    ['compress', '1f9d90'],
  ])('refuses %s by name', (name, head) => {
    expect(() => detectCompression(Buffer.from(head, 'hex'))).toThrow(`compressed with ${name}`);
  });

  it('takes a tar whose first name looks like bzip2 for a tar', () => {
    expect(detectCompression(Buffer.from('BZh9 and other notes'))).toBe('none');
  });
});

describe('openCompressed', () => {
  it.each([1, 3, 700, 5 * MIB])('looks at the start of chunks of %i bytes and gives every byte', async (size) => {
    const bytes = gzipSync(sampleBytes(size === 1 ? 3000 : 900_000));
    const opened = await openCompressed(chunked(bytes, size));
    expect(opened.compression).toBe('gzip');
    expect((await collect(opened.source)).equals(bytes)).toBe(true);
  });

  it('takes no bytes at all for an empty plain tar', async () => {
    const { compression, source } = await openCompressed(chunked(Buffer.alloc(0)));
    expect(compression).toBe('none');
    expect(await collect(source)).toHaveLength(0);
  });

  it('lets go of a source that it refuses', async () => {
    let closed = false;
    async function* source(): AsyncGenerator<Buffer> {
      try {
        yield Buffer.from('fd377a585a000000', 'hex');
        yield Buffer.alloc(MIB);
      } finally {
        closed = true;
      }
    }
    expect((await refusal(openCompressed(source()))).code).toBe('COMPRESSION_UNSUPPORTED');
    expect(closed).toBe(true);
  });
});

function sharedRules(inflater: Inflater): void {
  it.each([0, 1, 6, 9])('inflates level %i', async (level) => {
    expect((await inflated(gzipSync(plain, { level }), inflater, 'gzip')).equals(plain)).toBe(true);
  });

  it('inflates static codes and stored blocks', async () => {
    const fixed = gzipSync(plain, { strategy: constants.Z_FIXED });
    expect((await inflated(fixed, inflater, 'gzip')).equals(plain)).toBe(true);
    const huffman = gzipSync(plain, { strategy: constants.Z_HUFFMAN_ONLY });
    expect((await inflated(huffman, inflater, 'gzip')).equals(plain)).toBe(true);
  });

  it.each([1, 7, 512, 64 * KIB, 4 * MIB])('inflates chunks of %i bytes', async (size) => {
    const content = size < 100 ? plain.subarray(0, 40_000) : plain;
    expect((await inflated(gzipSync(content), inflater, 'gzip', size)).equals(content)).toBe(true);
  });

  it('inflates several members, empty ones too, wherever the chunks break', async () => {
    const parts = [plain.subarray(0, 70_000), Buffer.alloc(0), plain.subarray(70_000, 70_001), plain.subarray(70_001)];
    const bytes = Buffer.concat(parts.map((part) => gzipSync(part)));
    for (const size of [1000, 65_536, bytes.length]) {
      expect((await inflated(bytes, inflater, 'gzip', size)).equals(plain)).toBe(true);
    }
  });

  it('reads every optional field of a header, broken at any byte', async () => {
    const content = plain.subarray(0, 5000);
    const member = memberWithAllFields(content);
    const twice = Buffer.concat([member, member]);
    for (let size = 1; size < 45; size++) {
      expect((await inflated(twice, inflater, 'gzip', size)).equals(Buffer.concat([content, content]))).toBe(true);
    }
  });

  it('refuses a header that does not match its checksum, and reserved flags', async () => {
    const member = memberWithAllFields(plain.subarray(0, 5000));
    const wrong = Buffer.from(member);
    wrong[4] = 99;
    expect((await refusal(inflated(wrong, inflater, 'gzip'))).code).toBe('COMPRESSION_INVALID');
    const reserved = gzipSync('x');
    reserved[3] = 0x40;
    expect((await refusal(inflated(reserved, inflater, 'gzip'))).code).toBe('COMPRESSION_INVALID');
  });

  it('refuses a stream that ends anywhere before its end', async () => {
    const bytes = gzipSync(plain.subarray(0, 3000));
    for (let length = 0; length < bytes.length; length += length < 30 || length > bytes.length - 20 ? 1 : 97) {
      const error = await refusal(inflated(bytes.subarray(0, length), inflater, 'gzip', 50));
      expect(error.code, `cut to ${length}`).toBe('COMPRESSION_INVALID');
    }
  });

  it.each([
    ['one zero byte', Buffer.alloc(1)],
    ['zeros', Buffer.alloc(512)],
    ['text', Buffer.from('more')],
    ['half a header', Buffer.from([0x1f, 0x8b, 8])],
  ])('refuses %s behind the end, in the same chunk and in the next', async (_, tail) => {
    const bytes = gzipSync(plain.subarray(0, 3000));
    const both = Buffer.concat([bytes, tail]);
    for (const sizes of [[both.length], [bytes.length, tail.length], [bytes.length - 3, 3, 1]]) {
      const error = await refusal(collect(inflate(chunked(both, ...sizes), 'gzip', { inflater })));
      expect(error.code).toBe('COMPRESSION_INVALID');
    }
  });

  it('refuses a wrong checksum and a wrong length', async () => {
    for (const fromEnd of [8, 4]) {
      const bytes = gzipSync(plain);
      bytes.writeUInt32LE((bytes.readUInt32LE(bytes.length - fromEnd) + 1) >>> 0, bytes.length - fromEnd);
      expect((await refusal(inflated(bytes, inflater, 'gzip'))).code).toBe('COMPRESSION_INVALID');
    }
  });

  it('stops at the size limit, long before a bomb is spent', async () => {
    const gzip = createGzip({ level: 9 });
    for (let i = 0; i < 200; i++) gzip.write(Buffer.alloc(MIB));
    gzip.end();
    const bomb = await collect(gzip as AsyncIterable<Buffer>);
    let seen = 0;
    const reading = async () => {
      const source = inflate(chunked(bomb, 4 * KIB), 'gzip', { inflater, maxSize: 10 * MIB });
      for await (const chunk of source) seen += chunk.length;
    };
    const error = await refusal(reading());
    expect([error.code, error.details]).toEqual(['LAYER_LIMIT', { maxSize: 10 * MIB }]);
    expect(seen).toBeLessThanOrEqual(10 * MIB);
  });

  it('allows exactly the size limit', async () => {
    const source = inflate(chunked(gzipSync(plain), 65_536), 'gzip', { inflater, maxSize: plain.length });
    expect((await collect(source)).equals(plain)).toBe(true);
  });

  it('shows every compressed byte once, in order, to the tap', async () => {
    const bytes = Buffer.concat([gzipSync(plain), gzipSync(plain)]);
    const tapped: Buffer[] = [];
    const tap = async (chunk: Buffer) => {
      await new Promise((resolve) => setTimeout(resolve, 1));
      tapped.push(Buffer.from(chunk));
    };
    await collect(inflate(chunked(bytes, 50_001), 'gzip', { inflater, tap }));
    expect(Buffer.concat(tapped).equals(bytes)).toBe(true);
  });

  it('takes no more of the source than it can hold while nobody reads', async () => {
    const bytes = gzipSync(Buffer.concat([plain, plain, plain, plain, plain, plain]), { level: 0 });
    let taken = 0;
    async function* counted(): AsyncGenerator<Buffer> {
      for await (const chunk of chunked(bytes, 64 * KIB)) {
        taken += chunk.length;
        yield chunk;
      }
    }
    const chunks = inflate(counted(), 'gzip', { inflater })[Symbol.asyncIterator]();
    await chunks.next();
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(taken).toBeLessThan(6 * MIB);
    await chunks.return?.();
  });

  it('closes the source when the consumer leaves, and passes on its error unchanged', async () => {
    let closed = 0;
    const failure = new Error('the line went dead');
    const bytes = gzipSync(plain);
    async function* source(length: number): AsyncGenerator<Buffer> {
      try {
        yield* chunked(bytes.subarray(0, length), 64 * KIB);
        throw failure;
      } finally {
        closed += 1;
      }
    }
    await expect(collect(inflate(source(300_000), 'gzip', { inflater }))).rejects.toBe(failure);
    expect(closed).toBe(1);
    for await (const chunk of inflate(source(bytes.length), 'gzip', { inflater })) {
      expect(chunk.length).toBeGreaterThan(0);
      break;
    }
    expect(closed).toBe(2);
  });
}

describeWith('gzip by libisal', [needsLibrary('libisal', 'libisal2')], () => {
  sharedRules('native');

  it('gives chunks of at most 2 MiB', async () => {
    for await (const chunk of inflate(chunked(gzipSync(plain)), 'gzip', { inflater: 'native' })) {
      expect(chunk.length).toBeLessThanOrEqual(2 * MIB);
    }
  });

  it('inflates several streams side by side', async () => {
    const samples = [1, 2, 3, 4, 5].map((seed) => sampleBytes(3 * MIB, seed));
    const results = await Promise.all(samples.map((sample) => inflated(gzipSync(sample), 'native', 'gzip')));
    expect(results.map((result, index) => samples[index]?.equals(result))).toEqual([true, true, true, true, true]);
  });
});

describe('gzip by node:zlib', () => {
  sharedRules('zlib');
});

describeWith(
  'what compressors write',
  ['gzip', 'pigz', 'isal'].map((name) => needsProgram(name === 'isal' ? 'igzip' : name, name)),
  () => {
    it.each([
      ['gzip', '-1'],
      ['gzip', '-9'],
      ['pigz', '-6', '-p', '3', '-b', '128'],
      ['igzip', '-0', '-c'],
      ['igzip', '-3', '-c'],
    ])('%s %s', async (program, ...args) => {
      const bytes = filter(plain, program, ...args);
      for (const inflater of ['native', 'zlib'] as const) {
        expect((await inflated(bytes, inflater, 'gzip')).equals(plain)).toBe(true);
      }
    });
  },
);

function zstdOf(content: Buffer, ...args: string[]): Buffer {
  return filter(content, 'zstd', '-q', '-c', ...args);
}

const zstdInflaters: Inflater[] = zlibKnowsZstd() ? ['native', 'zlib'] : ['native'];

describeWith('zstd', [needsProgram('zstd'), needsLibrary('libzstd', 'libzstd1')], () => {
  const skippable = Buffer.concat([Buffer.from('532a4d1805000000', 'hex'), Buffer.from('notes')]);

  it.each([['-1'], ['-19'], ['--long=27'], ['--no-check'], ['-T2', '-B512K']])('inflates %s', async (...args) => {
    for (const inflater of zstdInflaters) {
      expect((await inflated(zstdOf(plain, ...args), inflater, 'zstd')).equals(plain)).toBe(true);
    }
  });

  it('inflates several frames, empty and skippable ones too, wherever the chunks break', async () => {
    const frames = [
      skippable,
      zstdOf(plain.subarray(0, 9000)),
      zstdOf(Buffer.alloc(0)),
      skippable,
      zstdOf(plain.subarray(9000)),
    ];
    const bytes = Buffer.concat([...frames, skippable]);
    for (const inflater of zstdInflaters) {
      for (const size of [1000, 65_537, bytes.length]) {
        expect((await inflated(bytes, inflater, 'zstd', size)).equals(plain)).toBe(true);
      }
    }
  });

  it('refuses a stream that ends anywhere before its end', async () => {
    const bytes = zstdOf(plain.subarray(0, 3000));
    for (const inflater of zstdInflaters) {
      for (let length = 0; length < bytes.length; length += length < 30 ? 1 : 101) {
        const error = await refusal(inflated(bytes.subarray(0, length), inflater, 'zstd', 50));
        expect(error.code, `cut to ${length}`).toBe('COMPRESSION_INVALID');
      }
    }
  });

  it('refuses what follows the end, and a wrong checksum', async () => {
    const bytes = zstdOf(plain.subarray(0, 3000));
    const wrong = Buffer.from(bytes);
    wrong[wrong.length - 1] = (wrong[wrong.length - 1] ?? 0) ^ 1;
    for (const inflater of zstdInflaters) {
      for (const spoilt of [
        Buffer.concat([bytes, Buffer.alloc(100)]),
        Buffer.concat([bytes, Buffer.from('x')]),
        wrong,
      ]) {
        expect((await refusal(inflated(spoilt, inflater, 'zstd', 500))).code).toBe('COMPRESSION_INVALID');
        expect((await refusal(inflated(spoilt, inflater, 'zstd'))).code).toBe('COMPRESSION_INVALID');
      }
    }
  });

  it('stops at the size limit', async () => {
    const bomb = zstdOf(Buffer.alloc(60 * MIB));
    for (const inflater of zstdInflaters) {
      const source = inflate(chunked(bomb), 'zstd', { inflater, maxSize: 9 * MIB });
      expect((await refusal(collect(source))).code).toBe('LAYER_LIMIT');
    }
  });
});

describe('without native libraries', () => {
  it('says so, inflates gzip all the same, and names what zstd needs', () => {
    const module = new URL('../../src/content/compression.js', import.meta.url).href;
    const script = `
      const { inflate, inflaterName } = await import(${JSON.stringify(module)});
      const { gzipSync } = await import('node:zlib');
      const from = async function* (bytes) { yield bytes; };
      let text = '';
      for await (const chunk of inflate(from(gzipSync('a layer')), 'gzip')) text += chunk;
      let zstd = 'inflated';
      try {
        for await (const _ of inflate(from(Buffer.from('28b52ffd', 'hex')), 'zstd'));
      } catch (error) { zstd = error.code + ' ' + error.hint; }
      console.log(JSON.stringify({ name: inflaterName(), text, zstd }));`;
    const env = { ...process.env, LAYERD_NO_FFI: '1' };
    const output = execFileSync(process.execPath, ['--input-type=module', '-e', script], { env, encoding: 'utf8' });
    const { name, text, zstd } = JSON.parse(output) as Record<string, string>;
    expect(text).toBe('a layer');
    expect(name).toBe(`gzip: node:zlib, zstd: ${zlibKnowsZstd() ? 'node:zlib' : 'none'}`);
    expect(zstd).toMatch(zlibKnowsZstd() ? /^COMPRESSION_INVALID/ : /^COMPRESSION_UNSUPPORTED .*libzstd/);
  });

  it('names its inflaters', () => {
    expect(inflaterName()).toMatch(/^gzip: (libisal|node:zlib), zstd: (libzstd|node:zlib|none)$/);
  });
});

describe('plain tars', () => {
  it('pass as they are, within the limit', async () => {
    const source = inflate(chunked(plain, 70_000), 'none', { maxSize: plain.length });
    expect((await collect(source)).equals(plain)).toBe(true);
    const beyond = inflate(chunked(plain, 70_000), 'none', { maxSize: plain.length - 1 });
    expect((await refusal(collect(beyond))).code).toBe('LAYER_LIMIT');
  });
});
