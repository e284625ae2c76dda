/** Pulls from registries that fail: what passes is waited out and continued, what does not is told, nothing half is seen. */
import { existsSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { sha256 } from '../../src/core/digest.js';
import { LayerdError } from '../../src/core/errors.js';
import type { Progress } from '../../src/core/words.js';
import { testImage, testLayer, type TestImage, type TestLayer } from '../unit/image-synthetic.js';
import type { Seen } from './fake-registry.js';
import { bigLayer, failureOf, withRig, type Rig } from './rig.js';

/** An image of one large layer, at `HOST/a`. */
function oneLayer({ registry }: Rig): { image: TestImage; layer: TestLayer; ref: string } {
  const layer = bigLayer();
  const image = testImage([layer]);
  registry.add('a', 'latest', image);
  return { image, layer, ref: `${registry.host}/a` };
}

/** Has the n-th request (from 1) that `what` fits answered by `answer`; all others as it should be. */
function onNth(rig: Rig, what: RegExp, n: number, answer: (response: ServerResponse, seen: Seen) => boolean): void {
  let count = 0;
  rig.registry.intercept = (seen, response) => {
    if (!what.test(`${seen.method} ${seen.path}`)) return false;
    count += 1;
    return count === n && answer(response, seen);
  };
}

/** Sends the first bytes of what it promises, then breaks the connection. */
function breakOff(response: ServerResponse, bytes: Buffer, at: number, promised = bytes.length): true {
  response.writeHead(200, { 'content-length': promised });
  response.write(bytes.subarray(0, at), () => response.destroy());
  if (at === 0) response.flushHeaders();
  return true;
}

function rangesOf(rig: Rig, layer: TestLayer): (string | undefined)[] {
  return rig.registry.asked(new RegExp(`GET .*${layer.digest}`)).map(({ headers }) => headers.range);
}

/** No image, no row; what was fetched of a blob may be kept, and goes with its lease. */
async function expectNothingSeen({ store }: Rig): Promise<void> {
  expect([...store.engine.images()]).toEqual([]);
  expect((await store.check()).problems).toEqual([]);
  for (const { id } of store.engine.leases()) await store.engine.removeLease(id);
  await store.collect();
  expect(await store.leftovers()).toEqual([]);
}

describe('a transfer that breaks off', () => {
  const KB = 1024;
  const places = [0, 1, 511, 512, 64 * KB - 1, 64 * KB, KB * KB, KB * KB + 1, 2 * KB * KB, -1];

  it.each(places)('goes on at byte %i', (place) =>
    withRig(async (rig) => {
      const { layer, ref, image } = oneLayer(rig);
      const at = place < 0 ? layer.blob.length + place : place;
      onNth(rig, /GET .*\/blobs\//, 2, (response) => breakOff(response, layer.blob, at));
      await rig.pull(ref);
      expect(rig.store.engine.image(ref).id).toBe(image.id);
      const [first, second] = rangesOf(rig, layer);
      expect(first).toBeUndefined();
      // what was on its way when the connection broke may be lost with it
      const from = Number(/^bytes=(\d+)-$/.exec(second ?? 'bytes=0-')?.[1]);
      expect(from).toBeLessThanOrEqual(at);
    }),
  );

  it('goes on where bodies are short, again and again, as long as bytes come', () =>
    withRig(async (rig) => {
      const { layer, ref } = oneLayer(rig);
      const step = 300_000;
      rig.registry.intercept = ({ method, path, headers }, response) => {
        if (method !== 'GET' || !path.includes(layer.digest)) return false;
        const from = Number(/^bytes=(\d+)-$/.exec(headers.range ?? 'bytes=0-')?.[1]);
        const bytes = layer.blob.subarray(from, from + step);
        const range = `bytes ${from}-${layer.blob.length - 1}/${layer.blob.length}`;
        response.writeHead(from === 0 ? 200 : 206, { 'content-length': bytes.length, 'content-range': range });
        response.end(bytes);
        return true;
      };
      await rig.pull(ref);
      // more often than it would be tried again without any bytes
      expect(rangesOf(rig, layer).length).toBeGreaterThan(10);
    }));

  it('takes all of a blob for the rest of it, where ranges are not known', () =>
    withRig(async (rig) => {
      const { layer, ref } = oneLayer(rig);
      let gets = 0;
      rig.registry.intercept = ({ method, path }, response) => {
        if (method !== 'GET' || !path.includes(layer.digest)) return false;
        gets += 1;
        if (gets === 1) return breakOff(response, layer.blob, 1_000_000);
        response.writeHead(200, { 'content-length': layer.blob.length }).end(layer.blob);
        return true;
      };
      await rig.pull(ref);
      expect(gets).toBe(2);
    }));

  it('asks for the whole where a range is refused', () =>
    withRig(async (rig) => {
      const { layer, ref } = oneLayer(rig);
      let gets = 0;
      rig.registry.intercept = ({ method, path, headers }, response) => {
        if (method !== 'GET' || !path.includes(layer.digest)) return false;
        gets += 1;
        if (gets === 1) return breakOff(response, layer.blob, 1_000_000);
        if (headers.range === undefined) return false;
        response.writeHead(416).end();
        return true;
      };
      await rig.pull(ref);
      expect(rangesOf(rig, layer).at(-1)).toBeUndefined();
    }));

  it('refuses bytes that are not the range that it asked for', () =>
    withRig(async (rig) => {
      const { layer, ref } = oneLayer(rig);
      let gets = 0;
      rig.registry.intercept = ({ method, path }, response) => {
        if (method !== 'GET' || !path.includes(layer.digest)) return false;
        gets += 1;
        if (gets === 1) return breakOff(response, layer.blob, 1_000_000);
        const rest = layer.blob.subarray(2_000_000);
        const range = `bytes 2000000-${layer.blob.length - 1}/${layer.blob.length}`;
        response.writeHead(206, { 'content-length': rest.length, 'content-range': range }).end(rest);
        return true;
      };
      expect(await failureOf(rig.pull(ref))).toMatchObject({ code: 'REGISTRY_PROTOCOL' });
      await expectNothingSeen(rig);
    }));

  it('gives up where nothing comes any more, and the next pull goes on there', () =>
    withRig(async (rig) => {
      const { layer, ref } = oneLayer(rig);
      rig.registry.intercept = ({ method, path, headers }, response) => {
        if (method !== 'GET' || !path.includes(layer.digest)) return false;
        if (headers.range === undefined) return breakOff(response, layer.blob, 2_000_000);
        response.writeHead(503).end();
        return true;
      };
      const failure = await failureOf(rig.pull(ref));
      expect(failure).toMatchObject({ code: 'REGISTRY_UNREACHABLE', details: { status: 503 } });
      expect(failure.hint).toContain('the same command goes on where it ended');
      const { store, registry } = rig;
      const [lease] = store.engine.leases();
      expect(lease?.labels).toEqual({ 'layerd.pull': `${ref}:latest` });
      const have = statSync(join(store.config.root, 'b', `${layer.digest.slice(7)}.part`)).size;
      expect(have).toBeGreaterThan(1_000_000);
      const { rows, total } = await store.engine.diskUsage();
      expect(rows).toContainEqual(expect.objectContaining({ kind: 'partial', id: layer.digest, users: [lease?.id] }));
      expect(total).toBe(await store.allocated());
      await store.collect();
      registry.intercept = () => false;
      registry.seen.length = 0;
      const progress: Progress[] = [];
      await rig.pull(ref, {}, { progress });
      expect(rangesOf(rig, layer)).toEqual([`bytes=${have}-`]);
      expect(progress).toContainEqual({ phase: 'resume', subject: layer.diffId, done: have, total: layer.blob.length });
      expect(store.engine.leases()).toEqual([]);
      expect(readdirSync(join(store.config.root, 'b'))).toEqual([]);
      expect((await store.check()).problems).toEqual([]);
    }));

  it('fetches all of it again where what it had has changed meanwhile', () =>
    withRig(
      async (rig) => {
        const { layer, ref, image } = oneLayer(rig);
        onNth(rig, /GET .*\/blobs\//, 2, (response) => breakOff(response, layer.blob, 2_000_000));
        const abort = new AbortController();
        const pulling = rig.pull(ref, {}, { signal: abort.signal });
        const part = join(rig.store.config.root, 'b', `${layer.digest.slice(7)}.part`);
        await expect.poll(() => existsSync(part) && statSync(part).size > 1_000_000, { timeout: 20_000 }).toBe(true);
        abort.abort();
        expect((await failureOf(pulling)).code).toBe('CANCELLED');
        writeFileSync(part, Buffer.alloc(1_500_000, 'x'));
        await rig.pull(ref);
        expect(rig.store.engine.image(ref).id).toBe(image.id);
        expect(rangesOf(rig, layer).slice(-2)).toEqual(['bytes=1500000-', undefined]);
      },
      { retryDelayMs: 100_000 },
    ));
});

/** How a connection breaks, told by what becomes of the answer. */
const BREAKS: Record<string, (response: ServerResponse) => boolean> = {
  'before anything is answered': (response) => Boolean(response.destroy()),
  'when all was done, before it is answered': (response) => {
    response.writeHead = () => response.destroy();
    return false;
  },
  'in the head of the answer': (response) => {
    response.writeHead = () => {
      response.socket?.end('HTTP/1.1 20');
      return response;
    };
    response.end = () => response;
    return false;
  },
};

const KINDS: Record<string, RegExp> = {
  'the token': /GET \/token/,
  'the manifest': /GET .*\/manifests\//,
  'the config': /GET .*\/blobs\/sha256/,
  'whether a blob is there': /HEAD .*\/blobs\//,
  'the beginning of an upload': /POST .*\/uploads\//,
  'a part of a blob': /PATCH .*\/uploads\//,
  'the end of a blob': /PUT .*\/uploads\//,
  'whether the manifest is there': /HEAD .*\/manifests\//,
  'the manifest that is sent': /PUT .*\/manifests\//,
};

describe.each(Object.keys(BREAKS))('a connection that breaks %s', (when) => {
  it.each(Object.keys(KINDS))('is made again for %s', (kind) =>
    withRig(async (rig) => {
      const { registry, store, pull, push } = rig;
      const { image, layer, ref } = oneLayer(rig);
      registry.tokens = new Set();
      let broken = 0;
      registry.intercept = ({ method, path }, response) => {
        if (KINDS[kind]?.test(`${method} ${path}`) !== true || broken > 0) return false;
        broken += 1;
        return BREAKS[when]?.(response) ?? false;
      };
      await pull(ref);
      expect(store.engine.image(ref).id).toBe(image.id);
      const result = await push(ref, { target: `${registry.host}/b:1`, compression: 'gzip' });
      expect(broken).toBe(1);
      expect(registry.repo('b').manifests.get('1')).toMatchObject({ bytes: expect.any(Buffer) as Buffer });
      const [sent] = result.layers;
      expect(sent).toMatchObject({ diffId: layer.diffId });
      expect(sha256(gunzipSync(registry.repo('b').blobs.get(sent?.digest ?? '') ?? ''))).toBe(layer.diffId);
      // what had arrived is not sent once more
      expect(registry.asked(/PATCH/).filter(({ headers }) => headers['content-range']?.startsWith('0-'))).toHaveLength(
        kind === 'a part of a blob' && when === 'before anything is answered' ? 2 : 1,
      );
    }),
  );
});

describe('a registry that is in trouble', () => {
  it.each([429, 500, 502, 503, 504, 408])('is asked again after %i', (status) =>
    withRig(async (rig) => {
      const { ref } = oneLayer(rig);
      let refusals = 0;
      rig.registry.intercept = (_seen, response) => {
        // every other request fails, whatever it is for
        refusals += 1;
        if (refusals % 2 === 0) return false;
        response.writeHead(status, { 'retry-after': '0' }).end();
        return true;
      };
      const progress: Progress[] = [];
      await rig.pull(ref, {}, { progress });
      expect(progress.filter(({ phase }) => phase === 'wait').length).toBeGreaterThan(2);
    }),
  );

  it('is told of when it asks for more patience than there is', () =>
    withRig(async (rig) => {
      const { ref } = oneLayer(rig);
      rig.registry.intercept = (_seen, response) => {
        response
          .writeHead(429, { 'retry-after': '86400' })
          .end('{"errors":[{"code":"TOOMANYREQUESTS","message":"go"}]}');
        return true;
      };
      const failure = await failureOf(rig.pull(ref));
      expect(failure).toMatchObject({ code: 'REGISTRY_LIMITED', details: { retryAfterMs: 86_400_000 } });
      expect(failure.message).toContain('TOOMANYREQUESTS: go');
      expect(rig.registry.seen).toHaveLength(1);
    }));

  it.each(['before it answers', 'after a while'])('is left where it stands still, %s', (when) =>
    withRig(
      async (rig) => {
        const { layer, ref, image } = oneLayer(rig);
        onNth(rig, /GET .*\/blobs\//, 2, (response) => {
          if (when === 'before it answers') return true;
          response.writeHead(200, { 'content-length': layer.blob.length });
          response.write(layer.blob.subarray(0, 100_000));
          return true;
        });
        await rig.pull(ref);
        expect(rig.store.engine.image(ref).id).toBe(image.id);
      },
      { stallMs: 1000, retries: 10 },
    ),
  );

  it('is left where it drips', () =>
    withRig(
      async (rig) => {
        const { layer, ref, image } = oneLayer(rig);
        let timer: NodeJS.Timeout | undefined;
        onNth(rig, /GET .*\/blobs\//, 2, (response) => {
          response.writeHead(200, { 'content-length': layer.blob.length });
          let at = 0;
          timer = setInterval(() => response.write(layer.blob.subarray(at, (at += 1))), 20);
          return true;
        });
        await rig.pull(ref);
        clearInterval(timer);
        expect(rig.store.engine.image(ref).id).toBe(image.id);
      },
      { stallMs: 1000, retries: 10 },
    ));
});

describe('a registry that lies', () => {
  it('about a manifest', () =>
    withRig(async (rig) => {
      const { image, registry } = { ...oneLayer(rig), ...rig };
      const other = testImage([testLayer('other')]);
      registry
        .repo('a')
        .manifests.set(image.digest, { bytes: other.manifest, type: 'application/vnd.oci.image.manifest.v1+json' });
      const failure = await failureOf(rig.pull(`${registry.host}/a@${image.digest}`));
      expect(failure).toMatchObject({
        code: 'BLOB_DIGEST_MISMATCH',
        details: { expected: image.digest, found: other.digest },
      });
      await expectNothingSeen(rig);
    }));

  it('about a config, and about a layer', () =>
    withRig(async (rig) => {
      const { image, layer, ref } = oneLayer(rig);
      const { blobs } = rig.registry.repo('a');
      blobs.set(layer.digest, flipped(layer.blob));
      expect(await failureOf(rig.pull(ref))).toMatchObject({
        code: 'BLOB_DIGEST_MISMATCH',
        details: { expected: layer.digest },
      });
      blobs.set(image.id, flipped(image.config));
      expect(await failureOf(rig.pull(ref))).toMatchObject({
        code: 'BLOB_DIGEST_MISMATCH',
        details: { expected: image.id },
      });
      await expectNothingSeen(rig);
    }));

  it('about the length of a blob', () =>
    withRig(async (rig) => {
      const { layer, ref } = oneLayer(rig);
      rig.registry.repo('a').blobs.set(layer.digest, Buffer.concat([layer.blob, Buffer.alloc(100)]));
      const failure = await failureOf(rig.pull(ref));
      expect(failure).toMatchObject({ code: 'BLOB_DIGEST_MISMATCH', details: { expected: layer.blob.length } });
      await expectNothingSeen(rig);
    }));

  it('with bodies that never end', () =>
    withRig(async (rig) => {
      const { ref, layer } = oneLayer(rig);
      const endless = (response: ServerResponse, chunk: Buffer): true => {
        response.writeHead(200, { 'content-type': 'application/vnd.oci.image.manifest.v1+json' });
        const more = (): void => {
          while (!response.destroyed && response.write(chunk));
        };
        response.on('drain', more);
        more();
        return true;
      };
      onNth(rig, /manifests/, 1, (response) => endless(response, Buffer.alloc(1024 * 1024, ' ')));
      expect(await failureOf(rig.pull(ref))).toMatchObject({ code: 'REGISTRY_PROTOCOL' });
      onNth(rig, new RegExp(layer.digest), 1, (response) => endless(response, layer.blob));
      expect(await failureOf(rig.pull(ref))).toMatchObject({ code: 'BLOB_DIGEST_MISMATCH' });
      await expectNothingSeen(rig);
    }));

  it('by leading us round in circles', () =>
    withRig(async (rig) => {
      const { ref } = oneLayer(rig);
      rig.registry.intercept = (seen, response) => {
        response.writeHead(307, { location: seen.path }).end();
        return true;
      };
      expect(await failureOf(rig.pull(ref))).toMatchObject({ code: 'REGISTRY_PROTOCOL' });
    }));
});

it('a pull that is given up ends at once, whatever the registry does', () =>
  withRig(async (rig) => {
    const { ref } = oneLayer(rig);
    const abort = new AbortController();
    onNth(rig, /GET .*\/blobs\//, 2, () => {
      abort.abort(new LayerdError('CANCELLED', 'enough'));
      return true;
    });
    const failure = await failureOf(rig.pull(ref, {}, { signal: abort.signal }));
    expect(failure).toMatchObject({ code: 'CANCELLED', message: 'enough' });
    await expectNothingSeen(rig);
  }));

function flipped(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  copy.writeUInt8(copy.readUInt8(600 % copy.length) ^ 1, 600 % copy.length);
  return copy;
}
