/** Layers of a stream that nothing names, and that are stored already: read, compared, not stored again. */
import { expect, it } from 'vitest';
import type { ByteSource } from '../../src/content/source.js';
import { readArchive } from '../../src/image/archive-reader.js';
import { MemoryHost } from './image-host.js';
import { dockerMembers, tarOf, testImage, testLayer, type TestImage } from './image-synthetic.js';

const TEXT = 'some content '.repeat(400);
const BASE = testLayer(TEXT);
const TOP = testLayer('more content '.repeat(90));
const FIRST = testImage([BASE, TOP]);

/** The archive as old docker saves it, layers named by nothing but their place, the manifest last. */
function archiveOf(image: TestImage): Buffer {
  return tarOf(dockerMembers([{ image, tags: ['app:1'] }]));
}

async function* inChunks(bytes: Buffer, size: number): ByteSource {
  for (let at = 0; at < bytes.length; at += size) yield Buffer.from(bytes.subarray(at, at + size));
}

async function load(image: TestImage, host: MemoryHost, chunk = 1000): Promise<{ diffId: string; present: boolean }[]> {
  const input = { stream: inChunks(archiveOf(image), chunk), size: null };
  const [read] = await readArchive(input, host, { platform: { os: 'linux', architecture: 'amd64' } }, never());
  return (read?.layers ?? []).map(({ diffId, present }) => ({ diffId, present }));
}

function never(): AbortSignal {
  return new AbortController().signal;
}

it.each([1, 333, 512, 10_000, 1_000_000])('is found by its bytes, in pieces of %i', async (chunk) => {
  const host = new MemoryHost();
  expect((await load(FIRST, host)).map(({ present }) => present)).toEqual([false, false]);
  const taken = host.ingested.length;
  expect(await load(FIRST, host, chunk)).toEqual(FIRST.layers.map(({ diffId }) => ({ diffId, present: true })));
  expect(host.ingested).toHaveLength(taken);
});

it.each([0, 1, 2600, TEXT.length - 1])('is another layer where byte %i differs', async (at) => {
  const host = new MemoryHost();
  await load(FIRST, host);
  const other = testLayer(`${TEXT.slice(0, at)}X${TEXT.slice(at + 1)}`);
  expect(other.tar).toHaveLength(BASE.tar.length);
  expect(await load(testImage([other, TOP]), host, 700)).toEqual([
    { diffId: other.diffId, present: false },
    { diffId: TOP.diffId, present: true },
  ]);
  expect(host.tars.get(other.diffId)?.equals(other.tar)).toBe(true);
});

it('is stored from the stream where the stored bytes cannot be read to their end', async () => {
  const host = new (class extends MemoryHost {
    protected override async *read(tar: Buffer): ByteSource {
      yield* inChunks(tar.subarray(0, 3000), 700);
      throw new Error('a bad sector');
    }
  })();
  const image = testImage([BASE]);
  await load(image, host);
  const taken = host.ingested.length;
  expect((await load(image, host))[0]?.diffId).toBe(BASE.diffId);
  expect(host.ingested).toHaveLength(taken + 1);
  expect(host.tars.get(BASE.diffId)?.equals(BASE.tar)).toBe(true);
});
