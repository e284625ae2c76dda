/** Layers of very many entries: stored within bounds of memory, or refused by name. Each in a process with a small heap. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { Outcome } from './many-entries-child.js';

const CHILD = fileURLToPath(new URL('many-entries-child.js', import.meta.url));
const HEAP_MIB = 768;
const RSS_MAX = 1.25 * 1024 ** 3;

function storeMany(count: number): Outcome {
  const root = mkdtempSync(join(tmpdir(), 'layerd-many-'));
  try {
    const args = [`--max-old-space-size=${HEAP_MIB}`, CHILD, root, String(count)];
    return JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' })) as Outcome;
  } finally {
    rmSync(root, { recursive: true });
  }
}

describe('a layer of very many entries', () => {
  it('is stored up to the limit', { timeout: 300_000 }, () => {
    const { error, left, maxRssBytes } = storeMany(990_000);
    expect(error).toBe(null);
    expect(left).toEqual(['many', 'many/catalog', 'many/index', 'many/tar']);
    expect(maxRssBytes).toBeLessThan(RSS_MAX);
  });

  it('is refused by name beyond it, long before 5,000,000 are read, and leaves nothing', { timeout: 300_000 }, () => {
    const { error, given, left, maxRssBytes } = storeMany(5_000_000);
    expect(error).toMatchObject({
      code: 'LAYER_LIMIT',
      message: expect.stringMatching(/^entry "0999\/0999000".* 1000000 files and directories/),
    });
    expect(given).toBeLessThan(1_010_000);
    expect(left).toEqual([]);
    expect(maxRssBytes).toBeLessThan(RSS_MAX);
  });
});
