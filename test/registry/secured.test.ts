/** Registries behind TLS and behind proxies: who is believed, what is shown, which way is taken. */
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ServerOptions } from 'node:https';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RegistryConfig } from '../../src/core/engine-config.js';
import { makeHome, removeHome } from '../cli/daemon.js';
import { describeWith, needsProgram } from '../support.js';
import { pemOf, placeCertificates, TestAuthority } from './certificates.js';
import { FakeRegistry } from './fake-registry.js';
import { TestProxy } from './proxy.js';
import { failureOf, IMPATIENT, someImage, withRig, type Rig } from './rig.js';

/** Nobody has such a name: who gets there went through the proxy. */
const NAME = 'registry.example.invalid';

describeWith('behind TLS', [needsProgram('openssl')], () => {
  let home: string;
  let authority: TestAuthority;
  let issued: ReturnType<typeof pemOf>;

  beforeAll(async () => {
    home = makeHome();
    authority = await TestAuthority.make(join(home, 'authority'));
    issued = pemOf(await authority.issue(NAME, `DNS:${NAME},IP:127.0.0.1`));
  });
  afterAll(() => removeHome(home));

  /** A rig beside a registry behind TLS, whose authority is believed. */
  async function secured(
    work: (rig: Rig, secure: FakeRegistry, certificates: string) => Promise<void>,
    change: Partial<RegistryConfig> = {},
    tls: ServerOptions = {},
  ): Promise<void> {
    const secure = await FakeRegistry.start({ ...issued, ...tls });
    const certificates = join(home, `certs-${secure.port}`);
    for (const name of [NAME, '127.0.0.1']) {
      placeCertificates(certificates, `${name}:${secure.port}`, { 'ca.crt': authority.certificate });
    }
    try {
      await withRig((rig) => work(rig, secure, certificates), { certificates, ...change });
    } finally {
      await secure.close();
    }
  }

  it('a certificate of our own is shown where a registry wants to see one', async () => {
    const wanting = { requestCert: true, rejectUnauthorized: true, ca: readFileSync(authority.certificate) };
    await secured(
      async (rig, secure, certificates) => {
        const image = someImage();
        secure.add('a', '1', image);
        const ref = `${secure.host}/a:1`;
        const refused = await failureOf(rig.pull(ref));
        expect(refused).toMatchObject({ code: 'REGISTRY_DENIED', details: { registry: secure.host } });
        expect(refused.hint).toContain('client.cert');
        const { cert, key } = await authority.issue('client', 'DNS:client');
        placeCertificates(certificates, secure.host, { 'client.cert': cert, 'client.key': key });
        await rig.store.reopen();
        await rig.pull(ref);
        expect(rig.store.engine.image(ref).id).toBe(image.id);
        expect(await rig.push(ref, { target: `${secure.host}/b:1` })).toMatchObject({ digest: image.digest });
      },
      {},
      wanting,
    );
  });

  it('a certificate for another name is believed by nobody', () =>
    secured(async ({ pull }, secure, certificates) => {
      secure.name = 'localhost';
      placeCertificates(certificates, secure.host, { 'ca.crt': authority.certificate });
      expect(await failureOf(pull(`${secure.host}/a`))).toMatchObject({
        code: 'REGISTRY_UNTRUSTED',
        details: { reason: 'ERR_TLS_CERT_ALTNAME_INVALID' },
      });
    }));

  it('a proxy is asked for the way, and sees nothing of what is said', async () => {
    const proxy = await TestProxy.start();
    proxy.authorization = `Basic ${Buffer.from('p:w@rd').toString('base64')}`;
    const https = `http://p:w%40rd@${proxy.address}`;
    try {
      await secured(
        async (rig, secure) => {
          secure.name = NAME;
          secure.tokens = new Set();
          secure.login = { username: 'anna', password: 'secret' };
          proxy.names.set(secure.host, secure.port);
          const image = someImage();
          secure.add('a', '1', image);
          const ref = `${secure.host}/a:1`;
          const credentials = secure.login;
          await rig.pull(ref, { credentials });
          expect(rig.store.engine.image(ref).id).toBe(image.id);
          await rig.push(ref, { target: `${secure.host}/b:1`, credentials });
          expect(secure.repo('b').manifests.get('1')?.bytes).toEqual(image.manifest);
          expect(new Set(proxy.asked)).toEqual(new Set([`CONNECT ${secure.host}`]));
          expect(secure.seen.every(({ headers }) => headers['proxy-authorization'] === undefined)).toBe(true);
        },
        { proxies: { http: null, https, except: ['127.0.0.0/8'] } },
      );
    } finally {
      await proxy.close();
    }
  });

  it('a proxy that refuses is told of', async () => {
    const proxy = await TestProxy.start();
    const { address } = proxy;
    try {
      const https = `http://${address}`;
      await secured(
        async ({ pull }, secure) => {
          secure.name = NAME;
          proxy.authorization = 'Basic other';
          const denied = await failureOf(pull(`${secure.host}/a`));
          expect(denied).toMatchObject({ code: 'REGISTRY_DENIED', details: { proxy: address, status: 407 } });
          proxy.authorization = null;
          const lost = await failureOf(pull(`${secure.host}/a`));
          expect(lost).toMatchObject({ code: 'REGISTRY_UNREACHABLE', details: { status: 502 } });
          expect(lost.message).toContain(`the proxy ${address}`);
          await proxy.close();
          const gone = await failureOf(pull(`${secure.host}/a`));
          expect(gone).toMatchObject({ code: 'REGISTRY_UNREACHABLE', details: { reason: 'ECONNREFUSED' } });
          expect(gone.message).toContain(`the proxy ${address}`);
        },
        { proxies: { http: null, https, except: [] } },
      );
    } finally {
      await proxy.close().catch(() => undefined);
    }
  });
});

describe('without TLS', () => {
  it('a proxy is given whole addresses, and nobody else what it wants to know', async () => {
    const proxy = await TestProxy.start();
    proxy.authorization = `Basic ${Buffer.from('p:w').toString('base64')}`;
    const insecure = await FakeRegistry.start();
    insecure.name = NAME;
    proxy.names.set(insecure.host, insecure.port);
    const image = someImage();
    insecure.add('a', '1', image);
    const ref = `${insecure.host}/a:1`;
    try {
      await withRig(
        async ({ pull, push, store }) => {
          await pull(ref);
          expect(store.engine.image(ref).id).toBe(image.id);
          await push(ref, { target: `${insecure.host}/b:1` });
          expect(insecure.repo('b').manifests.get('1')?.bytes).toEqual(image.manifest);
          expect(proxy.asked).toContain(`GET http://${insecure.host}/v2/a/manifests/1`);
          expect(insecure.seen.every(({ headers }) => headers['proxy-authorization'] === undefined)).toBe(true);
        },
        { insecure: [insecure.host], proxies: { http: `http://p:w@${proxy.address}`, https: null, except: [] } },
      );
    } finally {
      await Promise.all([proxy.close(), insecure.close()]);
    }
  });
});

describe('an identity token', () => {
  const identityToken = 'the-token-of-anna';

  async function withTokens(work: (rig: Rig, ref: string) => Promise<void>): Promise<void> {
    await withRig(async (rig) => {
      rig.registry.tokens = new Set();
      rig.registry.identityToken = identityToken;
      rig.registry.add('a', '1', someImage());
      await work(rig, `${rig.registry.host}/a:1`);
      const posts = rig.registry.asked(/POST \/token/).map(({ body }) => new URLSearchParams(body.toString()));
      expect(posts.length).toBeGreaterThan(0);
      for (const form of posts) expect(form.get('scope')?.split(' ')).toContain('repository:a:pull');
      const elsewhere = rig.registry.seen.filter(({ path }) => path !== '/token');
      expect(JSON.stringify(elsewhere.map(({ headers }) => headers))).not.toContain(identityToken);
    });
  }

  it('takes access tokens in the way of OAuth2, and a wrong one does not', () =>
    withTokens(async ({ pull }, ref) => {
      const wrong = await failureOf(pull(ref, { credentials: { identityToken: 'x' } }));
      expect(wrong.code).toBe('REGISTRY_DENIED');
      await pull(ref, { credentials: { identityToken } });
    }));

  it('comes from a configuration file', () =>
    withTokens(async ({ registry, store, pull }, ref) => {
      const file = join(store.home, 'config.json');
      writeFileSync(file, JSON.stringify({ auths: { [registry.host]: { identitytoken: identityToken } } }));
      await store.reopen({ registry: { ...IMPATIENT, credentialsFile: file } });
      await pull(ref);
    }));

  it('comes from a credential helper', () =>
    withTokens(async ({ registry, store, pull }, ref) => {
      const directory = join(store.home, 'bin');
      mkdirSync(directory);
      const asked = join(store.home, 'asked');
      const program = join(directory, 'docker-credential-tokens');
      const document = JSON.stringify({ ServerURL: registry.host, Username: '<token>', Secret: identityToken });
      writeFileSync(program, `#!/bin/sh\necho "$1 $(cat)" >> '${asked}'\necho '${document}'\n`);
      chmodSync(program, 0o755);
      const file = join(store.home, 'config.json');
      writeFileSync(file, JSON.stringify({ credsStore: 'tokens' }));
      const path = process.env['PATH'];
      process.env['PATH'] = `${directory}:${path ?? ''}`;
      try {
        await store.reopen({ registry: { ...IMPATIENT, credentialsFile: file } });
        await pull(ref);
        expect(readFileSync(asked, 'utf8')).toContain(`get ${registry.host}\n`);
      } finally {
        process.env['PATH'] = path;
      }
    }));
});
