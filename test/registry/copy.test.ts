/** Copies between registries and archives are byte for byte; tags are listed, and digests found among them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { run } from '../../bench/fixtures/shell.js';
import { sha256 } from '../../src/core/digest.js';
import { ignore, never } from '../e2e/store.js';
import { descriptor, indexOf, json, layoutMembers, tarOf, testImage, testLayer } from '../unit/image-synthetic.js';
import { FakeRegistry } from './fake-registry.js';
import { bigLayer, failureOf, someImage, withRig, type Rig } from './rig.js';

const INDEX = 'application/vnd.oci.image.index.v1+json';
const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';

/** An index of two platforms, at `HOST/multi:1`. */
function multi({ registry }: Rig) {
  const [amd, arm] = [testImage([testLayer('amd'), bigLayer()]), testImage([testLayer('arm')], 'arm64')];
  for (const image of [amd, arm]) registry.add('multi', null, image);
  const index = indexOf([
    descriptor(amd.manifest, { platform: { os: 'linux', architecture: 'amd64' } }),
    descriptor(arm.manifest, { platform: { os: 'linux', architecture: 'arm64' } }),
  ]);
  registry.addManifest('multi', '1', index, INDEX);
  return { amd, arm, index, ref: `${registry.host}/multi:1` };
}

/** A signature of an image: an artifact that names it as its subject. */
function signatureOf(registry: FakeRegistry, name: string, manifest: Buffer): { bytes: Buffer; blob: Buffer } {
  const blob = Buffer.from(`signature of ${sha256(manifest)}`);
  const config = Buffer.from('{}');
  for (const bytes of [blob, config]) registry.repo(name).blobs.set(sha256(bytes), bytes);
  const bytes = json({
    schemaVersion: 2,
    mediaType: MANIFEST,
    artifactType: 'application/x.signature',
    config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: sha256(config), size: config.length },
    layers: [{ mediaType: 'application/x.signature', digest: sha256(blob), size: blob.length }],
    subject: { mediaType: MANIFEST, digest: sha256(manifest), size: manifest.length },
  });
  registry.addManifest(name, null, bytes, MANIFEST);
  return { bytes, blob };
}

async function withTwo(work: (rig: Rig, target: FakeRegistry) => Promise<void>): Promise<void> {
  const target = await FakeRegistry.start();
  try {
    await withRig((rig) => work(rig, target));
  } finally {
    await target.close();
  }
}

describe('a copy from registry to registry', () => {
  it('takes an index with all its platforms, and nothing twice', () =>
    withTwo(async (rig, target) => {
      const { amd, arm, index, ref } = multi(rig);
      const { engine } = rig.store;
      const to = `${target.host}/there/multi:2`;
      const result = await engine.copy(ref, to, {}, ignore, never);
      expect(result).toMatchObject({ digest: sha256(index), manifests: 3, copied: 5, present: 0, target: to });
      const there = target.repo('there/multi');
      expect(there.manifests.get('2')?.bytes).toEqual(index);
      for (const image of [amd, arm]) {
        expect(there.manifests.get(image.digest)?.bytes).toEqual(image.manifest);
        for (const { digest, blob } of image.layers) expect(there.blobs.get(digest)?.equals(blob)).toBe(true);
      }
      expect(await engine.copy(ref, to, {}, ignore, never)).toMatchObject({ copied: 0, present: 5, bytesCopied: 0 });
      const within = await engine.copy(ref, `${rig.registry.host}/other:1`, {}, ignore, never);
      expect(within).toMatchObject({ copied: 0, mounted: 5 });
      expect([...engine.images()]).toEqual([]);
      expect([...engine.layers()]).toEqual([]);
    }));

  it('takes one platform where one is asked for', () =>
    withTwo(async (rig, target) => {
      const { arm, ref } = multi(rig);
      const platform = { os: 'linux', architecture: 'arm64' };
      const result = await rig.store.engine.copy(ref, `${target.host}/arm`, { platform }, ignore, never);
      expect(result).toMatchObject({ digest: arm.digest, manifests: 1, copied: 2 });
      expect(target.repo('arm').manifests.get('latest')?.bytes).toEqual(arm.manifest);
    }));

  it.each([true, false])('takes what refers to it where asked, whether the target keeps track (%s)', (api) =>
    withTwo(async (rig, target) => {
      const image = someImage();
      rig.registry.add('a', '1', image);
      const { bytes, blob } = signatureOf(rig.registry, 'a', image.manifest);
      target.referrersApi = api;
      const { engine } = rig.store;
      const [from, to] = [`${rig.registry.host}/a:1`, `${target.host}/b:1`];
      await engine.copy(from, to, {}, ignore, never);
      expect(target.repo('b').manifests.has(sha256(bytes))).toBe(false);
      for (let times = 0; times < 2; times += 1) await engine.copy(from, to, { referrers: true }, ignore, never);
      expect(target.repo('b').manifests.get(sha256(bytes))?.bytes).toEqual(bytes);
      expect(target.repo('b').blobs.get(sha256(blob))).toEqual(blob);
      const index = target.repo('b').manifests.get(image.digest.replace(':', '-'));
      if (api) expect(index).toBeUndefined();
      else {
        const { manifests } = JSON.parse(String(index?.bytes)) as { manifests: object[] };
        expect(manifests).toEqual([
          { mediaType: MANIFEST, digest: sha256(bytes), size: bytes.length, artifactType: 'application/x.signature' },
        ]);
      }
    }),
  );

  it('fails where bytes are not what they should be, and the target has no tag', () =>
    withTwo(async (rig, target) => {
      const image = someImage();
      rig.registry.add('a', '1', image);
      const [first] = image.layers;
      rig.registry.repo('a').blobs.set(first?.digest ?? '', Buffer.alloc(first?.blob.length ?? 0));
      const failure = await failureOf(
        rig.store.engine.copy(`${rig.registry.host}/a:1`, `${target.host}/b:1`, {}, ignore, never),
      );
      expect(failure).toMatchObject({ code: 'REGISTRY_PROTOCOL' });
      expect(target.repo('b').manifests.size).toBe(0);
    }));
});

describe('a copy between a registry and an archive', () => {
  it('gives an OCI layout with the same bytes, and takes it back', () =>
    withTwo(async (rig, target) => {
      const { store, registry } = rig;
      const image = someImage();
      registry.add('a', '1', image);
      const ref = `${registry.host}/a:1`;
      const chunks: Buffer[] = [];
      for await (const chunk of await store.engine.remoteArchive(ref, {}, never)) chunks.push(chunk);
      const file = join(store.home, 'copied.tar');
      writeFileSync(file, Buffer.concat(chunks));
      const directory = join(store.home, 'layout');
      mkdirSync(directory);
      await run('tar', ['-xf', file, '-C', directory]);
      const to = `${target.host}/b:1`;
      for (const path of [file, directory]) {
        const result = await store.engine.importArchive({ path }, { target: to }, ignore, never);
        expect(result).toMatchObject({ ref: to, digest: image.digest, original: true });
      }
      expect(target.repo('b').manifests.get('1')?.bytes).toEqual(image.manifest);
      for (const { digest, blob } of image.layers) expect(target.repo('b').blobs.get(digest)?.equals(blob)).toBe(true);
      expect([...store.engine.images()].flatMap(({ refs }) => refs)).toEqual([]);
      await store.collect();
      expect([...store.engine.images()]).toEqual([]);
      expect([...store.engine.layers()]).toEqual([]);
      expect((await store.check()).problems).toEqual([]);
    }));

  it('breaks the archive off where a blob is not what it should be', () =>
    withRig(async ({ store, registry }) => {
      const image = testImage([bigLayer()]);
      registry.add('a', '1', image);
      const [layer] = image.layers;
      registry.repo('a').blobs.set(layer?.digest ?? '', Buffer.alloc(layer?.blob.length ?? 0));
      const stream = await store.engine.remoteArchive(`${registry.host}/a:1`, {}, never);
      const reading = (async () => {
        for await (const chunk of stream) void chunk;
      })();
      expect(await failureOf(reading)).toMatchObject({ code: 'BLOB_DIGEST_MISMATCH' });
    }));

  it('asks which image is meant where an archive has several', () =>
    withRig(async ({ store, registry }) => {
      const images = [testImage([testLayer('one')]), testImage([testLayer('two')])];
      const named = (name: string): object => ({ annotations: { 'org.opencontainers.image.ref.name': name } });
      const manifests = images.map((image, index) => descriptor(image.manifest, named(`x/${index}:1`)));
      const archive = tarOf(layoutMembers(images, manifests));
      const stream = (async function* () {
        yield archive;
      })();
      const input = { stream, size: archive.length };
      const failure = await failureOf(
        store.engine.importArchive(input, { target: `${registry.host}/a` }, ignore, never),
      );
      expect(failure).toMatchObject({ code: 'INVALID_ARGUMENT' });
    }));
});

describe('tags', () => {
  it('are listed over all pages, and found by what they lead to', () =>
    withRig(async (rig) => {
      const { registry, store } = rig;
      const { amd, index } = multi(rig);
      for (const tag of ['a', 'b', 'c', 'd']) registry.add('multi', tag, someImage());
      registry.add('multi', 'arm', amd);
      const name = `${registry.host}/multi`;
      const all = await store.engine.tags(name, {}, never);
      expect(all).toEqual({ repository: name, tags: ['1', 'a', 'arm', 'b', 'c', 'd'], matches: [] });
      const found = async (digest: string) => (await store.engine.tags(name, { digest }, never)).matches;
      const whole = { tag: '1', digest: sha256(index) };
      expect(await found(sha256(index))).toEqual([{ ...whole, as: 'manifest' }]);
      expect(await found(amd.digest)).toEqual([
        { ...whole, as: 'platform' },
        { tag: 'arm', digest: amd.digest, as: 'manifest' },
      ]);
      expect((await found(amd.id)).map(({ as }) => as)).toEqual(['config', 'config']);
      expect((await found(amd.layers[1]?.digest ?? '')).map(({ tag, as }) => `${tag} ${as}`)).toEqual([
        '1 layer',
        'arm layer',
      ]);
      expect(await found(`sha256:${'0'.repeat(64)}`)).toEqual([]);
      expect((await failureOf(store.engine.tags(name, { digest: 'x' }, never))).code).toBe('INVALID_DIGEST');
    }));
});
