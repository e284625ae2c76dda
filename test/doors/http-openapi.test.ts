/** Holds the real answers to the OpenAPI document that the daemon serves, route by route. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { MountResult } from '../../src/core/words.js';
import type { TestStore } from '../e2e/store.js';
import { FakeRegistry } from '../registry/fake-registry.js';
import { ARCHIVE, ask, IMAGE, lines, openDoor, openStore, type Fixture } from './http-fixture.js';

interface Document {
  openapi: string;
  paths: Record<
    string,
    Record<string, { responses: Record<string, { content?: Record<string, { schema: unknown }> }> }>
  >;
  components: { schemas: Record<string, unknown> };
}

const id = IMAGE.layers[0]?.diffId ?? '';

/** One request for every operation, in an order in which they succeed; REGISTRY stands for the registry's host. */
const REQUESTS: [operation: string, path: string, status: number, json?: unknown][] = [
  ['post /v1/images/load', '/v1/images/load?ref=base', 200],
  ['post /v1/images/pull', '/v1/images/pull', 200, { ref: 'REGISTRY/pulled', platform: 'linux/amd64' }],
  ['post /v1/images/{name}/push', '/v1/images/base/push', 200, { target: 'REGISTRY/pushed', compression: 'zstd' }],
  ['get /v1/registry/tags', '/v1/registry/tags?name=REGISTRY/pulled', 200],
  ['post /v1/registry/copy', '/v1/registry/copy', 200, { source: 'REGISTRY/pulled', target: 'REGISTRY/copied' }],
  ['get /v1/registry/archive', '/v1/registry/archive?ref=REGISTRY/pulled', 200],
  ['post /v1/registry/import', '/v1/registry/import?target=REGISTRY/imported', 200],
  ['get /v1/images', '/v1/images', 200],
  ['get /v1/images/{name}', '/v1/images/base', 200],
  ['get /v1/images/{name}/history', '/v1/images/base/history', 200],
  ['post /v1/images/{name}/tag', '/v1/images/base/tag', 200, { target: 'other' }],
  ['post /v1/images/{name}/extend', '/v1/images/base/extend', 200, { layer: id, ref: 'twice' }],
  ['get /v1/images/save', '/v1/images/save?ref=base&format=docker', 200],
  ['get /v1/layers', '/v1/layers', 200],
  ['get /v1/layer-tree', '/v1/layer-tree', 200],
  ['get /v1/layers/{digest}', `/v1/layers/${id}`, 200],
  ['get /v1/layers/{digest}/tar', `/v1/layers/${id}/tar`, 200],
  ['post /v1/containers', '/v1/containers', 201, { image: 'base', name: 'c', labels: { a: 'b' } }],
  ['get /v1/containers', '/v1/containers', 200],
  ['get /v1/containers/{name}', '/v1/containers/c', 200],
  ['post /v1/containers/{name}/mount', '/v1/containers/c/mount', 200],
  ['get /v1/containers/{name}/mounts', '/v1/containers/c/mounts', 200],
  ['get /v1/containers/{name}/changes', '/v1/containers/c/changes', 200],
  ['get /v1/containers/{name}/diff', '/v1/containers/c/diff', 200],
  ['get /v1/containers/{name}/export', '/v1/containers/c/export', 200],
  ['get /v1/containers/{name}/usage', '/v1/containers/c/usage', 200],
  ['post /v1/containers/{name}/commit', '/v1/containers/c/commit', 200, { ref: 'new', changes: ['USER x'] }],
  ['post /v1/containers/{name}/unmount', '/v1/containers/c/unmount', 200],
  ['delete /v1/containers/{name}', '/v1/containers/c?force=true', 200],
  ['post /v1/build-cache', '/v1/build-cache', 200, { parent: null, instruction: 'RUN x', inputs: id, layer: id }],
  ['post /v1/build-cache/use', '/v1/build-cache/use', 200, { parent: null, instruction: 'RUN x', inputs: id }],
  ['get /v1/build-cache', '/v1/build-cache', 200],
  ['delete /v1/build-cache', '/v1/build-cache', 200],
  ['post /v1/gc', '/v1/gc', 200, { dryRun: true }],
  ['post /v1/check', '/v1/check', 200],
  ['post /v1/migrate', '/v1/migrate', 200, { to: 'copy' }],
  ['get /v1/df', '/v1/df', 200],
  ['get /v1/backup', '/v1/backup', 200],
  ['get /v1/why', `/v1/why?subject=${id}`, 200],
  ['post /v1/leases', '/v1/leases', 201, { id: 'l', ttlMs: 5 }],
  ['get /v1/leases', '/v1/leases', 200],
  ['patch /v1/leases/{id}', '/v1/leases/l', 200, { ttlMs: 7 }],
  ['delete /v1/leases/{id}', '/v1/leases/l', 204],
  ['get /v1/events', '/v1/events', 200],
  ['get /v1/info', '/v1/info', 200],
  ['get /v1/health', '/v1/health', 200],
  ['get /metrics', '/metrics', 200],
  ['delete /v1/images/{name}', '/v1/images/base', 200],
];

describe('the OpenAPI document', () => {
  let store: TestStore;
  let fixture: Fixture;
  let registry: FakeRegistry;
  let document: Document;
  const ajv = new Ajv2020({ strict: false, formats: { binary: true } });

  beforeAll(async () => {
    store = await openStore();
    fixture = await openDoor(store);
    registry = await FakeRegistry.start();
    registry.add('pulled', 'latest', IMAGE);
    document = JSON.parse((await ask(fixture.socket, 'GET', '/v1/openapi.json')).text) as Document;
    ajv.addSchema(document, 'document');
  });
  afterAll(async () => {
    await fixture.close();
    await registry.close();
    await store.remove();
  });

  /** Complaints about a value against the schema at a JSON pointer into the document. */
  function complaints(pointer: string[], value: unknown): string | null {
    const $ref = `document#/${pointer.map((part) => encodeURIComponent(part.replaceAll('/', '~1'))).join('/')}`;
    const validate = ajv.getSchema($ref) ?? ajv.compile({ $ref });
    return validate(value) === true ? null : ajv.errorsText(validate.errors);
  }

  it('is one of version 3.1, and all its references lead somewhere', () => {
    expect(document.openapi).toBe('3.1.0');
    const refs = [...JSON.stringify(document).matchAll(/"\$ref":"([^"]*)"/g)].map(([, ref]) => ref ?? '');
    expect(refs.length).toBeGreaterThan(30);
    for (const ref of new Set(refs)) {
      expect(ref).toMatch(/^#\/components\/schemas\/\w+$/);
      expect(document.components.schemas).toHaveProperty(ref.split('/').at(-1) ?? '');
    }
  });

  it('names every operation that this test asks for, and no other', () => {
    const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method} ${path}`),
    );
    expect(operations.sort()).toEqual(REQUESTS.map(([operation]) => operation).sort());
  });

  it.each(REQUESTS)('describes what %s answers', async (operation, path, status, json) => {
    const [method = '', documented = ''] = operation.split(' ');
    const here = (text: string): string => text.replaceAll('REGISTRY', registry.host);
    const options = json === undefined ? {} : { json: JSON.parse(here(JSON.stringify(json))) as unknown };
    const brings = /^\/v1\/(?:images\/load|registry\/import)/.test(path);
    const load = brings ? { body: ARCHIVE } : options;
    const answer = await ask(fixture.socket, method.toUpperCase(), here(path), load);
    expect(answer.status, answer.text).toBe(status);
    // What there is to tell of the container.
    if (path.endsWith('/mount')) writeFileSync(join((JSON.parse(answer.text) as MountResult).path, 'new'), '');
    const content = document.paths[documented]?.[method]?.responses[String(status)]?.content;
    const type = answer.headers['content-type']?.split(';')[0] ?? '';
    if (status === 204) return expect(answer.text).toBe('');
    expect(Object.keys(content ?? {})).toEqual([type]);
    const pointer = ['paths', documented, method, 'responses', String(status), 'content', type, 'schema'];
    if (type === 'application/json') expect(complaints(pointer, JSON.parse(answer.text))).toBeNull();
    else if (type === 'application/x-ndjson') {
      for (const line of lines(answer)) expect(complaints(pointer, line)).toBeNull();
      expect(lines(answer).length).toBeGreaterThan(0);
    } else expect(complaints(pointer, answer.text)).toBeNull();
  });

  it('describes errors, and would notice an answer that does not fit', async () => {
    const { text } = await ask(fixture.socket, 'GET', '/v1/images/gone');
    const pointer = ['paths', '/v1/images/{name}', 'get', 'responses', '404', 'content', 'application/json', 'schema'];
    const body = JSON.parse(text) as Record<string, unknown>;
    expect(complaints(pointer, body)).toBeNull();
    expect(complaints(pointer, { ...body, more: 1 })).toContain('additional properties');
    expect(complaints(pointer, { ...body, code: 'WHATEVER' })).toContain('allowed values');
    const { hint: _hint, ...short } = body;
    expect(complaints(pointer, short)).toContain("'hint'");
  });
});
