import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { assemble } from '../../src/content/assemble.js';
import { CatalogBuilder, type CatalogRecord } from '../../src/content/catalog.js';
import { readCatalog, writeCatalog } from '../../src/content/catalog-file.js';
import { ingest } from '../../src/content/ingest.js';
import { bytesOf, fromBuffer } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import { padding } from '../../src/tar/entry.js';
import { encodeEntry } from '../../src/tar/writer.js';
import { MemorySink } from '../unit/content-layers.js';
import { chunked, collect, digestOf, MIB, sampleBytes } from '../unit/content-samples.js';
import { runs } from './runs.js';

let dir = '';
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'layerd-catalog-fuzz-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const record: fc.Arbitrary<CatalogRecord> = fc.oneof(
  fc.uint8Array({ maxLength: 2000 }).map((bytes) => ({ raw: Buffer.from(bytes) })),
  fc.tuple(fc.nat(MIB + 10), fc.nat(50)).map(([length, seed]) => ({ raw: sampleBytes(length, seed) })),
  fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }).map((payload) => ({ payload })),
);

const FACTS = {
  diffId: digestOf(Buffer.alloc(0)),
  size: 0,
  entries: 0,
  driver: 'copy',
  opaqueRoot: false,
  implied: 0,
  created: 0,
} as const;

/** Raw bytes joined, payload sizes between them: what a catalog must keep. */
function essence(records: readonly CatalogRecord[]): string {
  let text = '';
  let run: Buffer[] = [];
  const close = () => {
    if (run.some((part) => part.length > 0)) text += `raw ${digestOf(Buffer.concat(run))}\n`;
    run = [];
  };
  for (const item of records) {
    if ('raw' in item) {
      run.push(item.raw);
    } else {
      close();
      text += `payload ${item.payload}\n`;
    }
  }
  close();
  return text;
}

async function write(records: readonly CatalogRecord[]): Promise<string> {
  const builder = new CatalogBuilder();
  for (const item of records) {
    if ('raw' in item) builder.raw(item.raw);
    else builder.payload(item.payload);
  }
  const path = join(dir, 'catalog');
  rmSync(path, { force: true });
  writeCatalog(path, await builder.finish(FACTS));
  return path;
}

async function readAll(path: string): Promise<CatalogRecord[]> {
  const records: CatalogRecord[] = [];
  for await (const item of readCatalog(path)) records.push(item);
  return records;
}

describe('catalogs of anything', () => {
  it('keep every record', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(record, { maxLength: 25 }), async (records) => {
        expect(essence(await readAll(await write(records)))).toBe(essence(records));
      }),
      { numRuns: runs(60) },
    );
  });

  it('never give a wrong record, whatever happened to the file', async () => {
    const damage = fc.array(
      fc.record({
        position: fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
        bytes: fc.uint8Array({ minLength: 1, maxLength: 20 }),
        kind: fc.constantFrom('overwrite', 'insert', 'remove', 'cut'),
      }),
      { minLength: 1, maxLength: 3 },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(record, { maxLength: 6 }), damage, async (records, damages) => {
        const path = await write(records);
        const good = readFileSync(path);
        const bad = damages.reduce((bytes, { position, bytes: patch, kind }) => {
          const at = Math.floor(position * bytes.length);
          if (kind === 'cut') return bytes.subarray(0, at);
          const rest = bytes.subarray(kind === 'insert' ? at : at + patch.length);
          return Buffer.concat([bytes.subarray(0, at), kind === 'remove' ? Buffer.alloc(0) : patch, rest]);
        }, good);
        if (bad.equals(good)) return;
        writeFileSync(path, bad);
        const code = await readAll(path).then(
          () => 'taken',
          (thrown: unknown) => (thrown instanceof LayerdError ? thrown.code : String(thrown)),
        );
        expect(code).toBe('LAYER_DAMAGED');
      }),
      { numRuns: runs(200) },
    );
  });
});

const entry = fc.record({
  path: fc
    .uint8Array({ minLength: 1, maxLength: 150 })
    .filter((bytes) => bytes.every((byte) => byte !== 0 && byte !== 0x2f && byte !== 0x2e)),
  type: fc.constantFrom('file' as const, 'directory' as const, 'symlink' as const, 'fifo' as const),
  length: fc.oneof(fc.nat(2000), fc.nat(300_000)),
  pad: fc.integer({ min: 0, max: 255 }),
  mtime: fc.record({ sec: fc.integer({ min: -(2 ** 40), max: 2 ** 40 }), nsec: fc.nat(999_999_999) }),
  uid: fc.nat(2 ** 31),
});

const archive = fc.record({
  entries: fc.array(entry, { maxLength: 8 }),
  tail: fc.constantFrom(0, 1024, 1025, 10_240),
  chunks: fc.array(fc.integer({ min: 1, max: 70_000 }), { minLength: 1, maxLength: 6 }),
});

describe('tars of anything', () => {
  it('come out of catalog and payloads as they went in', async () => {
    await fc.assert(
      fc.asyncProperty(archive, async ({ entries, tail, chunks }) => {
        const parts = entries.flatMap(({ path, type, length, pad, mtime, uid }, index) => {
          const size = type === 'file' ? length : 0;
          const header = encodeEntry({
            type,
            path: fromBuffer(path),
            linkPath: bytesOf(type === 'symlink' ? 'elsewhere' : ''),
            mode: 0o644,
            uid,
            gid: 0,
            size,
            mtime,
            devMajor: 0,
            devMinor: 0,
            xattrs: null,
          });
          return [header, sampleBytes(size, index + 1), Buffer.alloc(padding(size), pad)];
        });
        // Only behind the end marker may there be bytes that are not whole blocks.
        const tar = Buffer.concat([...parts, Buffer.alloc(tail)]);
        const path = join(dir, 'whole');
        rmSync(path, { force: true });
        const sink = new MemorySink(path);
        const result = await ingest(chunked(tar, ...chunks, 65_536), sink, { diffId: digestOf(tar) });
        expect(result.entries).toBe(entries.length);
        expect((await collect(assemble(path, (_, index) => sink.payloads.get(index) ?? []))).equals(tar)).toBe(true);
      }),
      { numRuns: runs(80) },
    );
  });
});
