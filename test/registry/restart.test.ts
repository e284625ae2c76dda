/** A pull whose daemon dies goes on where it ended, with the next daemon. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { makeHome, removeHome, TestDaemon } from '../cli/daemon.js';
import { testImage, testLayer } from '../unit/image-synthetic.js';
import { FakeRegistry } from './fake-registry.js';
import { bigLayer } from './rig.js';

const FLAGS = ['--driver', 'copy', '--registry-credentials-file', 'off', '--gc-grace', '0', '--gc-interval', '0'];
const PATIENCE = { timeout: 30_000 };

describe.each(['SIGKILL', 'SIGTERM'] as const)('after %s in the middle of a pull', (signal) => {
  it('the next pull fetches what is missing, and nothing else', async () => {
    const registry = await FakeRegistry.start();
    const home = makeHome();
    const [small, large] = [testLayer('small', true), bigLayer()];
    const image = testImage([small, large]);
    registry.add('a', 'latest', image);
    const ref = `${registry.host}/a:latest`;
    const part = join(home, 'root/b', `${large.digest.slice(7)}.part`);
    try {
      registry.intercept = ({ method, path }, response) => {
        if (method !== 'GET' || !path.endsWith(large.digest)) return false;
        // most of it, and then nothing more
        response.writeHead(200, { 'content-length': large.blob.length });
        response.write(large.blob.subarray(0, 2_500_000));
        return true;
      };
      const first = await TestDaemon.start(home, [...FLAGS, '--drain-timeout', '1s']);
      const pulling = first.client.pull(ref).catch((error: unknown) => error);
      await expect.poll(() => existsSync(part) && statSync(part).size > 1_500_000, PATIENCE).toBe(true);
      await expect.poll(async () => (await first.info()).counts.layers, PATIENCE).toBe(1);
      await first.stop(signal);
      expect(await pulling).toBeInstanceOf(Error);

      registry.intercept = () => false;
      registry.seen.length = 0;
      const second = await TestDaemon.start(home, FLAGS);
      try {
        const { client } = second;
        expect(await client.images()).toEqual([]);
        await client.gc({ wait: true });
        const have = statSync(part).size;
        const { rows } = await client.diskUsage();
        expect(rows).toContainEqual(expect.objectContaining({ kind: 'partial', id: large.digest }));
        expect((await client.check()).problems).toEqual([]);
        expect(await client.pull(ref)).toMatchObject({ layersLoaded: 1, layersPresent: 1 });
        const blobs = registry.asked(/GET .*\/blobs\//).filter(({ path }) => !path.endsWith(image.id));
        expect(blobs.map(({ headers }) => headers.range)).toEqual([`bytes=${have}-`]);
        expect(readdirSync(join(home, 'root/b'))).toEqual([]);
        expect(await client.leases()).toEqual([]);
        expect((await client.check()).problems).toEqual([]);
      } finally {
        await second.stop();
      }
    } finally {
      await registry.close();
      removeHome(home);
    }
  });
});

it('what a pull fetched goes when its lease does', async () => {
  const registry = await FakeRegistry.start();
  const home = makeHome();
  const large = bigLayer();
  registry.add('a', 'latest', testImage([large]));
  registry.intercept = ({ path }, response) => {
    if (!path.endsWith(large.digest)) return false;
    response.writeHead(200, { 'content-length': large.blob.length });
    response.write(large.blob.subarray(0, 2_500_000));
    return true;
  };
  const daemon = await TestDaemon.start(home, FLAGS);
  try {
    const part = join(home, 'root/b', `${large.digest.slice(7)}.part`);
    const abort = new AbortController();
    const pulling = daemon.client.pull(`${registry.host}/a`, { signal: abort.signal }).catch((error: unknown) => error);
    await expect.poll(() => existsSync(part) && statSync(part).size > 1_500_000, PATIENCE).toBe(true);
    abort.abort();
    expect(await pulling).toMatchObject({ code: 'CANCELLED' });
    const [lease] = await daemon.client.leases();
    expect(lease?.expires).toBeGreaterThan(Date.now());
    expect((await daemon.client.gc({ dryRun: true })).removed).toEqual([]);
    await daemon.client.removeLease(lease?.id ?? '');
    const report = await daemon.client.gc({ grace: 0, wait: true });
    expect(report.removed).toEqual([expect.objectContaining({ kind: 'partial', id: large.digest })]);
    expect(report.bytes).toBeGreaterThan(1_500_000);
    expect(existsSync(part)).toBe(false);
    expect((await daemon.client.check()).problems).toEqual([]);
  } finally {
    await daemon.stop();
    await registry.close();
    removeHome(home);
  }
});
