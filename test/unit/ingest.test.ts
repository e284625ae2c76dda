import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newDigester } from '../../src/content/digesting.js';
import { fileSource } from '../../src/content/file-source.js';
import { EMPTY_LAYER_SIZE } from '../../src/content/empty-layer.js';
import { ingest, type Expectation } from '../../src/content/ingest.js';
import type { ByteSource } from '../../src/content/source.js';
import { TarFileWriter } from '../../src/content/tar-file.js';
import { bytesOf } from '../../src/core/bytes.js';
import { digestFromHex } from '../../src/core/digest.js';
import { LayerdError } from '../../src/core/errors.js';
import { describeWith, needsProgram } from '../support.js';
import { chunked, collect, digestOf, KIB, MIB, needsLibrary, refusal, sampleBytes } from './content-samples.js';
import { makeTree, MemorySink, tarBy } from './content-layers.js';

let dir = '';
let tar: Buffer = Buffer.alloc(0);
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'layerd-ingest-'));
  mkdirSync(join(dir, 'tree'));
  makeTree(join(dir, 'tree'));
  tar = tarBy('tar', join(dir, 'tree'), '--format=pax');
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const WRONG = digestFromHex('0'.repeat(64));

/** Ingests into memory; returns what was found, and the sink. */
async function store(source: ByteSource, expected: Expectation = {}) {
  const sink = new MemorySink();
  return { sink, result: await ingest(source, sink, expected) };
}

const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });

/** Ingests what must be refused: aborted once, never committed. */
async function refused(source: ByteSource, expected: Expectation): Promise<LayerdError> {
  const sink = new MemorySink();
  const error = await refusal(ingest(source, sink, expected));
  expect(sink.calls.filter((call) => call === 'commit' || call === 'abort')).toEqual(['abort']);
  return error;
}

/** A sink with one method that fails. */
function failing(change: (sink: MemorySink) => void): MemorySink {
  const sink = new MemorySink();
  change(sink);
  return sink;
}

/** Gives half of the bytes, then nothing any more. */
async function* stalling(bytes: Buffer): AsyncGenerator<Buffer> {
  yield* chunked(bytes.subarray(0, bytes.length / 2), 700_000);
  await new Promise(() => undefined);
}

function raise(error: Error): never {
  throw error;
}

describe('ingest', () => {
  it('finds digests, sizes and entries of a plain tar; one digest serves both', async () => {
    const { result, sink } = await store(chunked(tar, 64 * KIB), { blobDigest: digestOf(tar), diffId: digestOf(tar) });
    expect(result).toEqual({
      diffId: digestOf(tar),
      blobDigest: digestOf(tar),
      blobSize: tar.length,
      compression: 'none',
      size: tar.length,
      entries: sink.entries.length,
      opaqueRoot: false,
      implied: false,
      root: { mode: 0o755, uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, mtime: sink.entries[0]?.mtime },
      facts: { disk: sink.catalog.length, inodes: 1 },
    });
    expect(sink.entries.length).toBeGreaterThan(300);
    expect(Buffer.concat(sink.tar).equals(tar)).toBe(true);
  });

  it('finds those of a compressed one', async () => {
    const blob = gzipSync(tar);
    const { result, sink } = await store(chunked(blob, 10_000), { blobDigest: digestOf(blob), diffId: digestOf(tar) });
    expect(result).toMatchObject({ diffId: digestOf(tar), blobDigest: digestOf(blob), blobSize: blob.length });
    expect(result).toMatchObject({ compression: 'gzip', size: tar.length, entries: sink.entries.length });
    expect(Buffer.concat(sink.tar).equals(tar)).toBe(true);
  });

  it('tells the sink the same, however the bytes come in', async () => {
    const { sink: whole } = await store(chunked(tar));
    for (const size of [511, 512, 10_007, MIB]) {
      const { sink } = await store(chunked(tar, size));
      expect(sink.calls).toEqual(whole.calls);
      expect(sink.steps).toEqual(whole.steps);
      expect([...sink.payloads].map(([index, parts]) => [index, digestOf(Buffer.concat(parts))])).toEqual(
        [...whole.payloads].map(([index, parts]) => [index, digestOf(Buffer.concat(parts))]),
      );
    }
  });

  it('calls step, payload and payloadEnd in the order of the tar, commit and settle last', async () => {
    const { sink } = await store(chunked(tar));
    const at = sink.calls.indexOf('step ./etc/block');
    expect(sink.calls.slice(at, at + 3)).toEqual(['step ./etc/block', 'payload', 'payloadEnd']);
    const empty = sink.calls.indexOf('step ./etc/empty');
    expect(sink.calls[empty + 1]).toBe('payloadEnd');
    const directory = sink.calls.indexOf('step ./etc/deep/');
    expect(sink.calls[directory + 1]).toMatch(/^step/);
    expect(sink.calls.filter((call) => call === 'commit' || call === 'abort')).toEqual(['commit']);
    expect(sink.calls.slice(-2)).toEqual(['commit', 'settle']);
  });

  it.each([
    ['no bytes', Buffer.alloc(0), 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'],
    [
      'the end marker',
      Buffer.alloc(EMPTY_LAYER_SIZE),
      '5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef',
    ],
  ])('takes the empty layer of %s', async (_, bytes, hex) => {
    const { result } = await store(chunked(bytes), { diffId: digestFromHex(hex) });
    expect(result).toMatchObject({ entries: 0, size: bytes.length, compression: 'none', implied: false });
    const { result: zipped } = await store(chunked(gzipSync(bytes)), { diffId: digestFromHex(hex) });
    expect(zipped).toMatchObject({ entries: 0, size: bytes.length, compression: 'gzip' });
  });

  it('says whether directories are implied, and whether the root is opaque', async () => {
    const { result } = await store(chunked(tarOf('a/b/c', '.wh..wh..opq')));
    expect(result).toMatchObject({ entries: 2, implied: true, opaqueRoot: true, root: null });
  });

  it('reports progress that ends at the sizes', async () => {
    const blob = gzipSync(tar);
    const seen: [number, number][] = [];
    await ingest(
      chunked(blob, 100_000),
      new MemorySink(),
      {},
      { progress: (bytesIn, bytesOut) => seen.push([bytesIn, bytesOut]) },
    );
    expect(seen.at(-1)).toEqual([blob.length, tar.length]);
    for (const [index, [bytesIn, bytesOut]] of seen.entries()) {
      expect(bytesIn).toBeGreaterThanOrEqual(seen[index - 1]?.[0] ?? 0);
      expect(bytesOut).toBeGreaterThan(seen[index - 1]?.[1] ?? 0);
    }
  });

  it('comes to the same digests when a slow sink makes it hash on another thread', async () => {
    const blob = gzipSync(tar, { level: 1 });
    const sink = new MemorySink();
    const step = sink.step.bind(sink);
    sink.step = (...args) => {
      const until = performance.now() + 0.5;
      while (performance.now() < until);
      step(...args);
    };
    const expected = { blobDigest: digestOf(blob), diffId: digestOf(tar) };
    expect(await ingest(chunked(blob, 300_000), sink, expected)).toMatchObject(expected);
  });

  it('leaves a chunk alone until the sink is done with it', async () => {
    const sink = new MemorySink();
    const kept: Buffer[] = [];
    sink.bytes = async (chunk) => {
      const before = Buffer.from(chunk);
      await new Promise((resolve) => setTimeout(resolve, 5));
      expect(chunk.equals(before)).toBe(true);
      kept.push(before);
    };
    await ingest(chunked(gzipSync(tar), 20_000), sink, { diffId: digestOf(tar) });
    expect(Buffer.concat(kept).equals(tar)).toBe(true);
  });
});

/** A tar of empty files. */
function tarOf(...names: string[]): Buffer {
  const tree = mkdtempSync(join(dir, 'names-'));
  for (const name of names) {
    mkdirSync(join(tree, name, '..'), { recursive: true });
    writeFileSync(join(tree, name), '');
  }
  return execFileSync('tar', ['-cf', '-', '-C', tree, '--', ...names]);
}

describe('a layer that is not what was expected', () => {
  it('is refused for its diff ID, naming both', async () => {
    for (const bytes of [tar, gzipSync(tar)]) {
      const error = await refused(chunked(bytes), { diffId: WRONG });
      expect([error.code, error.details]).toEqual(['DIFF_ID_MISMATCH', { expected: WRONG, found: digestOf(tar) }]);
    }
  });

  it('is refused for its blob digest, naming both', async () => {
    for (const bytes of [tar, gzipSync(tar)]) {
      const error = await refused(chunked(bytes), { blobDigest: WRONG, diffId: digestOf(tar) });
      expect([error.code, error.details]).toEqual([
        'BLOB_DIGEST_MISMATCH',
        { expected: WRONG, found: digestOf(bytes) },
      ]);
    }
  });

  it('is refused wherever it is cut', async () => {
    for (const length of [1, 511, 513, 100_000, 3 * MIB]) {
      expect((await refused(chunked(tar.subarray(0, length)), {})).code).toBe('TAR_TRUNCATED');
    }
    const blob = gzipSync(tar);
    for (const length of [5, 100, blob.length - 1]) {
      expect((await refused(chunked(blob.subarray(0, length)), {})).code).toBe('COMPRESSION_INVALID');
    }
  });

  it('is refused for other compressions, trailing bytes, and its size', async () => {
    const xz = Buffer.from('fd377a585a000000', 'hex');
    expect((await refused(chunked(xz), {})).code).toBe('COMPRESSION_UNSUPPORTED');
    expect((await refused(chunked(Buffer.concat([gzipSync(tar), xz])), {})).code).toBe('COMPRESSION_INVALID');
    expect((await refused(chunked(gzipSync(tar)), { maxSize: tar.length - 1 })).code).toBe('LAYER_LIMIT');
    expect((await refused(chunked(tar, 70_000), { maxSize: tar.length - 1 })).code).toBe('LAYER_LIMIT');
    await store(chunked(gzipSync(tar)), { maxSize: tar.length });
  });

  it('is refused for names that leave it', async () => {
    const bytes = Buffer.from(tarOf('xx/yy'));
    bytes.write('../yy', 0);
    bytes.write('        ', 148);
    const sum = bytes.subarray(0, 512).reduce((total, byte) => total + byte, 0);
    bytes.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
    expect((await refused(chunked(bytes), {})).code).toBe('TAR_UNSAFE_PATH');
  });
});

describe('a failure on the way', () => {
  it.each([
    ['bytes', (sink: MemorySink) => (sink.bytes = () => Promise.reject(full))],
    ['step', (sink: MemorySink) => (sink.step = () => raise(full))],
    ['payload', (sink: MemorySink) => (sink.payload = () => raise(full))],
    ['payloadEnd', (sink: MemorySink) => (sink.payloadEnd = () => raise(full))],
    ['commit', (sink: MemorySink) => (sink.commit = () => Promise.reject(full))],
  ])('in %s of the sink aborts it and comes out with its own code', async (_, change) => {
    for (const bytes of [tar, gzipSync(tar)]) {
      const sink = failing(change);
      expect((await refusal(ingest(chunked(bytes, 50_000), sink, {}))).code).toBe('NO_SPACE');
      expect(sink.calls.at(-1)).toBe('abort');
    }
  });

  it('is told even if abort fails too', async () => {
    const sink = failing((broken) => {
      broken.step = () => raise(full);
      broken.abort = () => Promise.reject(new Error('and the rest will not go away'));
    });
    expect((await refusal(ingest(chunked(tar), sink, {}))).code).toBe('NO_SPACE');
  });

  it('waits for the sink to be done with the chunk before it aborts', async () => {
    const order: string[] = [];
    const sink = failing((broken) => {
      broken.bytes = async () => {
        await new Promise((resolve) => setTimeout(resolve, 20));
        order.push('written');
      };
      broken.step = () => raise(full);
      broken.abort = async () => void order.push('abort');
    });
    await refusal(ingest(chunked(tar), sink, {}));
    expect(order).toEqual(['written', 'abort']);
  });

  it('of the source comes out as it is, and the source is closed', async () => {
    let closed = false;
    async function* source(): AsyncGenerator<Buffer> {
      try {
        yield* chunked(tar.subarray(0, MIB), 100_000);
        throw new LayerdError('ARCHIVE_TRUNCATED', 'the archive ends too early');
      } finally {
        closed = true;
      }
    }
    const sink = new MemorySink();
    expect((await refusal(ingest(source(), sink, {}))).code).toBe('ARCHIVE_TRUNCATED');
    expect([sink.calls.at(-1), closed]).toEqual(['abort', true]);
  });

  it.each([['plain'], ['gzip']])('a signal ends it at once, even if the %s source hangs', async (kind) => {
    const controller = new AbortController();
    const sink = new MemorySink();
    const bytes = kind === 'gzip' ? gzipSync(tar) : tar;
    const running = ingest(stalling(bytes), sink, {}, { signal: controller.signal });
    setTimeout(() => controller.abort(), 50);
    expect((await refusal(running)).code).toBe('CANCELLED');
    expect(sink.calls.at(-1)).toBe('abort');
  });

  it('a signal that is already there lets nothing begin', async () => {
    const sink = new MemorySink();
    const shutdown = new LayerdError('SHUTTING_DOWN', 'the daemon is going down');
    const error = await refusal(ingest(chunked(tar), sink, {}, { signal: AbortSignal.abort(shutdown) }));
    expect([error, sink.calls]).toEqual([shutdown, ['abort']]);
  });

  it('of the sink is told at once, even if the source hangs', async () => {
    const blob = gzipSync(Buffer.concat([tar, sampleBytes(8 * MIB)]), { level: 0 });
    const sink = failing((broken) => (broken.bytes = () => Promise.reject(full)));
    expect((await refusal(ingest(stalling(blob), sink, {}))).code).toBe('NO_SPACE');
  });
});

describeWith('zstd layers', [needsProgram('zstd'), needsLibrary('libzstd', 'libzstd1')], () => {
  it('are taken', async () => {
    const blob = execFileSync('zstd', ['-q', '-c'], { input: tar, maxBuffer: 64 * MIB });
    const { result } = await store(chunked(blob, 30_000), { blobDigest: digestOf(blob), diffId: digestOf(tar) });
    expect(result.compression).toBe('zstd');
  });
});

describe('newDigester', () => {
  it.each([[false], [true]])('agrees with node:crypto on chunks of all sizes (elsewhere: %s)', async (elsewhere) => {
    const bytes = sampleBytes(5 * MIB);
    const digester = newDigester();
    for await (const chunk of chunked(bytes, 1, 63, 64, 65, 70_000, 3, 65_536, MIB)) {
      await digester.update(chunk, elsewhere);
    }
    expect(digester.digest()).toBe(digestOf(bytes));
  });

  it('hashes side by side', async () => {
    const samples = [1, 2, 3, 4].map((seed) => sampleBytes(2 * MIB, seed));
    const digests = samples.map(async (sample) => {
      const digester = newDigester();
      await digester.update(sample.subarray(0, MIB), true);
      await digester.update(sample.subarray(MIB), true);
      return digester.digest();
    });
    expect(await Promise.all(digests)).toEqual(samples.map(digestOf));
  });
});

function region(): string {
  return join(dir, 'region');
}

describe('fileSource', () => {
  const content = sampleBytes(3 * MIB + 5);
  beforeAll(() => writeFileSync(region(), content));

  it.each([
    [0, 3 * MIB + 5],
    [0, 0],
    [1, 1],
    [77, MIB],
    [5, 2 * MIB],
    [3 * MIB + 5, 0],
  ])('gives the region at %i of %i bytes', async (offset, length) => {
    expect(
      (await collect(fileSource(region(), offset, length))).equals(content.subarray(offset, offset + length)),
    ).toBe(true);
  });

  it('reads from a descriptor and leaves it open', async () => {
    const handle = await open(region(), 'r');
    try {
      for await (const chunk of fileSource(handle.fd, 10, 2 * MIB)) {
        expect(chunk.equals(content.subarray(10, 10 + chunk.length))).toBe(true);
        break;
      }
      expect((await handle.stat()).size).toBe(content.length);
    } finally {
      await handle.close();
    }
  });

  it('refuses a file that ends before the region does', async () => {
    const error = await refusal(collect(fileSource(region(), MIB, 2 * MIB + 6)));
    expect([error.code, error.details]).toEqual([
      'ARCHIVE_TRUNCATED',
      { file: region(), offset: MIB, expected: 2 * MIB + 6, found: 2 * MIB + 5 },
    ]);
  });

  it('passes on what open says', async () => {
    await expect(collect(fileSource(join(dir, 'absent'), 0, 1))).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

describe('TarFileWriter', () => {
  it('writes what it is given, durably, over window after window', async () => {
    const path = join(dir, 'written.tar');
    const writer = new TarFileWriter(path);
    const content = sampleBytes(45 * MIB + 17);
    for await (const chunk of chunked(content, MIB)) await writer.write(chunk);
    const { size, disk } = await writer.finish({ dropCache: true });
    expect(size).toBe(content.length);
    expect(disk).toBeGreaterThanOrEqual(content.length);
    expect(readFileSync(path).equals(content)).toBe(true);
  });

  it('takes overlapping writes', async () => {
    const path = join(dir, 'overlapping.tar');
    const writer = new TarFileWriter(path);
    const parts = [1, 2, 3, 4, 5].map((seed) => sampleBytes(700_000, seed));
    const writes = parts.map(async (part) => writer.write(part));
    expect(writer.size).toBe(3_500_000);
    await writer.finish({ dropCache: false });
    await Promise.all(writes);
    expect(readFileSync(path).equals(Buffer.concat(parts))).toBe(true);
  });

  it('refuses to write over a file, and leaves nothing after abort', async () => {
    const path = join(dir, 'aborted.tar');
    const writer = new TarFileWriter(path);
    expect(() => new TarFileWriter(path)).toThrow(/EEXIST/);
    const writing = writer.write(sampleBytes(MIB));
    await writer.abort();
    await writing;
    expect(existsSync(path)).toBe(false);
  });

  it('tells an error of the disk, and can be aborted then', async () => {
    if (process.platform !== 'linux') return;
    const path = join(dir, 'full.tar');
    const writer = new TarFileWriter(path);
    // More than a file may have on any file system of Linux.
    Object.assign(writer, { bytes: Number.MAX_SAFE_INTEGER });
    expect(() => writer.write(Buffer.alloc(512))).toThrow(/EFBIG/);
    Object.assign(writer, { bytes: Number.MAX_SAFE_INTEGER });
    await expect(writer.write(Buffer.alloc(MIB))).rejects.toMatchObject({ code: 'EFBIG' });
    await writer.abort();
    expect(existsSync(path)).toBe(false);
  });
});

it('paths of entries are bytes', async () => {
  const { sink } = await store(chunked(tar));
  expect(
    sink.entries.some(
      (entry) =>
        entry.path === Buffer.concat([Buffer.from('./etc/'), Buffer.from([0xff, 0xfe, 0x2e])]).toString('latin1'),
    ),
  ).toBe(true);
  expect(sink.tree?.lookup(bytesOf('etc/one'))?.mode).toBe(0o4755);
});
