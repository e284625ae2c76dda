/** The registry of Debian, plain and behind TLS with a password; what other tools pull of ours, and we of theirs. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { fixture, type Fixture } from '../../bench/fixtures/fixtures.js';
import { run } from '../../bench/fixtures/shell.js';
import { makeHome, removeHome, TestDaemon } from '../cli/daemon.js';
import { needsFixtures, never, withStore } from '../e2e/store.js';
import { describeWith, needsProgram } from '../support.js';
import { placeCertificates, TestAuthority } from './certificates.js';
import { RealRegistry } from './real-registry.js';
import { failureOf, IMPATIENT } from './rig.js';

/** What `htpasswd -B` makes of anna and secret. */
const HTPASSWD = 'anna:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n';

let tiny: Fixture;

const NEEDS = [...needsFixtures(), needsProgram('docker-registry'), needsProgram('podman'), needsProgram('openssl')];

describeWith('the registry of Debian', NEEDS, () => {
  let registry: RealRegistry;

  beforeAll(async () => {
    tiny = await fixture('tiny');
    registry = await RealRegistry.start();
  }, 600_000);
  afterAll(() => registry.stop());

  const ignore = (): void => undefined;

  it('gives us what skopeo and podman pushed, and them what we pushed', async () => {
    const layout = `oci:${tiny.forms.ociLayout.path}:${tiny.tag}`;
    const there = `${registry.host}/skopeo/tiny:1`;
    await run('skopeo', ['copy', '--quiet', '--dest-tls-verify=false', layout, `docker://${there}`]);
    await withStore({ registry: { ...IMPATIENT, chunkBytes: 128 * 1024 } }, async ({ engine, home }) => {
      const pulled = await engine.pull(there, {}, ignore, never);
      expect(pulled).toMatchObject({ digest: tiny.manifestDigest, layersLoaded: 3 });
      for (const compression of ['gzip', 'zstd'] as const) {
        const ref = `${registry.host}/ours/${compression}:1`;
        const target = { target: ref, compression };
        await engine.push(there, target, ignore, never);
        expect(await engine.push(there, target, ignore, never)).toMatchObject({ bytesSent: 0 });
        const copy = join(home, compression);
        await run('skopeo', ['copy', '--quiet', '--src-tls-verify=false', `docker://${ref}`, `oci:${copy}:1`]);
        await withPodman(home, async (podman) => {
          await podman('pull', '--quiet', '--tls-verify=false', ref);
          expect(await podman('image', 'inspect', '--format', '{{.Id}}', ref)).toContain(tiny.configDigest.slice(7));
          const again = `${registry.host}/podman/${compression}:1`;
          await podman('push', '--quiet', '--tls-verify=false', ref, again);
          const back = await engine.pull(again, {}, ignore, never);
          expect(back).toMatchObject({ layersLoaded: 0, layersPresent: 3 });
        });
      }
      expect((await engine.check({}, ignore, never)).problems).toEqual([]);
    });
  });

  it('wants a password by TLS, from flags and standard input of layerctl too', async () => {
    const home = makeHome();
    const secured = await securedRegistry(home);
    try {
      const hidden = ['--registry-credentials-file', 'off', '--registry-certificates', join(home, 'certs')];
      const daemon = await TestDaemon.start(home, hidden);
      try {
        const target = `${secured.host}/a/tiny:1`;
        await daemon.client.load(tiny.forms.ociArchive.path, { ref: target });
        const denied = await daemon.ctl(['push', target]);
        expect(denied).toMatchObject({ code: 1 });
        expect(denied.stderr).toContain('there are no credentials for it');
        const wrong = await daemon.ctl(['push', target, '--creds', 'anna:wrong']);
        expect(wrong.stderr).toContain('does not let anna in');
        expect(await daemon.ctl(['push', target, '--creds', 'anna:secret'])).toMatchObject({
          code: 0,
          stdout: `${target}\n`,
        });
        await daemon.ctl(['rmi', target]);
        await daemon.ctl(['gc', '--grace', '0', '--wait']);
        const login = ['--username', 'anna', '--password-stdin'];
        const pulled = await daemon.ctl(['pull', target, ...login], { input: Buffer.from('secret\n') });
        expect(pulled).toMatchObject({ code: 0, stdout: `${target}\n` });
        expect(pulled.stderr).toContain('3 layers loaded');
        expect(JSON.stringify(daemon.log)).not.toContain('secret');
      } finally {
        await daemon.stop();
      }
      await withStore({ registry: IMPATIENT }, async ({ engine }) => {
        const failure = await failureOf(engine.pull(`${secured.host}/a/tiny:1`, {}, ignore, never));
        expect(failure.code).toBe('REGISTRY_UNTRUSTED');
      });
    } finally {
      await secured.stop();
      removeHome(home);
    }
  });
});

/** A registry with a certificate of an authority of our own, which lies below `home/certs`. */
async function securedRegistry(home: string): Promise<RealRegistry> {
  const authority = await TestAuthority.make(join(home, 'authority'));
  const { cert, key } = await authority.issue('registry', 'IP:127.0.0.1');
  const passwords = join(home, 'htpasswd');
  writeFileSync(passwords, HTPASSWD);
  const registry = await RealRegistry.start(
    { tls: { certificate: cert, key } },
    { auth: { htpasswd: { realm: 'test', path: passwords } } },
  );
  placeCertificates(join(home, 'certs'), registry.host, { 'ca.crt': authority.certificate });
  return registry;
}

/** Podman with a storage of its own, which is gone afterwards. */
async function withPodman(home: string, work: (podman: (...args: string[]) => Promise<string>) => Promise<void>) {
  const root = join(home, 'podman');
  const own = ['--root', join(root, 'root'), '--runroot', join(root, 'run'), '--storage-driver', 'vfs'];
  const podman = (...args: string[]): Promise<string> => run('podman', [...own, ...args]);
  try {
    await work(podman);
  } finally {
    await podman('rmi', '--all', '--force').catch(() => undefined);
    rmSync(root, { recursive: true, force: true });
  }
}
