import { describe, expect, it } from 'vitest';
import { LayerdError } from '../../src/core/errors.js';
import { familiarReference, formatReference, normalizeReference, parseReference } from '../../src/core/reference.js';

const HEX = '0123456789abcdef'.repeat(4);

describe('references to images', () => {
  it.each([
    ['busybox', 'docker.io/library/busybox:latest'],
    ['busybox:1.36', 'docker.io/library/busybox:1.36'],
    ['library/busybox', 'docker.io/library/busybox:latest'],
    ['index.docker.io/busybox', 'docker.io/library/busybox:latest'],
    ['docker.io/busybox', 'docker.io/library/busybox:latest'],
    ['user/app:v1', 'docker.io/user/app:v1'],
    ['localhost/app', 'localhost/app:latest'],
    ['localhost:5000/app', 'localhost:5000/app:latest'],
    ['registry.example.com/a/b/c:x', 'registry.example.com/a/b/c:x'],
    ['MyHost/app', 'MyHost/app:latest'],
    ['[fe80::1]:5000/app', '[fe80::1]:5000/app:latest'],
    [`busybox@sha256:${HEX}`, `docker.io/library/busybox@sha256:${HEX}`],
    [`busybox:1@sha256:${HEX}`, `docker.io/library/busybox:1@sha256:${HEX}`],
    ['a/b__c.d-e--f', 'docker.io/a/b__c.d-e--f:latest'],
    ['a_b', 'docker.io/library/a_b:latest'],
    ['deadbeef', 'docker.io/library/deadbeef:latest'],
  ])('%s is %s', (short, whole) => {
    expect(normalizeReference(short)).toBe(whole);
    expect(normalizeReference(whole)).toBe(whole);
  });

  it.each([
    ['docker.io/library/busybox:latest', 'busybox:latest'],
    ['docker.io/user/app:v1', 'user/app:v1'],
    ['example.com/library/app:v1', 'example.com/library/app:v1'],
    ['docker.io/library/a/b:1', 'library/a/b:1'],
    [`docker.io/library/${HEX}`, `library/${HEX}`],
  ])('%s is shown as %s', (whole, short) => {
    expect(familiarReference(whole)).toBe(short);
    expect(formatReference(parseReference(short))).toBe(whole);
  });

  it.each([
    ['', 'the name is empty'],
    [':tag', 'the name is empty'],
    [HEX, 'image id'],
    ['Busybox', 'capital'],
    ['a/B', 'capital'],
    ['a:', 'the tag "" is not valid'],
    ['a:b:c', 'the tag "b:c" is not valid'],
    ['a:-x', 'tag'],
    [`a:${'t'.repeat(129)}`, 'tag'],
    ['a@sha256:12', 'not a sha256 digest'],
    [`a@sha512:${HEX}${HEX}`, 'not a sha256 digest'],
    ['a//b', 'a part of the name is empty'],
    ['/a', 'a part of the name is empty'],
    ['a/', 'a part of the name is empty'],
    ['-a.example.com/x', 'host name'],
    ['a___b', 'not valid in a name'],
    ['a b', 'not valid in a name'],
    ['../../etc', 'host name'],
    ['a/../../etc', 'not valid in a name'],
    ['häuser', 'not valid in a name'],
    [`example.com/${'n'.repeat(250)}`, 'longer than 255'],
  ])('%j: %s', (text, why) => {
    const error = thrownBy(() => normalizeReference(text));
    expect(error.code).toBe('INVALID_REFERENCE');
    expect(error.message).toContain(why);
  });
});

function thrownBy(run: () => unknown): LayerdError {
  try {
    run();
  } catch (error) {
    if (error instanceof LayerdError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}
