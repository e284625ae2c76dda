/** Pulls from a registry that does what it should: names, platforms, credentials, mirrors, and only what is missing. */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { sha256 } from '../../src/core/digest.js';
import type { Progress } from '../../src/core/words.js';
import { descriptor, indexOf, testImage, testLayer, type TestLayer } from '../unit/image-synthetic.js';
import { FakeRegistry } from './fake-registry.js';
import { bigLayer, failureOf, someImage, withRig } from './rig.js';

const INDEX = 'application/vnd.oci.image.index.v1+json';

describe('a pull', () => {
  it('brings an image by tag and by digest, as it is named', () =>
    withRig(async ({ registry, store, pull }) => {
      const image = someImage();
      registry.add('some/where', 'v1', image);
      const ref = `${registry.host}/some/where`;
      const result = await pull(`${ref}:v1`);
      expect(result).toMatchObject({ ref: `${ref}:v1`, digest: image.digest, from: registry.host, layersLoaded: 3 });
      expect(store.engine.image(`${ref}:v1`)).toMatchObject({ id: image.id, manifestDigest: image.digest });
      await pull(`${ref}@${image.digest}`);
      expect(store.engine.image(image.id).refs).toEqual([`${ref}:v1`, `${ref}@${image.digest}`]);
      expect((await store.check()).problems).toEqual([]);
      expect(store.engine.leases()).toEqual([]);
    }));

  it('asks for no blob whose layer is there, by diff ID through the config', () =>
    withRig(async ({ registry, pull }) => {
      const shared = bigLayer();
      registry.add('a', 'latest', testImage([shared]));
      await pull(`${registry.host}/a`);
      const again = otherBlob(shared);
      const other = testImage([again, testLayer('more', true)]);
      registry.add('b', 'latest', other);
      registry.seen.length = 0;
      const progress: Progress[] = [];
      const result = await pull(`${registry.host}/b`, {}, { progress });
      expect(result).toMatchObject({ layersLoaded: 1, layersPresent: 1 });
      expect(registry.asked(new RegExp(again.digest))).toEqual([]);
      expect(progress).toContainEqual(expect.objectContaining({ phase: 'present', subject: shared.diffId }));
    }));

  it('fetches a layer once for two pulls of it', () =>
    withRig(async ({ registry, pull }) => {
      const shared = bigLayer();
      registry.add('a', 'latest', testImage([shared, testLayer('a')]));
      registry.add('b', 'latest', testImage([shared, testLayer('b')]));
      await Promise.all([pull(`${registry.host}/a`), pull(`${registry.host}/b`)]);
      expect(registry.asked(new RegExp(`GET .*${shared.digest}`))).toHaveLength(1);
    }));

  it('takes the platform that is asked for, and fetches no other manifest', () =>
    withRig(async ({ registry, store, pull }) => {
      const [amd, arm] = [testImage([testLayer('amd')]), testImage([testLayer('arm')], 'arm64')];
      for (const image of [amd, arm]) registry.add('multi', null, image);
      const index = indexOf([
        descriptor(amd.manifest, { platform: { os: 'linux', architecture: 'amd64' } }),
        descriptor(arm.manifest, { platform: { os: 'linux', architecture: 'arm64' } }),
      ]);
      registry.addManifest('multi', '1', index, INDEX);
      const ref = `${registry.host}/multi:1`;
      const one = await pull(ref, { platform: { os: 'linux', architecture: 'arm64' } });
      expect(one.images.map(({ imageId }) => imageId)).toEqual([arm.id]);
      expect(one.digest).toBe(sha256(index));
      expect(registry.asked(new RegExp(amd.digest))).toEqual([]);
      const all = await pull(ref, { allPlatforms: true, platform: { os: 'linux', architecture: 'amd64' } });
      expect(all.images.map(({ imageId }) => imageId).sort()).toEqual([amd.id, arm.id].sort());
      expect(store.engine.image(ref).id).toBe(amd.id);
      const failure = await failureOf(pull(ref, { platform: { os: 'linux', architecture: 's390x' } }));
      expect(failure).toMatchObject({ code: 'PLATFORM_NOT_FOUND', details: { wanted: 'linux/s390x' } });
    }));

  it('keeps its connections, and does without those that were closed meanwhile', () =>
    withRig(
      async ({ registry, store, pull, push }) => {
        const [first, second] = [testImage([bigLayer()]), testImage([bigLayer()])];
        registry.add('a', '1', first);
        registry.add('a', '2', second);
        await pull(`${registry.host}/a:1`);
        await push(`${registry.host}/a:1`);
        const before = registry.connections;
        for (let times = 0; times < 5; times += 1) await push(`${registry.host}/a:1`);
        expect(registry.connections).toBe(before);
        registry.closeIdle();
        // nothing may be waited out: one failure would be told
        await pull(`${registry.host}/a:2`);
        expect(store.engine.image(`${registry.host}/a:2`).id).toBe(second.id);
      },
      { retries: 0 },
    ));

  it('says what is not there', () =>
    withRig(async ({ registry, store, pull }) => {
      const failure = await failureOf(pull(`${registry.host}/nothing:here`));
      expect(failure).toMatchObject({ code: 'REGISTRY_NOT_FOUND' });
      expect(failure.message).toContain(`${registry.host}/nothing:here`);
      expect(store.engine.leases()).toEqual([]);
    }));

  it('does not wait for a registry that nobody runs', () =>
    withRig(
      async ({ pull }) => {
        const failure = await failureOf(pull('127.0.0.1:1/x'));
        expect(failure).toMatchObject({ code: 'REGISTRY_UNREACHABLE', details: { reason: 'ECONNREFUSED' } });
      },
      { retries: 100, retryDelayMs: 60_000 },
    ));
});

describe('credentials', () => {
  const login = { username: 'anna', password: 'pass:word' };

  it('are told to the realm, and give tokens for the scope', () =>
    withRig(async ({ registry, pull }) => {
      registry.tokens = new Set();
      registry.login = login;
      registry.add('a/b', 'latest', someImage());
      const refused = await failureOf(pull(`${registry.host}/a/b`));
      expect(refused.code).toBe('REGISTRY_DENIED');
      await pull(`${registry.host}/a/b`, { credentials: login });
      const [asked] = registry.asked(/\/token/).slice(-1);
      expect(asked?.query.getAll('scope')).toEqual(['repository:a/b:pull', 'extra']);
      expect(asked?.query.get('service')).toBe('fake');
      expect(registry.asked(/\/token/)).toHaveLength(2);
    }));

  it('come from a Docker configuration file, and from credential helpers', () =>
    withRig(async ({ registry, store, pull }) => {
      registry.tokens = new Set();
      registry.login = login;
      registry.add('a', 'latest', someImage());
      const file = join(store.home, 'config.json');
      const auth = Buffer.from(`${login.username}:${login.password}`).toString('base64');
      writeFileSync(file, JSON.stringify({ auths: { [`http://${registry.host}/v1/`]: { auth } } }));
      await store.reopen({ registry: { ...store.config.registry, credentialsFile: file } });
      await pull(`${registry.host}/a`);
      await withHelper(store.home, login, async () => {
        writeFileSync(file, JSON.stringify({ credHelpers: { [registry.host]: 'layerd-test' } }));
        await store.reopen({ registry: { ...store.config.registry, credentialsFile: file } });
        await pull(`${registry.host}/a`);
      });
      writeFileSync(file, JSON.stringify({ credsStore: 'is-not-there' }));
      await store.reopen({ registry: { ...store.config.registry, credentialsFile: file } });
      expect(await failureOf(pull(`${registry.host}/a`))).toMatchObject({ code: 'CREDENTIALS_INVALID' });
    }));

  it('are renewed where a token ends in the middle of a pull', () =>
    withRig(async ({ registry, pull }) => {
      registry.tokens = new Set();
      registry.add('a', 'latest', someImage());
      let blobs = 0;
      registry.intercept = ({ path }) => {
        if (/\/blobs\//.test(path) && (blobs += 1) === 2) registry.tokens?.clear();
        return false;
      };
      await pull(`${registry.host}/a`);
      expect(registry.asked(/\/token/).length).toBeGreaterThan(1);
    }));

  it('stay with the registry where it redirects to another host', () =>
    withRig(async ({ registry, pull }) => {
      const image = someImage();
      registry.tokens = new Set();
      registry.add('a', 'latest', image);
      const told: (string | undefined)[] = [];
      const elsewhere = createServer((request, response) => {
        told.push(request.headers.authorization);
        response.end(registry.repo('a').blobs.get((request.url ?? '').slice(1)));
      });
      await new Promise<void>((resolve) => elsewhere.listen(0, '127.0.0.1', resolve));
      const port = (elsewhere.address() as AddressInfo).port;
      registry.intercept = ({ path, headers }, response) => {
        const digest = /\/blobs\/(sha256:.*)/.exec(path)?.[1];
        if (digest === undefined || headers.authorization === undefined) return false;
        response.writeHead(307, { location: `http://127.0.0.1:${port}/${digest}` }).end();
        return true;
      };
      try {
        await pull(`${registry.host}/a`);
      } finally {
        elsewhere.closeAllConnections();
        elsewhere.close();
      }
      expect(told).toEqual([undefined, undefined, undefined, undefined]);
    }));
});

describe('mirrors', () => {
  it('are asked first, without credentials, and the next place where one fails', async () => {
    const [first, second] = await Promise.all([FakeRegistry.start(), FakeRegistry.start()]);
    const registry = 'registry.example.invalid';
    const mirrors = [first, second].map(({ host }) => ({ registry, url: `http://${host}/` }));
    try {
      await withRig(
        async ({ pull }) => {
          const [one, two] = [someImage(), someImage()];
          first.add('library/one', 'latest', one);
          second.add('library/two', 'latest', two);
          // the first has the manifest of this one, and not the blobs
          first.addManifest('library/two', 'latest', two.manifest, 'application/vnd.oci.image.manifest.v1+json');
          const credentials = { username: 'a', password: 'b' };
          expect(await pull(`${registry}/library/one`, { credentials })).toMatchObject({ from: first.host });
          expect(await pull(`${registry}/library/two`, { credentials })).toMatchObject({ layersLoaded: 2 });
          expect(first.seen.every(({ headers }) => headers.authorization === undefined)).toBe(true);
          const failure = await failureOf(pull(`${registry}/library/three`, { credentials }));
          expect(failure).toMatchObject({ code: 'REGISTRY_UNREACHABLE', details: { registry } });
        },
        { mirrors },
      );
    } finally {
      await Promise.all([first.close(), second.close()]);
    }
  });
});

/** The same layer as another blob, whose digest no row knows. */
function otherBlob(layer: TestLayer): TestLayer {
  const blob = gzipSync(layer.tar, { level: 1 });
  return { ...layer, blob, digest: sha256(blob), mediaType: `${layer.mediaType}+gzip` };
}

/** A credential helper on the PATH. */
async function withHelper(home: string, answer: { username: string; password: string }, work: () => Promise<void>) {
  const directory = join(home, 'bin');
  mkdirSync(directory);
  const program = join(directory, 'docker-credential-layerd-test');
  const document = JSON.stringify({ Username: answer.username, Secret: answer.password });
  writeFileSync(program, `#!/bin/sh\ncat >/dev/null\necho '${document}'\n`);
  chmodSync(program, 0o755);
  const path = process.env['PATH'];
  process.env['PATH'] = `${directory}:${path ?? ''}`;
  try {
    await work();
  } finally {
    process.env['PATH'] = path;
  }
}
