/** Pushes: nothing is sent that is there, what is sent arrives whole, and what came goes back as it came. */
import type { ServerResponse } from 'node:http';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { sha256 } from '../../src/core/digest.js';
import type { Progress } from '../../src/core/words.js';
import {
  descriptor,
  layoutMembers,
  named,
  tarOf,
  testImage,
  testLayer,
  type TestImage,
} from '../unit/image-synthetic.js';
import type { FakeRegistry, Seen } from './fake-registry.js';
import { bigLayer, failureOf, someImage, withRig, type Rig } from './rig.js';

/** An image in the store that no registry has, with its blobs as `keepBlobs` has it. */
async function loaded({ store }: Rig, image: TestImage = someImage()): Promise<TestImage> {
  const archive = tarOf(layoutMembers([image], [descriptor(image.manifest, named('local/image:1'))]));
  const stream = (async function* () {
    yield archive;
  })();
  await store.load({ stream, size: archive.length });
  return image;
}

/** What uploaded a blob, or a part of one. */
function uploads(registry: FakeRegistry): Seen[] {
  return registry.seen.filter(
    ({ method, path }) => method === 'PATCH' || (method === 'PUT' && path.includes('/uploads/')),
  );
}

interface Manifest {
  mediaType: string;
  config: { digest: string };
  layers: { digest: string; mediaType: string; size: number }[];
}

function manifestAt(registry: FakeRegistry, name: string, tag: string): Manifest {
  const found = registry.repo(name).manifests.get(tag);
  if (found === undefined) throw new Error(`${name}:${tag} is not there`);
  return JSON.parse(found.bytes.toString()) as Manifest;
}

describe('a push', () => {
  it('sends layers compressed, and nothing the second time', () =>
    withRig(async (rig) => {
      const { registry, store, push } = rig;
      const image = await loaded(rig);
      const target = `${registry.host}/a/b:1`;
      const progress: Progress[] = [];
      const first = await push('local/image:1', { target }, { progress });
      expect(first.layers.map(({ how }) => how)).toEqual(['uploaded', 'uploaded', 'uploaded']);
      const manifest = manifestAt(registry, 'a/b', '1');
      expect(manifest.config.digest).toBe(image.id);
      for (const [index, { digest, mediaType, size }] of manifest.layers.entries()) {
        const blob = registry.repo('a/b').blobs.get(digest) ?? Buffer.alloc(0);
        expect(blob.length).toBe(size);
        expect(mediaType).toBe('application/vnd.oci.image.layer.v1.tar+gzip');
        expect(sha256(gunzipSync(blob))).toBe(image.layers[index]?.diffId);
      }
      expect(progress.map(({ phase }) => phase)).toContain('compress');
      expect(progress).toContainEqual({
        phase: 'push',
        subject: image.layers[1]?.diffId,
        done: first.layers[1]?.size,
        total: first.layers[1]?.size,
      });
      registry.seen.length = 0;
      const second = await push('local/image:1', { target });
      expect(second).toMatchObject({ bytesSent: 0, digest: first.digest });
      expect(registry.seen.every(({ method }) => method === 'HEAD')).toBe(true);
      await store.reopen();
      expect(await push('local/image:1', { target: `${registry.host}/a/b:2` })).toMatchObject({ bytesSent: 0 });
      await store.collect();
      expect(store.engine.leases()).toEqual([]);
      expect((await store.check()).problems).toEqual([]);
    }));

  it('compresses with zstd where that is chosen, and each way is remembered', () =>
    withRig(async (rig) => {
      const { registry, push } = rig;
      const image = await loaded(rig);
      const target = `${registry.host}/a:1`;
      await push('local/image:1', { target });
      const zstd = await push('local/image:1', { target, compression: 'zstd' });
      expect(zstd.layers.map(({ how }) => how)).toEqual(['uploaded', 'uploaded', 'uploaded']);
      const { layers } = manifestAt(registry, 'a', '1');
      expect(layers.map(({ mediaType }) => mediaType)).toEqual(
        Array(3).fill('application/vnd.oci.image.layer.v1.tar+zstd'),
      );
      expect(await push('local/image:1', { target, compression: 'zstd' })).toMatchObject({ bytesSent: 0 });
      expect(await push('local/image:1', { target, compression: 'gzip' })).toMatchObject({ bytesSent: 0 });
      await rig.store.removeAll();
      const pulled = await rig.pull(target);
      expect(pulled).toMatchObject({ layersLoaded: 3 });
      expect(pulled.images.map(({ imageId }) => imageId)).toEqual([image.id]);
    }));

  it('takes over what other repositories of the registry have', () =>
    withRig(async ({ registry, pull, push }) => {
      const image = someImage();
      registry.add('first', '1', image);
      await pull(`${registry.host}/first:1`);
      const result = await push(`${registry.host}/first:1`, { target: `${registry.host}/second:1` });
      expect(result.layers.map(({ how }) => how)).toEqual(['mounted', 'mounted', 'mounted']);
      expect(result).toMatchObject({ digest: image.digest, original: true, bytesSent: image.config.length });
      expect(registry.repo('second').manifests.get('1')?.bytes).toEqual(image.manifest);
    }));

  it('uses the upload that it is given where nothing can be taken over', () =>
    withRig(async (rig) => {
      const { registry, pull, push } = rig;
      const image = testImage([bigLayer()]);
      registry.add('first', '1', image);
      await pull(`${registry.host}/first:1`);
      registry.repo('first').blobs.clear();
      await push(`${registry.host}/first:1`, { target: `${registry.host}/second:1` });
      expect(registry.asked(/POST .*second/)).toHaveLength(2);
      expect(registry.repo('second').blobs.size).toBe(2);
    }));

  it('gives blobs and manifest back bit for bit where they are kept', () =>
    withRig(async (rig) => {
      const { registry, store, push } = rig;
      await store.reopen({ keepBlobs: true });
      const image = await loaded(rig);
      const result = await push('local/image:1', { target: `${registry.host}/a:1` });
      expect(result).toMatchObject({ digest: image.digest, original: true });
      expect(registry.repo('a').manifests.get('1')?.bytes).toEqual(image.manifest);
      for (const { digest, blob } of image.layers)
        expect(registry.repo('a').blobs.get(digest)?.equals(blob)).toBe(true);
    }));

  it('compresses and sends a layer once for two pushes of it', () =>
    withRig(async (rig) => {
      const { registry, push } = rig;
      await loaded(rig, testImage([bigLayer()]));
      const target = `${registry.host}/a`;
      await Promise.all([
        push('local/image:1', { target: `${target}:1` }),
        push('local/image:1', { target: `${target}:2` }),
      ]);
      expect(registry.asked(/PATCH/)).toHaveLength(1);
    }));

  it('compresses nothing for a registry that nobody runs', () =>
    withRig(async (rig) => {
      await loaded(rig);
      const progress: Progress[] = [];
      const failure = await failureOf(rig.push('local/image:1', { target: '127.0.0.1:1/x' }, { progress }));
      expect(failure).toMatchObject({
        code: 'REGISTRY_UNREACHABLE',
        hint: 'Is the name right, and the network there?',
      });
      expect(progress).toEqual([]);
    }));

  it('says that a name is no digest of what it has', () =>
    withRig(async (rig) => {
      await loaded(rig);
      const digest = `sha256:${'ab'.repeat(32)}`;
      const failure = await failureOf(rig.push('local/image:1', { target: `${rig.registry.host}/a@${digest}` }));
      expect(failure).toMatchObject({ code: 'INVALID_ARGUMENT', details: { asked: digest } });
    }));
});

describe('an upload that fails', () => {
  /** Several of them make the compressed form of the layer. */
  const CHUNK = 256 * 1024;

  async function uploaded(work: (rig: Rig) => void, change: object = {}): Promise<{ patches: Seen[] }> {
    let patches: Seen[] = [];
    await withRig(
      async (rig) => {
        const { registry, push } = rig;
        const layer = bigLayer();
        await loaded(rig, testImage([layer]));
        work(rig);
        await push('local/image:1', { target: `${registry.host}/a:1` });
        const [sent] = manifestAt(registry, 'a', '1').layers;
        const blob = registry.repo('a').blobs.get(sent?.digest ?? '') ?? Buffer.alloc(0);
        expect(sha256(blob)).toBe(sent?.digest);
        expect(sha256(gunzipSync(blob))).toBe(layer.diffId);
        patches = registry.asked(/PATCH/);
      },
      { chunkBytes: CHUNK, ...change },
    );
    return { patches };
  }

  function onPatch(rig: Rig, n: number, answer: (response: ServerResponse, seen: Seen) => boolean): void {
    let count = 0;
    rig.registry.intercept = (seen, response) => {
      if (seen.method !== 'PATCH') return false;
      count += 1;
      return count === n && answer(response, seen);
    };
  }

  it('goes in chunks, to wherever the registry moves it', async () => {
    const { patches } = await uploaded(({ registry }) => (registry.movingUploads = true));
    expect(patches.length).toBeGreaterThan(3);
    expect(patches[1]?.headers['content-range']).toBe(`${CHUNK}-${2 * CHUNK - 1}`);
    expect(new Set(patches.map(({ path }) => path)).size).toBe(patches.length);
    expect(patches.every(({ query }) => query.get('state') === 'a/b')).toBe(true);
  });

  it('goes on where the registry has got to when a connection breaks', async () => {
    const { patches } = await uploaded((rig) => onPatch(rig, 2, (response) => Boolean(response.destroy())));
    expect(
      patches.map(({ headers }) => headers['content-range']).filter((range) => range?.startsWith('0-')),
    ).toHaveLength(1);
  });

  it.each([0, 1, CHUNK / 2, CHUNK - 1, CHUNK])(
    'goes on behind what the registry kept of a chunk: %i bytes',
    async (kept) => {
      const { patches } = await uploaded((rig) => {
        let count = 0;
        rig.registry.intercept = (seen, response, request) => {
          if (seen.method !== 'PATCH' || (count += 1) !== 2) return false;
          const { uploads: all } = rig.registry.repo('a');
          const id = seen.path.split('/').at(-1) ?? '';
          const chunks: Buffer[] = [];
          request.on('data', (chunk: Buffer) => chunks.push(chunk));
          request.on('end', () => {
            all.set(id, Buffer.concat([all.get(id) ?? Buffer.alloc(0), Buffer.concat(chunks).subarray(0, kept)]));
            response.destroy();
          });
          return true;
        };
      });
      const starts = patches.map(({ headers }) => headers['content-range']?.split('-')[0]);
      expect(starts).toContain(String(CHUNK + kept));
      expect(starts.filter((start) => start === '0')).toHaveLength(1);
    },
  );

  it.each([500, 503, 429])('is tried again after %i', async (status) => {
    await uploaded((rig) => onPatch(rig, 2, (response) => Boolean(response.writeHead(status).end())));
  });

  it('goes on with a fresh token where one ends in the middle', async () => {
    await uploaded((rig) => {
      rig.registry.tokens = new Set();
      onPatch(rig, 2, () => {
        rig.registry.tokens?.clear();
        return false;
      });
    });
  });

  it('asks where it is when the registry is out of step', async () => {
    await uploaded((rig) =>
      onPatch(rig, 2, (response, { path }) => {
        // half of the chunk before is lost
        const id = path.split('/').at(-1) ?? '';
        const { uploads: all } = rig.registry.repo('a');
        all.set(id, (all.get(id) ?? Buffer.alloc(0)).subarray(0, CHUNK / 2));
        return Boolean(response.writeHead(416).end());
      }),
    );
  });

  it('begins anew where the registry has forgotten it', async () => {
    const { patches } = await uploaded((rig) =>
      onPatch(rig, 2, () => {
        rig.registry.repo('a').uploads.clear();
        return false;
      }),
    );
    expect(
      patches.map(({ headers }) => headers['content-range']).filter((range) => range?.startsWith('0-')),
    ).toHaveLength(2);
  });

  it('is given up where the registry forgets it again and again', () =>
    withRig(async (rig) => {
      await loaded(rig, testImage([bigLayer()]));
      rig.registry.intercept = ({ method }) => {
        if (method === 'PATCH') rig.registry.repo('a').uploads.clear();
        return false;
      };
      const failure = await failureOf(rig.push('local/image:1', { target: `${rig.registry.host}/a:1` }));
      expect(failure).toMatchObject({ code: 'REGISTRY_NOT_FOUND' });
      expect(uploads(rig.registry).length).toBeLessThan(10);
      expect(rig.registry.repo('a').manifests.size).toBe(0);
    }));

  it('is left where the registry takes nothing more', async () => {
    await uploaded((rig) => onPatch(rig, 2, () => true), { stallMs: 500, retries: 10 });
  });

  it('does not tell another host who we are', () =>
    withRig(async (rig) => {
      const { registry, push } = rig;
      registry.tokens = new Set();
      await loaded(rig, testImage([testLayer('small')]));
      const other = registry.host.replace('127.0.0.1', 'localhost');
      const told: (string | undefined)[] = [];
      registry.intercept = ({ method, path, headers, query }, response, request) => {
        if (method === 'POST') {
          if (headers.authorization === undefined) return false;
          response.writeHead(202, { location: `http://${other}/elsewhere${path}?x=1` }).end();
          return true;
        }
        if (!path.startsWith('/elsewhere')) return false;
        told.push(headers.authorization);
        const chunks: Buffer[] = [];
        request.on('data', (chunk: Buffer) => chunks.push(chunk));
        request.on('end', () => {
          registry.repo('a').blobs.set(query.get('digest') ?? '', Buffer.concat(chunks));
          response.writeHead(201).end();
        });
        return true;
      };
      await push('local/image:1', { target: `${registry.host}/a:1` });
      expect(told).toEqual([undefined, undefined]);
    }));
});
