/** Whatever bytes come: an image, or an error that says what is wrong. Never another exception, never memory without bound. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ArchiveInput } from '../../src/core/api.js';
import { bytesOf } from '../../src/core/bytes.js';
import { LayerdError } from '../../src/core/errors.js';
import { LIMITS } from '../../src/core/limits.js';
import { familiarReference, normalizeReference } from '../../src/core/reference.js';
import { readArchive } from '../../src/image/archive-reader.js';
import { applyChanges } from '../../src/image/dockerfile.js';
import { parseConfig, parseDockerArchive, parseImageDocument, parseIndex } from '../../src/image/documents.js';
import { encodeEntry, padding } from '../../src/tar/writer.js';
import { chunksOf, MemoryHost } from '../unit/image-host.js';
import {
  blobMember,
  descriptor,
  dockerMembers,
  indexOf,
  json,
  layoutMembers,
  type Member,
  named,
  tarOf,
  testImage,
  testLayer,
} from '../unit/image-synthetic.js';
import { runs } from './runs.js';

let scratch = '';
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'layerd-fuzz-'));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const APP = testImage([testLayer('base'), testLayer('top', true)]);
const INDEX = indexOf([descriptor(APP.manifest, { platform: { os: 'linux', architecture: 'amd64' } })]);
const LAYOUT = [
  ...layoutMembers([APP], [descriptor(INDEX, named('app:1'), 'index')]),
  blobMember(INDEX),
  { path: 'manifest.json', bytes: json([{ Config: 'x.json', RepoTags: ['app:1'], Layers: [] }]) },
];
const DOCKER = dockerMembers([
  { image: APP, tags: ['app:1'] },
  { image: APP, tags: ['app:2'] },
]);

/** Fails unless `run` succeeds or throws an error that blames the input. */
async function blamesInput(run: () => unknown): Promise<void> {
  try {
    await run();
  } catch (error) {
    if (!(error instanceof LayerdError)) throw error;
    expect(['invalid', 'unsupported', 'exhausted', 'not_found'], error.message).toContain(error.kind);
  }
}

async function readBothWays(tar: Buffer, chunk: number): Promise<void> {
  const path = join(scratch, 'fuzz.tar');
  writeFileSync(path, tar);
  const inputs: ArchiveInput[] = [{ path }, { stream: chunksOf(tar, chunk), size: tar.length }];
  for (const input of inputs) {
    const host = new MemoryHost();
    await blamesInput(() => readArchive(input, host, {}, new AbortController().signal));
    expect(host.running).toBe(0);
  }
}

/** Changes of a byte, and of whole blocks: those keep headers whole, so that more of it is believed. */
const mutation = fc.oneof(
  fc.record({ kind: fc.constant('byte' as const), at: fc.nat(), value: fc.integer({ min: 0, max: 255 }) }),
  fc.record({ kind: fc.constantFrom('cut', 'drop', 'double', 'zero'), at: fc.nat(), value: fc.constant(0) }),
);

function mutated(bytes: Buffer, mutations: { kind: string; at: number; value: number }[]): Buffer {
  return mutations.reduce((current, { kind, at, value }) => {
    if (current.length === 0) return current;
    const copy = Buffer.from(current);
    const block = Math.floor((at % copy.length) / 512) * 512;
    const [before, here, after] = [
      copy.subarray(0, block),
      copy.subarray(block, block + 512),
      copy.subarray(block + 512),
    ];
    if (kind === 'cut') return copy.subarray(0, at % copy.length);
    if (kind === 'drop') return Buffer.concat([before, after]);
    if (kind === 'double') return Buffer.concat([before, here, here, after]);
    if (kind === 'zero') here.fill(0);
    else copy[at % copy.length] = value;
    return copy;
  }, bytes);
}

describe('mutated archives', () => {
  it.each([
    ['OCI layout', LAYOUT],
    ['docker-archive', DOCKER],
  ])('%s', async (_name, members) => {
    const tar = tarOf(members);
    const mutations = fc.array(mutation, { minLength: 1, maxLength: 6 });
    const property = fc.asyncProperty(mutations, fc.integer({ min: 1, max: 4000 }), (changes, chunk) =>
      readBothWays(mutated(tar, changes), chunk),
    );
    await fc.assert(property, { numRuns: runs(200) });
  });

  it('members lost, doubled and shuffled', async () => {
    const members = fc.array(fc.constantFrom<Member>(...LAYOUT, ...DOCKER), { maxLength: 30 });
    const property = fc.asyncProperty(members, (chosen) => readBothWays(tarOf(chosen), 1000));
    await fc.assert(property, { numRuns: runs(100) });
  });
});

/** The document with the value at one place replaced: the places are counted through the whole of it. */
function withReplaced(document: unknown, place: number, value: unknown): unknown {
  let left = place;
  const visit = (node: unknown): unknown => {
    if (left-- === 0) return value;
    if (Array.isArray(node)) return node.map(visit);
    if (typeof node !== 'object' || node === null) return node;
    return Object.fromEntries(Object.entries(node).map(([name, child]) => [name, visit(child)]));
  };
  return visit(document);
}

const anything = fc.oneof(
  fc.jsonValue(),
  fc.constantFrom(null, -1, 1e300, 0.5, '', '../..', [], {}, 'sha256:', `sha256:${'0'.repeat(64)}`, {
    __proto__: null,
  }),
);

describe('mutated documents', () => {
  const parsers: [string, Buffer, (bytes: Buffer) => unknown][] = [
    ['index', INDEX, (bytes) => parseIndex('index', bytes)],
    ['manifest', APP.manifest, (bytes) => parseImageDocument('manifest', bytes, '')],
    ['config', APP.config, (bytes) => parseConfig('config', bytes)],
    [
      'manifest.json',
      json([{ Config: 'a', RepoTags: ['b'], Layers: ['c'] }]),
      (bytes) => parseDockerArchive('m', bytes),
    ],
  ];

  it.each(parsers)('%s', async (_name, bytes, parse) => {
    const document: unknown = JSON.parse(bytes.toString());
    const property = fc.asyncProperty(fc.nat({ max: 40 }), anything, (place, value) =>
      blamesInput(() => parse(json(withReplaced(document, place, value)))),
    );
    await fc.assert(property, { numRuns: runs(500) });
    const raw = fc.asyncProperty(fc.array(mutation, { maxLength: 4 }), (changes) =>
      blamesInput(() => parse(mutated(bytes, changes))),
    );
    await fc.assert(raw, { numRuns: runs(500) });
  });

  it('in an archive whose digests are right', async () => {
    const config: unknown = JSON.parse(APP.config.toString());
    const manifest: unknown = JSON.parse(APP.manifest.toString());
    const property = fc.asyncProperty(fc.boolean(), fc.nat({ max: 40 }), anything, async (inConfig, place, value) => {
      const changed = json(withReplaced(inConfig ? config : manifest, place, value));
      const manifestBytes = inConfig
        ? json({ ...(manifest as object), config: descriptor(changed, {}, 'config') })
        : changed;
      const members = [
        ...layoutMembers([APP], [descriptor(manifestBytes)]),
        blobMember(manifestBytes),
        blobMember(changed),
      ];
      await readBothWays(tarOf(members), 4000);
    });
    await fc.assert(property, { numRuns: runs(200) });
  });
});

describe('text from people', () => {
  const nameLike = fc.string({
    unit: fc.constantFrom('a', 'B', '0', '.', '-', '_', '/', ':', '@', ' ', 'é', 'localhost', 'sha256:'),
  });

  it('references: refused, or whole, and whole stays whole', async () => {
    const property = fc.asyncProperty(nameLike, (text) =>
      blamesInput(() => {
        const whole = normalizeReference(text);
        expect(normalizeReference(whole)).toBe(whole);
        expect(normalizeReference(familiarReference(whole))).toBe(whole);
      }),
    );
    await fc.assert(property, { numRuns: runs(3000) });
  });

  it('changes of a commit', async () => {
    const words = fc.constantFrom(
      'ENV',
      'LABEL',
      'CMD',
      'EXPOSE',
      'VOLUME',
      ' ',
      '=',
      '"',
      "'",
      '\\',
      '$',
      '{',
      '}',
      ':-',
      'a',
      '[',
      ']',
      '\n',
    );
    const property = fc.asyncProperty(fc.array(fc.string({ unit: words }), { maxLength: 4 }), (changes) =>
      blamesInput(() => applyChanges({ Env: ['A=1'] }, changes)),
    );
    await fc.assert(property, { numRuns: runs(2000) });
  });
});

async function* endlessMembers(): AsyncGenerator<Buffer> {
  for (let i = 0; ; i++) {
    await Promise.resolve();
    yield header(`member ${i}`, 0);
  }
}

describe('memory', () => {
  it('documents without end are refused before they fill it', async () => {
    const size = 10 * 1024 * 1024;
    const document = Buffer.alloc(size, ' ');
    document.write('[');
    let sent = 0;
    async function* endless(): AsyncGenerator<Buffer> {
      for (let i = 0; i < 1000; i++) {
        await Promise.resolve();
        yield header(`blobs/sha256/${String(i).padStart(64, '0')}`, size);
        yield document;
        sent += size;
        yield Buffer.alloc(padding(size));
      }
    }
    const before = process.memoryUsage().arrayBuffers;
    const reading = readArchive({ stream: endless(), size: null }, new MemoryHost(), {}, new AbortController().signal);
    await expect(reading).rejects.toMatchObject({ code: 'ARCHIVE_LIMIT' });
    expect(sent).toBeLessThanOrEqual(LIMITS.jsonDocumentsTotal);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 * LIMITS.jsonDocumentsTotal);
  });

  it('members without end are refused', async () => {
    const reading = readArchive(
      { stream: endlessMembers(), size: null },
      new MemoryHost(),
      {},
      new AbortController().signal,
    );
    await expect(reading).rejects.toMatchObject({ code: 'ARCHIVE_LIMIT' });
  });

  it('a size that a header claims is not believed', async () => {
    const tar = Buffer.concat([header('manifest.json', 2 ** 40), Buffer.from('[')]);
    await readBothWays(tar, 1000);
  });
});

function header(path: string, size: number): Buffer {
  return encodeEntry({
    type: 'file',
    path: bytesOf(path),
    linkPath: bytesOf(''),
    mode: 0o644,
    uid: 0,
    gid: 0,
    size,
    mtime: { sec: 0, nsec: 0 },
    devMajor: 0,
    devMinor: 0,
    xattrs: null,
  });
}
