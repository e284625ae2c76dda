import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ArchiveInput, LoadOptions } from '../../src/core/api.js';
import { type Digest, digestHex, sha256 } from '../../src/core/digest.js';
import { LayerdError } from '../../src/core/errors.js';
import { LIMITS } from '../../src/core/limits.js';
import { formatPlatform, parsePlatform } from '../../src/core/platform.js';
import { padding } from '../../src/tar/entry.js';
import { readArchive } from '../../src/image/archive-reader.js';
import type { IngestedLayer, ParsedImage } from '../../src/image/host.js';
import { chunksOf, MemoryHost } from './image-host.js';
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
  type TestLayer,
  testLayer,
  writeMembers,
} from './image-synthetic.js';

const MACHINE = process.arch === 'arm64' ? 'arm64' : 'amd64';
const OTHER = MACHINE === 'arm64' ? 'amd64' : 'arm64';

let scratch = '';
let files = 0;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'layerd-archive-'));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

function fileOf(bytes: Buffer, name = `${files++}.tar`): ArchiveInput {
  const path = join(scratch, name);
  writeFileSync(path, bytes);
  return { path };
}

function streamOf(bytes: Buffer, chunk = 1000): ArchiveInput {
  return { stream: chunksOf(bytes, chunk), size: bytes.length };
}

function directoryOf(members: readonly Member[], name = `directory${files++}`): ArchiveInput {
  return { path: writeMembers(join(scratch, name), members) };
}

function read(input: ArchiveInput, options: LoadOptions = {}, host = new MemoryHost()): Promise<ParsedImage[]> {
  return readArchive(input, host, options, new AbortController().signal);
}

async function failure(input: ArchiveInput, options: LoadOptions = {}, host = new MemoryHost()): Promise<LayerdError> {
  try {
    await read(input, options, host);
  } catch (error) {
    expect(host.running).toBe(0);
    if (error instanceof LayerdError) return error;
    throw error;
  }
  throw new Error('the archive was read without an error');
}

/** What must be the same, however an archive is read. */
function told(images: ParsedImage[]): object[] {
  return images.map(({ config, manifest, refs, layers, platform }) => ({
    id: config.digest,
    manifest: manifest?.digest ?? null,
    refs,
    layers: layers.map(({ diffId, size }) => ({ diffId, size })),
    platform: formatPlatform(platform),
  }));
}

const BASE = testLayer('base layer'.repeat(500));
const TOP = testLayer('top layer', true);
const APP = testImage([BASE, TOP], MACHINE);
const TOOL = testImage([BASE, testLayer('tool'), BASE], MACHINE);

/** Every way in: the same members as file, stream in large and odd chunks, compressed, and (without links) directory. */
function inputsOf(members: readonly Member[]): Record<string, ArchiveInput> {
  const tar = tarOf(members);
  return {
    file: fileOf(tar),
    'compressed file': fileOf(gzipSync(tar)),
    stream: streamOf(tar, 1024 * 1024),
    'stream in odd chunks': streamOf(tar, 333),
    'compressed stream': streamOf(gzipSync(tar), 4096),
    ...(members.every((member) => 'bytes' in member) ? { directory: directoryOf(members) } : {}),
  };
}

async function readEveryWay(members: readonly Member[], options: LoadOptions = {}): Promise<object[]> {
  const answers: object[][] = [];
  for (const [way, input] of Object.entries(inputsOf(members))) {
    const host = new MemoryHost();
    const images = await read(input, options, host);
    const missing = images.flatMap((image) => image.layers).filter((layer) => !host.tars.has(layer.diffId));
    expect(missing, way).toEqual([]);
    answers.push(told(images));
  }
  const [first, ...others] = answers;
  for (const other of others) expect(other).toEqual(first);
  return first ?? [];
}

describe('archives of every form, read every way', () => {
  it('an OCI layout with several images', async () => {
    const manifests = [
      descriptor(APP.manifest, named('example.com/app:1')),
      descriptor(APP.manifest, named('example.com/app:2')),
      descriptor(TOOL.manifest, { annotations: { 'io.containerd.image.name': 'docker.io/library/tool:latest' } }),
    ];
    expect(await readEveryWay(layoutMembers([APP, TOOL], manifests))).toEqual([
      {
        id: APP.id,
        manifest: APP.digest,
        refs: ['example.com/app:1', 'example.com/app:2'],
        layers: APP.layers.map(({ diffId, tar }) => ({ diffId, size: tar.length })),
        platform: `linux/${MACHINE}`,
      },
      {
        id: TOOL.id,
        manifest: TOOL.digest,
        refs: ['docker.io/library/tool:latest'],
        layers: TOOL.layers.map(({ diffId, tar }) => ({ diffId, size: tar.length })),
        platform: `linux/${MACHINE}`,
      },
    ]);
  });

  it('a docker-archive in the old form, with layers that are links to those of another image', async () => {
    const members = dockerMembers([
      { image: APP, tags: ['app:1'] },
      { image: TOOL, tags: ['tool', 'other/tool:x'] },
    ]);
    expect(members.filter((member) => 'symlink' in member)).toHaveLength(2);
    expect(await readEveryWay(members)).toMatchObject([
      { id: APP.id, manifest: null, refs: ['docker.io/library/app:1'] },
      { id: TOOL.id, manifest: null, refs: ['docker.io/library/tool:latest', 'docker.io/other/tool:x'] },
    ]);
  });

  it('a docker-archive that is an OCI layout, too: manifests from the one, names from both', async () => {
    const entries = [
      { Config: `blobs/sha256/${digestHex(APP.id)}`, RepoTags: ['app:1'], Layers: [] },
      { Config: `blobs/sha256/${digestHex(TOOL.id)}`, RepoTags: null, Layers: [] },
    ];
    const members = [
      ...layoutMembers([APP, TOOL], [descriptor(APP.manifest), descriptor(TOOL.manifest, named('tool:2'))]),
      { path: 'manifest.json', bytes: json(entries) },
    ];
    expect(await readEveryWay(members)).toMatchObject([
      { id: APP.id, manifest: APP.digest, refs: ['docker.io/library/app:1'] },
      { id: TOOL.id, manifest: TOOL.digest, refs: ['docker.io/library/tool:2'] },
    ]);
  });

  it('compressed layers in a docker-archive, with their descriptors', async () => {
    const entry = {
      Config: `blobs/sha256/${digestHex(APP.id)}`,
      RepoTags: ['app:1'],
      Layers: APP.layers.map((layer) => `blobs/sha256/${digestHex(layer.digest)}`),
      LayerSources: Object.fromEntries(
        APP.layers.map(({ diffId, digest, mediaType, blob: bytes }) => [
          diffId,
          { mediaType, digest, size: bytes.length },
        ]),
      ),
    };
    const blobs = [blobMember(APP.config), ...APP.layers.map((layer) => blobMember(layer.blob))];
    const members = [...blobs, { path: 'manifest.json', bytes: json([entry]) }];
    const [image] = await read(fileOf(tarOf(members)));
    expect(image?.layers.map((layer) => layer.mediaType)).toEqual(APP.layers.map((layer) => layer.mediaType));
    expect(image?.layers.map((layer) => layer.blobDigest)).toEqual(APP.layers.map((layer) => layer.digest));
    await readEveryWay(members);
  });

  it('names with ./ and hard links, as tar makes them from a directory', async () => {
    const [first, second] = [`${'1'.repeat(64)}/layer.tar`, `${'2'.repeat(64)}/layer.tar`];
    const image = testImage([BASE, BASE], MACHINE);
    const entry = { Config: 'config.json', RepoTags: ['app:1'], Layers: [first, second] };
    const members: Member[] = [
      { path: './config.json', bytes: image.config },
      { path: `./${first}`, bytes: BASE.tar },
      { path: `./${second}`, hardlink: `./${first}` },
      { path: './manifest.json', bytes: json([entry]) },
    ];
    expect(await readEveryWay(members)).toMatchObject([{ id: image.id }]);
  });

  it('an image without layers', async () => {
    const nothing = testImage([], MACHINE);
    expect(await readEveryWay(layoutMembers([nothing], [descriptor(nothing.manifest)]))).toMatchObject([
      { id: nothing.id, layers: [], refs: [] },
    ]);
  });

  it('the empty layer, which is a tar without entries', async () => {
    const empty = { ...testLayer('nothing'), tar: Buffer.alloc(1024), diffId: sha256(Buffer.alloc(1024)) };
    const image = testImage([{ ...empty, blob: empty.tar, digest: empty.diffId }], MACHINE);
    expect(await readEveryWay(dockerMembers([{ image, tags: ['empty'] }]))).toMatchObject([
      { layers: [{ diffId: empty.diffId, size: 1024 }] },
    ]);
  });

  it('members in any order', async () => {
    const layout = layoutMembers([APP, TOOL], [descriptor(APP.manifest, named('app:1')), descriptor(TOOL.manifest)]);
    const docker = dockerMembers([
      { image: APP, tags: ['app:1'] },
      { image: TOOL, tags: [] },
    ]);
    const expected = { refs: [['docker.io/library/app:1'], []], ids: [APP.id, TOOL.id] };
    const members = fc.oneof(
      fc.shuffledSubarray(layout, { minLength: layout.length }),
      fc.shuffledSubarray(docker, { minLength: docker.length }),
    );
    const property = fc.asyncProperty(
      members,
      fc.boolean(),
      fc.integer({ min: 1, max: 5000 }),
      async (order, file, chunk) => {
        const tar = tarOf(order);
        const images = await read(file ? fileOf(tar, 'shuffled.tar') : streamOf(tar, chunk));
        expect({ refs: images.map((image) => image.refs), ids: images.map((image) => image.config.digest) }).toEqual(
          expected,
        );
      },
    );
    await fc.assert(property, { numRuns: 60 });
  });
});

describe('what is read', () => {
  const members = layoutMembers([APP], [descriptor(APP.manifest, named('app:1'))]);

  it('layers that are stored are not read again, and are shown as present', async () => {
    const host = new MemoryHost();
    for (const [way, input] of Object.entries(inputsOf(members))) {
      const images = await read(input, {}, host);
      const first = way === 'file';
      expect(host.ingested, way).toHaveLength(APP.layers.length);
      expect(
        images[0]?.layers.map((layer) => layer.present),
        way,
      ).toEqual([!first, !first]);
    }
  });

  it('layers that are stored need not be in the archive', async () => {
    const host = new MemoryHost();
    await read(fileOf(tarOf(members)), {}, host);
    const without = members.filter(({ path }) => !path.endsWith(digestHex(TOP.digest)));
    for (const input of Object.values(inputsOf(without))) expect(await read(input, {}, host)).toHaveLength(1);
    for (const input of Object.values(inputsOf(without))) {
      const error = await failure(input);
      expect(error.code).toBe('ARCHIVE_INCOMPLETE');
      expect(error.message).toContain(digestHex(TOP.digest));
      expect(error.message).toContain(TOP.diffId);
    }
  });

  it('both digests of every layer are asked to be verified', async () => {
    const host = new MemoryHost();
    await read(fileOf(tarOf(members)), {}, host);
    const asked = host.ingested.map(({ blobDigest, diffId }) => ({ blobDigest, diffId }));
    expect(asked).toEqual(
      expect.arrayContaining(APP.layers.map(({ digest, diffId }) => ({ blobDigest: digest, diffId }))),
    );
  });

  it('a layer that no image needs does not fail the load of a stream, even if it is broken', async () => {
    const broken = Buffer.concat([gzipSync(Buffer.from('no tar')), Buffer.from('trailing')]);
    const wrongName = { path: `blobs/sha256/${'0'.repeat(64)}`, bytes: BASE.tar };
    const more: Member[] = [...members, blobMember(broken), wrongName, blobMember(testLayer('unused').blob)];
    const host = new MemoryHost();
    expect(await read(streamOf(tarOf(more)), {}, host)).toHaveLength(1);
    expect(host.notices).toHaveLength(3);
    expect(await read(fileOf(tarOf(more)))).toHaveLength(1);
  });

  it('a file that lies deep in a tar is not taken for a layer', async () => {
    const host = new MemoryHost();
    const rootfs: Member[] = [{ path: 'usr/share/doc/x/changelog.gz', bytes: gzipSync(BASE.tar) }];
    const error = await failure(streamOf(tarOf(rootfs)), {}, host);
    expect(error.code).toBe('ARCHIVE_INVALID');
    expect(error.message).toContain('usr/share/doc/x/changelog.gz');
    expect(host.ingested).toEqual([]);
  });

  it('provenance and other statements are passed by, however large they are', async () => {
    const statement = json({ _type: 'https://in-toto.io/Statement/v0.1', text: 'x'.repeat(LIMITS.jsonDocument) });
    expect(await read(streamOf(tarOf([...members, blobMember(statement)]), 1024 * 1024))).toHaveLength(1);
  });

  it('a first layer name that looks like JSON is still a layer', async () => {
    const image = testImage([testLayer('{"not": "json"}')], MACHINE);
    expect(await readEveryWay(dockerMembers([{ image, tags: [] }]))).toMatchObject([{ id: image.id }]);
  });
});

describe('where an archive comes from', () => {
  const members = layoutMembers([APP], [descriptor(APP.manifest, named('v1'))]);

  it("a client's descriptor of a file: its own name tells more than the number", async () => {
    const path = (fileOf(tarOf(members), 'opened.tar') as { path: string }).path;
    const handle = await open(path);
    try {
      const images = await read({ path: `/proc/self/fd/${handle.fd}` });
      expect(images[0]?.refs).toEqual(['docker.io/library/opened:v1']);
    } finally {
      await handle.close();
    }
  });

  it('a directory with links inside it, as an unpacked docker-archive has', async () => {
    const image = testImage([BASE, BASE], MACHINE);
    const docker = dockerMembers([{ image, tags: ['app:1'] }]);
    const tar = fileOf(tarOf(docker)) as { path: string };
    const directory = join(scratch, 'unpacked');
    mkdirSync(directory);
    execFileSync('tar', ['-C', directory, '-xf', tar.path]);
    expect(told(await read({ path: directory }))).toEqual(told(await read(tar)));
  });
});

describe('hosts', () => {
  const many = testImage(
    Array.from({ length: 20 }, (_, i) => testLayer(`layer ${i} `.repeat(2000), i % 2 === 0)),
    MACHINE,
  );
  const members = layoutMembers([many], [descriptor(many.manifest)]);

  it('that take in one layer at a time', async () => {
    for (const [way, input] of Object.entries(inputsOf(members))) {
      const host = new OneAtATime();
      const [image] = await read(input, {}, host);
      expect(
        image?.layers.map((layer) => layer.diffId),
        way,
      ).toEqual(many.layers.map((layer) => layer.diffId));
      expect(host.mostRunning, way).toBe(1);
    }
  });

  it('that know a layer before its stream has ended, and leave it', async () => {
    const [image] = await read(streamOf(tarOf(members), 700), {}, new LeavesEarly(many.layers));
    expect(image?.layers.map((layer) => layer.diffId)).toEqual(many.layers.map((layer) => layer.diffId));
  });

  it('are told of layers that their makers do not give away', async () => {
    const mediaType = 'application/vnd.oci.image.layer.nondistributable.v1.tar';
    const foreign = testImage([{ ...BASE, mediaType }], MACHINE);
    const without = layoutMembers([foreign], [descriptor(foreign.manifest)]).filter(
      ({ path }) => !path.endsWith(digestHex(BASE.digest)),
    );
    const error = await failure(fileOf(tarOf(without)));
    expect(error.code).toBe('ARCHIVE_INCOMPLETE');
    expect(error.hint).toContain('Its maker');
  });
});

/** Lets layers in one after the other, as a host with a single worker does. */
class OneAtATime extends MemoryHost {
  mostRunning = 0;
  #turn: Promise<unknown> = Promise.resolve();

  override ingest(...args: Parameters<MemoryHost['ingest']>): ReturnType<MemoryHost['ingest']> {
    const result = this.#turn.then(() => {
      const ingesting = super.ingest(...args);
      this.mostRunning = Math.max(this.mostRunning, this.running);
      return ingesting;
    });
    this.#turn = result.catch(() => undefined);
    return result;
  }
}

/** Answers after the first chunk, as when another load has just stored the same layer. */
class LeavesEarly extends MemoryHost {
  readonly #known: TestLayer[];

  constructor(known: TestLayer[]) {
    super();
    this.#known = known;
  }

  override async ingest(...[source, { blobDigest }]: Parameters<MemoryHost['ingest']>): Promise<IngestedLayer> {
    const layer = this.#known.find((each) => each.digest === blobDigest);
    if (layer === undefined || !('stream' in source)) throw new Error('an unknown layer');
    for await (const chunk of source.stream) if (chunk.length > 0) break;
    return { diffId: layer.diffId, blobDigest: layer.digest, size: layer.tar.length, present: true };
  }
}

describe('names', () => {
  const members = layoutMembers([APP], [descriptor(APP.manifest, named('v1'))]);

  it('a bare tag belongs to the name of the archive itself', async () => {
    expect((await read(fileOf(tarOf(members), 'my-app.tar')))[0]?.refs).toEqual(['docker.io/library/my-app:v1']);
    expect((await read(fileOf(gzipSync(tarOf(members)), 'my-app.tar.gz')))[0]?.refs).toEqual([
      'docker.io/library/my-app:v1',
    ]);
    expect((await read(directoryOf(members, 'tool.d')))[0]?.refs).toEqual(['docker.io/library/tool.d:v1']);
    expect((await read(streamOf(tarOf(members))))[0]?.refs).toEqual([]);
  });

  it('the caller may name the one image', async () => {
    expect((await read(fileOf(tarOf(members)), { ref: 'mine' }))[0]?.refs).toEqual(['docker.io/library/mine:latest']);
    const two = layoutMembers([APP, TOOL], [descriptor(APP.manifest), descriptor(TOOL.manifest)]);
    expect((await failure(fileOf(tarOf(two)), { ref: 'mine' })).code).toBe('INVALID_ARGUMENT');
  });

  it('what is no reference is left out, and said', async () => {
    const host = new MemoryHost();
    const odd = dockerMembers([{ image: APP, tags: ['UPPER:1', 'app:1'] }]);
    expect((await read(fileOf(tarOf(odd)), {}, host))[0]?.refs).toEqual(['docker.io/library/app:1']);
    expect(host.notices).toEqual([expect.stringContaining('UPPER:1')]);
  });
});

function platformOf(architecture: string): object {
  return { platform: { os: 'linux', architecture } };
}

function ids(images: object[]): unknown[] {
  return images.map((image) => (image as { id: Digest }).id);
}

describe('platforms', () => {
  const here = testImage([testLayer('here')], MACHINE);
  const there = testImage([testLayer('there')], OTHER);
  const attestation = testImage([testLayer('proof')], 'unknown');
  const index = indexOf([
    descriptor(there.manifest, platformOf(OTHER)),
    descriptor(here.manifest, platformOf(MACHINE)),
    descriptor(attestation.manifest, { platform: { os: 'unknown', architecture: 'unknown' } }),
  ]);
  const nested = [
    ...layoutMembers([here, there, attestation], [descriptor(index, named('app:1'), 'index')]),
    blobMember(index),
  ];

  it("an index in the index gives this machine's image", async () => {
    expect(await readEveryWay(nested)).toMatchObject([{ id: here.id, refs: ['docker.io/library/app:1'] }]);
  });

  it('only the chosen layers are read from a file', async () => {
    const host = new MemoryHost();
    await read(fileOf(tarOf(nested)), {}, host);
    expect(host.ingested.map((layer) => layer.diffId)).toEqual(here.layers.map((layer) => layer.diffId));
  });

  it('another can be asked for, or all', async () => {
    expect(ids(await readEveryWay(nested, { platform: parsePlatform(OTHER) }))).toEqual([there.id]);
    expect(await readEveryWay(nested, { allPlatforms: true })).toMatchObject([
      { id: there.id, refs: [`docker.io/library/app@${there.digest}`] },
      { id: here.id, refs: ['docker.io/library/app:1'] },
    ]);
  });

  it('one that is not there is told with those that are', async () => {
    for (const input of Object.values(inputsOf(nested))) {
      const error = await failure(input, { platform: parsePlatform('linux/s390x') });
      expect(error.code).toBe('PLATFORM_NOT_FOUND');
      expect(error.details['present']).toEqual([`linux/${OTHER}`, `linux/${MACHINE}`]);
    }
    const docker = fileOf(tarOf(dockerMembers([{ image: here, tags: [] }])));
    expect((await failure(docker, { platform: parsePlatform(OTHER) })).code).toBe('PLATFORM_NOT_FOUND');
  });

  it('platforms whose manifests are not in the archive do not count', async () => {
    const gone = new Set([here, attestation].flatMap((image) => [image.digest, image.id]));
    const sparse = nested.filter(({ path }) => ![...gone].some((digest) => path.endsWith(digestHex(digest))));
    expect(ids(await readEveryWay(sparse))).toEqual([there.id]);
    const none = sparse.filter(({ path }) => !path.endsWith(digestHex(there.digest)));
    for (const input of Object.values(inputsOf(none))) {
      expect((await failure(input)).code).toBe('ARCHIVE_INCOMPLETE');
    }
  });

  it('a single image is loaded whatever it is for', async () => {
    expect(ids(await readEveryWay(layoutMembers([there], [descriptor(there.manifest)])))).toEqual([there.id]);
  });

  it('without platforms in the index, the configs tell', async () => {
    const flat = layoutMembers(
      [here, there],
      [descriptor(there.manifest, named('a:1')), descriptor(here.manifest, named('a:1'))],
    );
    expect(ids(await readEveryWay(flat))).toEqual([here.id]);
  });

  it('the docker manifest of a platform that was not chosen does not bring it in', async () => {
    const entry = { Config: `blobs/sha256/${digestHex(there.id)}`, RepoTags: ['app:1'], Layers: [] };
    const hybrid = [...nested, { path: 'manifest.json', bytes: json([entry]) }];
    expect(ids(await readEveryWay(hybrid))).toEqual([here.id]);
  });
});

describe('what is no image', () => {
  it('artifacts are left out, and said', async () => {
    const chart = json({
      schemaVersion: 2,
      config: { mediaType: 'application/vnd.cncf.helm.config.v1+json', digest: sha256('{}'), size: 2 },
      layers: [],
    });
    const members = [...layoutMembers([APP], [descriptor(chart), descriptor(APP.manifest)]), blobMember(chart)];
    const host = new MemoryHost();
    expect(await read(fileOf(tarOf(members)), {}, host)).toHaveLength(1);
    expect(host.notices).toEqual([expect.stringContaining(sha256(chart))]);
    const alone = [...layoutMembers([], [descriptor(chart)]), blobMember(chart)];
    expect((await failure(fileOf(tarOf(alone)))).code).toBe('ARCHIVE_INVALID');
  });

  it.each([
    ['an empty file', Buffer.alloc(0), 'ARCHIVE_INVALID'],
    ['an empty tar', tarOf([]), 'ARCHIVE_INVALID'],
    ['text', Buffer.from('hello '.repeat(300)), 'ARCHIVE_INVALID'],
    ['a short text', Buffer.from('hello'), 'ARCHIVE_TRUNCATED'],
    ['xz', Buffer.from('fd377a585a000004e6d6b446', 'hex'), 'COMPRESSION_UNSUPPORTED'],
    ['a layer', BASE.tar, 'ARCHIVE_INVALID'],
    [
      'a layout without index.json',
      tarOf([{ path: 'oci-layout', bytes: json({ imageLayoutVersion: '1.0.0' }) }]),
      'ARCHIVE_INCOMPLETE',
    ],
    [
      'a layout of another version',
      tarOf([{ path: 'oci-layout', bytes: json({ imageLayoutVersion: '2.0.0' }) }]),
      'MANIFEST_INVALID',
    ],
  ])('%s', async (_what, bytes, code) => {
    expect((await failure(fileOf(bytes))).code).toBe(code);
    expect((await failure(streamOf(bytes))).code).toBe(code);
  });

  it('says when the image lies in a directory of the archive', async () => {
    const inside = layoutMembers([APP], [descriptor(APP.manifest)]);
    for (const member of inside) member.path = `x/${member.path}`;
    expect((await failure(fileOf(tarOf(inside)))).hint).toContain('directory of the archive');
  });

  it('a path that is not there, or that is neither file nor directory', async () => {
    expect((await failure({ path: join(scratch, 'nothing') })).code).toBe('INVALID_ARGUMENT');
    expect((await failure({ path: '/dev/null' })).code).toBe('ARCHIVE_INVALID');
  });
});

function flipped(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes);
  copy.writeUInt8(copy.readUInt8(at) ^ 1, at);
  return copy;
}

describe('damage', () => {
  const members = layoutMembers([APP], [descriptor(APP.manifest)]);
  const replaced = (digest: Digest, bytes: Buffer): Member[] =>
    members.map((member) => (member.path.endsWith(digestHex(digest)) ? { path: member.path, bytes } : member));

  it('a layer whose bytes are not those of its blob digest', async () => {
    // In the payload of the tar's only file: a tar still, but another.
    for (const [way, input] of Object.entries(inputsOf(replaced(BASE.digest, flipped(BASE.blob, 600))))) {
      const error = await failure(input);
      expect(error.code, way).toBe('BLOB_DIGEST_MISMATCH');
      expect(error.message, way).toContain(digestHex(BASE.digest));
      expect(error.details, way).toMatchObject({ expected: BASE.digest, found: sha256(flipped(BASE.blob, 600)) });
    }
  });

  it('a layer that is another than the config names', async () => {
    const wrong = testLayer('another');
    const lying = testImage([BASE, TOP], MACHINE, {
      rootfs: { type: 'layers', diff_ids: [BASE.diffId, wrong.diffId] },
    });
    for (const [way, input] of Object.entries(inputsOf(layoutMembers([lying], [descriptor(lying.manifest)])))) {
      const error = await failure(input);
      expect(error.code, way).toBe('DIFF_ID_MISMATCH');
      expect(error.message, way).toContain(digestHex(TOP.digest));
      expect(error.details, way).toMatchObject({ expected: wrong.diffId, found: TOP.diffId });
    }
  });

  it.each([
    ['config', APP.id, APP.config],
    ['manifest', APP.digest, APP.manifest],
  ])('a %s whose bytes are not those of its digest', async (_what, digest, bytes) => {
    for (const input of Object.values(inputsOf(replaced(digest, flipped(bytes, 3))))) {
      const error = await failure(input);
      expect(error.code).toBe('BLOB_DIGEST_MISMATCH');
      expect(error.details['expected']).toBe(digest);
    }
  });

  it('a config of a docker-archive that is not what its name says', async () => {
    const docker = dockerMembers([{ image: APP, tags: [] }]).map((member) =>
      member.path.endsWith('.json') && member.path !== 'manifest.json'
        ? { path: member.path, bytes: TOOL.config }
        : member,
    );
    expect((await failure(fileOf(tarOf(docker)))).code).toBe('BLOB_DIGEST_MISMATCH');
  });

  it.each([
    ['config', APP.id],
    ['manifest', APP.digest],
    ['layer', BASE.digest],
  ])('a %s that is missing', async (_what, digest) => {
    for (const input of Object.values(inputsOf(members.filter(({ path }) => !path.endsWith(digestHex(digest)))))) {
      const error = await failure(input);
      expect(error.code).toBe('ARCHIVE_INCOMPLETE');
      expect(error.details['member']).toBe(`blobs/sha256/${digestHex(digest)}`);
    }
  });

  it('a blob of another length than its descriptor says', async () => {
    const short = replaced(TOP.digest, TOP.blob.subarray(0, -1));
    expect((await failure(fileOf(tarOf(short)))).code).toBe('ARCHIVE_TRUNCATED');
    expect((await failure(directoryOf(short))).code).toBe('ARCHIVE_TRUNCATED');
  });

  it('an archive that is cut off anywhere', async () => {
    const tar = tarOf(members);
    const last = members.at(-1);
    const lastPayload = last !== undefined && 'bytes' in last ? last.bytes.length : 0;
    const end = tar.length - 1024 - padding(lastPayload);
    for (let length = 0; length < end; length += 256) {
      for (const input of [fileOf(tar.subarray(0, length), 'cut.tar'), streamOf(tar.subarray(0, length), 2000)]) {
        const error = await failure(input);
        expect(['ARCHIVE_TRUNCATED', 'ARCHIVE_INVALID']).toContain(error.code);
      }
    }
  });

  it('a compressed archive that is cut off', async () => {
    const gzip = gzipSync(tarOf(members));
    const error = await failure(streamOf(gzip.subarray(0, gzip.length / 2)));
    expect(error.code).toBe('COMPRESSION_INVALID');
    expect(error.message).toContain('the archive');
  });

  it('what is named as a layer and is none', async () => {
    const text = Buffer.from('no tar '.repeat(200));
    const image = testImage([{ ...BASE, tar: text, diffId: sha256(text), blob: text, digest: sha256(text) }], MACHINE);
    for (const input of Object.values(inputsOf(layoutMembers([image], [descriptor(image.manifest)])))) {
      const error = await failure(input);
      expect(['TAR_INVALID', 'TAR_TRUNCATED', 'ARCHIVE_INVALID']).toContain(error.code);
      expect(error.message).toContain(digestHex(sha256(text)));
    }
  });

  it('a failing layer stops the others, and none is left running', async () => {
    const many = testImage(
      Array.from({ length: 40 }, (_, i) => testLayer(`layer ${i}`)),
      MACHINE,
    );
    const broken = layoutMembers([many], [descriptor(many.manifest)]).filter(
      ({ path }) => !path.endsWith(digestHex(many.layers[3]?.digest ?? many.id)),
    );
    const host = new MemoryHost();
    expect((await failure(fileOf(tarOf(broken)), {}, host)).code).toBe('ARCHIVE_INCOMPLETE');
    expect(host.ingested.length).toBeLessThan(40);
  });

  it('a host that fails is the failure of the load', async () => {
    const full = new (class extends MemoryHost {
      override ingest(): Promise<never> {
        return Promise.reject(new LayerdError('NO_SPACE', 'the disk is full'));
      }
    })();
    for (const input of Object.values(inputsOf(members)))
      expect((await failure(input, {}, full)).code).toBe('NO_SPACE');
  });

  it('can be cancelled', async () => {
    const abort = new AbortController();
    abort.abort();
    for (const input of [fileOf(tarOf(members)), streamOf(tarOf(members))]) {
      await expect(readArchive(input, new MemoryHost(), {}, abort.signal)).rejects.toMatchObject({ code: 'CANCELLED' });
    }
  });

  it('a source that fails in the middle of a layer fails the load with its own error', async () => {
    const tar = tarOf(members);
    async function* broken(): AsyncGenerator<Buffer> {
      yield* chunksOf(tar.subarray(0, tar.length / 2), 700);
      throw new LayerdError('CANCELLED', 'the client went away');
    }
    expect((await failure({ stream: broken(), size: null })).message).toBe('the client went away');
  });
});

describe('archives that mean harm', () => {
  it.each<[string, Member[]]>([
    ['leave the archive', [{ path: 'manifest.json', bytes: json([{ Config: '../../etc/passwd', Layers: [] }]) }]],
    ['name no member', [{ path: 'manifest.json', bytes: json([{ Config: '', Layers: [] }]) }]],
  ])('paths that %s', async (_what, members) => {
    for (const input of Object.values(inputsOf(members))) expect((await failure(input)).code).toBe('MANIFEST_INVALID');
  });

  it('links of a directory that lead out of it', async () => {
    const directory = join(scratch, 'escape');
    mkdirSync(directory);
    symlinkSync('/etc/passwd', join(directory, 'manifest.json'));
    const error = await failure({ path: directory });
    expect(error.code).toBe('ARCHIVE_INVALID');
    expect(error.message).toContain('leads out');
    expect(error.message).not.toContain(readFileSync('/etc/passwd', 'utf8').slice(0, 10));
  });

  it('links that lead in a circle, or out', async () => {
    const circle: Member[] = [
      { path: 'manifest.json', symlink: 'a' },
      { path: 'a', symlink: 'b' },
      { path: 'b', symlink: 'a' },
    ];
    const out: Member[] = [{ path: 'manifest.json', symlink: '../../etc/passwd' }];
    const absolute: Member[] = [{ path: 'manifest.json', symlink: '/etc/passwd' }];
    for (const members of [circle, out, absolute]) {
      for (const input of Object.values(inputsOf(members))) expect((await failure(input)).code).toBe('ARCHIVE_INVALID');
    }
  });

  it('a document that is too large, or nests too deep', async () => {
    const large = [{ path: 'manifest.json', bytes: Buffer.alloc(LIMITS.jsonDocument + 1, ' ') }];
    large[0]?.bytes.write('[');
    const deep = [{ path: 'manifest.json', bytes: Buffer.from('['.repeat(LIMITS.jsonDepth + 1)) }];
    for (const members of [large, deep]) {
      for (const input of [fileOf(tarOf(members)), streamOf(tarOf(members), 1024 * 1024)]) {
        expect((await failure(input)).code).toBe('MANIFEST_INVALID');
      }
    }
  });

  it('an index that is also a manifest (CVE-2021-41190)', async () => {
    const both = json({ ...(JSON.parse(APP.manifest.toString()) as object), manifests: [] });
    const members = [...layoutMembers([APP], [descriptor(both)]), blobMember(both)];
    expect((await failure(fileOf(tarOf(members)))).code).toBe('MANIFEST_INVALID');
  });

  it('an index that leads to itself many times over', async () => {
    let index = indexOf([descriptor(APP.manifest)]);
    const indexes = [blobMember(index)];
    for (let depth = 0; depth < 6; depth++) {
      const inner = descriptor(index, {}, 'index');
      index = indexOf(Array.from({ length: 30 }, () => inner));
      indexes.push(blobMember(index));
    }
    const wide = [...layoutMembers([APP], [descriptor(index, {}, 'index')]), ...indexes];
    expect((await failure(fileOf(tarOf(wide)))).code).toBe('ARCHIVE_LIMIT');
  });

  it('a config with another number of layers than the manifest', async () => {
    const wrong = testImage([BASE, TOP], MACHINE, { rootfs: { type: 'layers', diff_ids: [BASE.diffId] } });
    const error = await failure(fileOf(tarOf(layoutMembers([wrong], [descriptor(wrong.manifest)]))));
    expect(error.code).toBe('MANIFEST_INVALID');
    expect(error.details['field']).toBe('rootfs.diff_ids');
  });

  it.each<[string, object, string]>([
    ['os', { os: 5 }, 'os'],
    ['a variable that is no text', { config: { Env: ['A=1', 2] } }, 'config.Env[1]'],
    ['a label that is no text', { config: { Labels: { a: 1 } } }, 'config.Labels.a'],
    ['a root file system of another type', { rootfs: { type: 'blocks' } }, 'rootfs.type'],
    ['a diff ID that is none', { rootfs: { type: 'layers', diff_ids: ['sha256:1', 'x'] } }, 'rootfs.diff_ids[0]'],
    ['history that is no list', { history: {} }, 'history'],
  ])('a config with %s', async (_what, extra, field) => {
    const image = testImage([BASE, TOP], MACHINE, extra);
    const error = await failure(fileOf(tarOf(layoutMembers([image], [descriptor(image.manifest, {})]))));
    expect(error.code).toBe('MANIFEST_INVALID');
    expect(error.details['field']).toBe(field);
  });
});

describe.skipIf(process.platform !== 'linux')('a large file', () => {
  it('is indexed without reading its layers', async () => {
    const large = Buffer.alloc(64 * 1024 * 1024);
    const image = testImage(
      [{ ...BASE, tar: large, diffId: sha256(large), blob: large, digest: sha256(large) }],
      MACHINE,
    );
    const host = new MemoryHost();
    host.tars.set(sha256(large), large);
    const input = fileOf(tarOf(layoutMembers([image], [descriptor(image.manifest)])));
    const before = bytesReadSoFar();
    const images = await read(input, {}, host);
    expect(images[0]?.layers[0]).toMatchObject({ present: true, size: large.length });
    expect(bytesReadSoFar() - before).toBeLessThan(1024 * 1024);
  });
});

/** All bytes that this process has asked the kernel for (proc(5), /proc/PID/io). */
function bytesReadSoFar(): number {
  return Number(/^rchar: (\d+)$/m.exec(readFileSync('/proc/self/io', 'utf8'))?.[1]);
}
