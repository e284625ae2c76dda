import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CatalogBuilder, type CatalogFacts, type CatalogRecord } from '../../src/content/catalog.js';
import { catalogTree, readCatalog, readCatalogFacts, writeCatalog } from '../../src/content/catalog-file.js';
import { ingest } from '../../src/content/ingest.js';
import { walkLayer } from '../../src/content/layer-tree.js';
import { describeWith, needsProgram } from '../support.js';
import { chunked, digestOf, MIB, refusal, sampleBytes } from './content-samples.js';
import { makeTree, MemorySink, tarBy } from './content-layers.js';

const FACTS: CatalogFacts = {
  diffId: digestOf(Buffer.from('a layer')),
  size: 12_345_678_901,
  entries: 3,
  driver: 'erofs',
  opaqueRoot: true,
  implied: 2,
  created: 1_700_000_000_000,
};

let dir = '';
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'layerd-catalog-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

let made = 0;
/** Writes a catalog of the records and returns its path. */
async function catalogOf(records: readonly CatalogRecord[], facts = FACTS): Promise<string> {
  const builder = new CatalogBuilder();
  for (const record of records) {
    if ('raw' in record) builder.raw(record.raw);
    else builder.payload(record.payload);
    await builder.pressure();
  }
  const path = join(dir, `catalog${made++}`);
  writeCatalog(path, await builder.finish(facts));
  return path;
}

/** The records with neighbouring raw bytes joined. */
async function recordsIn(path: string): Promise<(string | number)[]> {
  const joined: (string | number)[] = [];
  for await (const record of readCatalog(path)) {
    const last = joined.at(-1);
    if ('payload' in record) joined.push(record.payload);
    else if (typeof last === 'string') joined[joined.length - 1] = last + record.raw.toString('latin1');
    else joined.push(record.raw.toString('latin1'));
  }
  return joined;
}

async function readWhole(path: string): Promise<void> {
  for await (const record of readCatalog(path)) expect(record).toBeDefined();
}

const SMALL: CatalogRecord[] = [
  { raw: Buffer.from('header one') },
  { payload: 5 },
  { raw: Buffer.from('padding, header two') },
  { payload: 12_000_000_000 },
  { raw: Buffer.alloc(1024) },
];

describe('a catalog', () => {
  it('gives back facts and records', async () => {
    const path = await catalogOf(SMALL);
    expect(await readCatalogFacts(path)).toEqual(FACTS);
    expect(await recordsIn(path)).toEqual(['header one', 5, 'padding, header two', 12_000_000_000, '\0'.repeat(1024)]);
  });

  it('of nothing has facts and no records', async () => {
    const path = await catalogOf([]);
    expect(await readCatalogFacts(path)).toEqual(FACTS);
    expect(await recordsIn(path)).toEqual([]);
  });

  it('spans blocks: raw bytes and payloads at and over the edges', async () => {
    for (let edge = MIB - 30; edge <= MIB + 2; edge++) {
      const head = sampleBytes(edge, edge);
      const path = await catalogOf([{ raw: head }, { payload: 7 }, { raw: Buffer.from('z') }, { payload: 8 }]);
      expect(await recordsIn(path)).toEqual([head.toString('latin1'), 7, 'z', 8]);
      rmSync(path);
    }
    const long = sampleBytes(5 * MIB + 3);
    expect(await recordsIn(await catalogOf([{ payload: 1 }, { raw: long }]))).toEqual([1, long.toString('latin1')]);
  });

  it('says in its first lines what it is', async () => {
    const text = readFileSync(await catalogOf(SMALL), 'latin1');
    expect(text).toMatch(/^layerd catalog 1 \d{10} sha256:[0-9a-f]{64}\n\{"facts":\{"diffId":"sha256:/);
  });

  it('is not written over another one', async () => {
    const path = await catalogOf(SMALL);
    expect(() => writeCatalog(path, [])).toThrow(/EEXIST/);
  });
});

describe('a damaged catalog', () => {
  it('is noticed, whichever bit is wrong', async () => {
    const path = await catalogOf(SMALL);
    const good = readFileSync(path);
    for (let at = 0; at < good.length; at++) {
      const bad = Buffer.from(good);
      bad[at] = (bad[at] ?? 0) ^ (1 << (at % 8));
      writeFileSync(path, bad);
      const error = await refusal(readWhole(path));
      expect([error.code, error.details['catalog']], `byte ${at}`).toEqual(['LAYER_DAMAGED', true]);
    }
  });

  it('is noticed, wherever it is cut, and whatever is added', async () => {
    const path = await catalogOf(SMALL);
    const good = readFileSync(path);
    for (let length = 0; length < good.length; length++) {
      writeFileSync(path, good);
      truncateSync(path, length);
      expect((await refusal(readWhole(path))).code, `cut to ${length}`).toBe('LAYER_DAMAGED');
    }
    writeFileSync(path, good);
    appendFileSync(path, Buffer.alloc(1));
    expect((await refusal(readWhole(path))).code).toBe('LAYER_DAMAGED');
  });

  it('gives no record of a block that is damaged', async () => {
    const path = await catalogOf([{ raw: sampleBytes(2 * MIB + 100) }]);
    const bytes = readFileSync(path);
    bytes[bytes.length - 1] = (bytes[bytes.length - 1] ?? 0) ^ 0x80;
    writeFileSync(path, bytes);
    let given = 0;
    const reading = async () => {
      for await (const record of readCatalog(path)) given += 'raw' in record ? record.raw.length : 0;
    };
    await refusal(reading());
    expect(given).toBeLessThanOrEqual(2 * MIB);
    expect(given).toBeGreaterThan(0);
  });

  it('of another version is not called damaged', async () => {
    const path = await catalogOf(SMALL);
    const text = readFileSync(path, 'latin1');
    const [, length = ''] = /^layerd catalog 1 (\d{10})/.exec(text) ?? [];
    const end = text.indexOf('\n') + 1;
    const json = text.slice(end, end + Number(length));
    const prefix = `layerd catalog 2 ${length}`;
    const digest = digestOf(Buffer.from(prefix + json, 'latin1'));
    writeFileSync(path, Buffer.from(`${prefix} ${digest}\n${text.slice(end)}`, 'latin1'));
    expect((await refusal(readCatalogFacts(path))).code).toBe('STORE_NEWER');
  });

  it('whose sizes do not fit its headers is not taken for a layer', async () => {
    const tar = new MemorySink();
    const header = Buffer.alloc(512);
    header.write('file');
    header.write('0000644\u00000000000\u00000000000\u000000000000005\u000000000000000\u0000', 100, 'latin1');
    header.write('        0', 148);
    header.write('ustar\u000000', 257, 'latin1');
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    const padding = Buffer.alloc(507);
    await ingest(chunked(Buffer.concat([header, Buffer.from('12345'), padding])), tar, {});
    const wrong = await catalogOf([{ raw: header }, { payload: 6 }, { raw: padding }]);
    expect((await refusal(catalogTree(wrong))).code).toBe('LAYER_DAMAGED');
    const absent = await catalogOf([{ raw: header }, { raw: Buffer.concat([Buffer.alloc(5), padding]) }]);
    expect((await refusal(catalogTree(absent))).code).toBe('LAYER_DAMAGED');
  });

  it('that is not there is an errno', async () => {
    await expect(readCatalogFacts(join(dir, 'absent'))).rejects.toMatchObject({ code: 'LAYER_DAMAGED' });
  });
});

describeWith('the catalog of a real tar', [needsProgram('tar')], () => {
  it('rebuilds the tree that the tar built, and says what it is', async () => {
    const tree = join(dir, 'tree');
    mkdirSync(tree);
    makeTree(tree);
    const tar = tarBy('tar', tree, '--format=pax', '-S');
    const path = join(dir, 'real');
    const sink = new MemorySink(path);
    const result = await ingest(chunked(tar, 100_000), sink, {});
    const again = await catalogTree(path);
    expect(sink.tree).not.toBeNull();
    expect([...walkLayer(again.root)]).toEqual([...walkLayer(sink.tree?.root ?? again.root)]);
    expect(again.root).toEqual(sink.tree?.root);
    expect(await readCatalogFacts(path)).toEqual({
      diffId: digestOf(tar),
      size: tar.length,
      entries: result.entries,
      driver: 'copy',
      opaqueRoot: false,
      implied: 0,
      created: expect.any(Number) as number,
    });
    expect(sink.catalog.length).toBeLessThan(tar.length / 20);
  });
});
