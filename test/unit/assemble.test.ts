import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { assemble, type PayloadOf } from '../../src/content/assemble.js';
import { ingest } from '../../src/content/ingest.js';
import { describeWith, needsProgram } from '../support.js';
import { chunked, collect, KIB, refusal, sampleBytes } from './content-samples.js';
import { makeTree, MemorySink, tarBy } from './content-layers.js';

let dir = '';
let tree = '';
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'layerd-assemble-'));
  tree = join(dir, 'tree');
  mkdirSync(tree);
  makeTree(tree);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

let made = 0;
/** Stores a tar: its catalog in a file, its payloads in memory. */
async function stored(
  tar: Buffer,
  chunk = 64 * KIB,
): Promise<{ path: string; sink: MemorySink; payloadOf: PayloadOf }> {
  const path = join(dir, `catalog${made++}`);
  const sink = new MemorySink(path);
  await ingest(chunked(tar, chunk), sink, {});
  return { path, sink, payloadOf: (_entry, index) => sink.payloads.get(index) ?? [] };
}

async function expectSame(tar: Buffer): Promise<void> {
  const { path, payloadOf } = await stored(tar);
  const again = await collect(assemble(path, payloadOf));
  expect(again.length).toBe(tar.length);
  expect(again.equals(tar)).toBe(true);
}

/** A ustar header block; `change` spoils or sets other fields before the checksum is made. */
function header(name: string, size: number, change: (block: Buffer) => void = () => undefined): Buffer {
  const block = Buffer.alloc(512);
  block.write(name, 0, 'latin1');
  block.write('0000644\u00000000000\u00000000000\u0000', 100, 'latin1');
  block.write(`${size.toString(8).padStart(11, '0')}\u000000000000000\u0000`, 124, 'latin1');
  block.write('        0', 148, 'latin1');
  block.write('ustar\u000000', 257, 'latin1');
  change(block);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\u0000 `, 148, 'latin1');
  return block;
}

/** A file's header, payload and padding of the given byte. */
function file(name: string, content: string, pad = 0): Buffer {
  const padding = Buffer.alloc((512 - (content.length % 512)) % 512, pad);
  return Buffer.concat([header(name, content.length), Buffer.from(content), padding]);
}

const END = Buffer.alloc(1024);

describe('assembling a tar', () => {
  it.each([
    ['of nothing at all', []],
    ['of the end marker alone', [END]],
    ['of one file', [file('a', 'hello'), END]],
    ['without an end marker', [file('a', 'hello')]],
    ['with padding that is not zero', [file('a', 'hello', 0xa5), END]],
    ['that ends without padding', [header('a', 5), Buffer.from('hello')]],
    ['with garbage behind the end', [file('a', 'hello'), END, sampleBytes(70_001)]],
    [
      'with names that come again',
      [file('a', 'first'), file('a', 'second'), file('b/c', 'x'), file('b', 'now a file'), END],
    ],
    [
      'with whiteouts that have content',
      [file('.wh.a', 'odd'), file('.wh..wh..opq', 'odder'), file('.wh..wh.plnk', 'kept'), END],
    ],
    ['with odd but valid numbers', [header('a', 0, (block) => block.write('   644 \0', 100, 'latin1')), END]],
  ])('%s gives it back', async (_, parts) => {
    await expectSame(Buffer.concat(parts));
  });

  it('asks for the payload of every entry that has one, by its index, replaced ones too', async () => {
    const tar = Buffer.concat([file('a', 'first'), header('d/', 0), file('a', 'second'), file('.wh.x', 'odd'), END]);
    const { path, payloadOf } = await stored(tar);
    const asked: [string, number][] = [];
    await collect(
      assemble(path, (entry, index) => {
        asked.push([entry.path, index]);
        return payloadOf(entry, index);
      }),
    );
    expect(asked).toEqual([
      ['a', 0],
      ['a', 2],
      ['.wh.x', 3],
    ]);
  });

  it('takes payloads from asynchronous sources, in pieces of any size', async () => {
    const tar = Buffer.concat([file('a', 'hello'.repeat(1000)), file('b', 'x'), END]);
    const { path, sink } = await stored(tar);
    const payload = (index: number) => Buffer.concat(sink.payloads.get(index) ?? []);
    expect((await collect(assemble(path, (_, index) => chunked(payload(index), 3)))).equals(tar)).toBe(true);
  });

  it.each([
    ['shorter', 'hell'],
    ['longer', 'hello!'],
    ['missing', ''],
  ])('refuses a payload that is %s than the tar says, by name', async (_, content) => {
    const { path } = await stored(Buffer.concat([file('some/file', 'hello'), END]));
    const error = await refusal(collect(assemble(path, () => (content === '' ? [] : [Buffer.from(content)]))));
    expect([error.code, error.details['path'], error.details['expected']]).toEqual(['LAYER_DAMAGED', 'some/file', 5]);
  });

  it('refuses a damaged catalog', async () => {
    const { path, payloadOf } = await stored(Buffer.concat([file('a', 'hello'), END]));
    const bytes = readFileSync(path);
    bytes[bytes.length - 3] = (bytes[bytes.length - 3] ?? 0) ^ 4;
    writeFileSync(path, bytes);
    const error = await refusal(collect(assemble(path, payloadOf)));
    expect([error.code, error.details['catalog']]).toEqual(['LAYER_DAMAGED', true]);
  });

  it('lets go of the payload at hand when the reader leaves', async () => {
    const { path } = await stored(Buffer.concat([file('a', 'x'.repeat(2_000_000)), END]));
    let closed = false;
    function* payload(): Generator<Buffer> {
      try {
        for (;;) yield Buffer.alloc(500_000, 'x');
      } finally {
        closed = true;
      }
    }
    for await (const chunk of assemble(path, payload)) {
      expect(chunk.length).toBeGreaterThan(0);
      break;
    }
    expect(closed).toBe(true);
  });
});

describeWith('assembling what GNU tar wrote', [needsProgram('tar')], () => {
  it.each(['gnu', 'oldgnu', 'pax', 'posix', 'ustar', 'v7'])('--format=%s', async (format) => {
    const short = ['ustar', 'v7'].includes(format) ? [`--exclude=${'n'.repeat(250)}`] : [];
    await expectSame(tarBy('tar', tree, `--format=${format}`, ...short));
  });

  it.each([
    ['old GNU', ['--format=gnu']],
    ['PAX 0.0', ['--format=pax', '--sparse-version=0.0']],
    ['PAX 0.1', ['--format=pax', '--sparse-version=0.1']],
    ['PAX 1.0', ['--format=pax', '--sparse-version=1.0']],
  ])('sparse files as %s: the stored segments only', async (_, args) => {
    const tar = tarBy('tar', tree, '-S', ...args);
    const { sink } = await stored(tar);
    const sparse = sink.entries.findIndex((entry) => entry.sparse !== null);
    const entry = sink.entries[sparse];
    expect(entry?.storedSize).toBeLessThan(entry?.size ?? 0);
    expect(Buffer.concat(sink.payloads.get(sparse) ?? [])).toHaveLength(entry?.storedSize ?? -1);
    await expectSame(tar);
  });

  it('blocked to any factor', async () => {
    await expectSame(tarBy('tar', tree, '-b', '1'));
    await expectSame(tarBy('tar', tree, '-b', '2048'));
  });
});

describeWith('assembling what bsdtar wrote', [needsProgram('bsdtar', 'libarchive-tools')], () => {
  it.each(['pax', 'gnutar', 'ustar'])('--format=%s', async (format) => {
    await expectSame(tarBy('bsdtar', tree, `--format=${format}`));
  });
});
