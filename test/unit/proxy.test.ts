/** Which registries are asked through a proxy. */
import { expect, it } from 'vitest';
import { proxyFor, proxyHeaders } from '../../src/image/registry/proxy.js';

const proxies = { http: 'http://plain.example:3128', https: 'http://secure.example', except: [] as string[] };

function way(url: string, ...except: string[]): string | undefined {
  return proxyFor(new URL(url), { ...proxies, except })?.host;
}

it('each kind of request has a proxy of its own, or none', () => {
  expect(way('https://registry.example')).toBe('secure.example');
  expect(way('http://registry.example')).toBe('plain.example:3128');
  expect(proxyFor(new URL('http://registry.example'), { ...proxies, http: null })).toBeNull();
});

it.each(['http://localhost:5000', 'https://127.0.0.1', 'https://127.1.2.3:443', 'http://[::1]:80'])(
  'this machine is asked straight: %s',
  (url) => expect(way(url)).toBeUndefined(),
);

it.each([
  ['*', 'https://registry.example'],
  ['registry.example', 'https://registry.example'],
  ['registry.example', 'https://REGISTRY.example:5000'],
  ['example', 'https://registry.example'],
  ['.example', 'https://registry.example'],
  ['*.example', 'https://registry.example'],
  ['registry.example:443', 'https://registry.example'],
  ['registry.example:80', 'http://registry.example'],
  ['10.0.0.0/8', 'https://10.1.2.3:5000'],
  ['10.1.2.3', 'https://10.1.2.3'],
  ['10.1.2.3:5000', 'https://10.1.2.3:5000'],
  ['fd00::/8', 'https://[fd00::5]'],
  ['fd00::5', 'https://[fd00::5]'],
  ['[fd00::5]:5000', 'https://[fd00::5]:5000'],
])('%s excepts %s', (rule, url) => expect(way(url, 'other.example', rule)).toBeUndefined());

it.each([
  ['registry.example', 'https://myregistry.example'],
  ['.registry.example', 'https://registry.example'],
  ['registry.example:444', 'https://registry.example'],
  ['10.0.0.0/8', 'https://11.1.2.3'],
  ['10.0.0.0/8', 'https://registry.example'],
  ['10.0.0.0/99', 'https://10.1.2.3'],
  ['1.2.3', 'https://10.1.2.3'],
  ['fd00::/8', 'https://10.1.2.3'],
  ['', 'https://registry.example'],
])('%s does not except %s', (rule, url) => expect(way(url, rule)).toBe('secure.example'));

it('name and password of an address go into a header', () => {
  expect(proxyHeaders(new URL('http://plain.example'))).toEqual({});
  const given = proxyHeaders(new URL('http://a:b%40c@plain.example'));
  expect(given).toEqual({ 'proxy-authorization': `Basic ${Buffer.from('a:b@c').toString('base64')}` });
});
