import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** What each room may import from, besides itself. The order of DESIGN: what stands below knows nothing of what is above. */
const ROOMS: Record<string, readonly string[]> = {
  'src/core': [],
  'src/linux': ['src/core'],
  'src/tar': ['src/core'],
  'src/content': ['src/core', 'src/linux', 'src/tar'],
  'src/metadata': ['src/core'],
  'src/disk': ['src/core', 'src/linux'],
  drivers: ['src/core', 'src/linux', 'src/tar', 'src/content', 'src/disk'],
  'src/workers': ['src/core', 'src/linux', 'src/content', 'src/disk', 'drivers'],
  'src/store': ['src/core', 'src/content', 'src/disk', 'src/metadata', 'src/workers', 'drivers'],
  'src/image': ['src/core', 'src/linux', 'src/tar', 'src/content', 'src/metadata', 'src/store'],
  'src/doors': ['src/core', 'src/linux'],
  'src/client': ['src/core'],
  'src/cli': ['src/core', 'src/client', 'src/config'],
  'src/config': ['src/core'],
  'src/daemon': ['src/core', 'src/linux', 'src/config', 'src/doors', 'src/engine.ts'],
};

/** Programs and the composition root stand above all rooms. */
const TOP = new Set(['src/engine.ts', 'src/layerd.ts', 'src/layerctl.ts']);

const FILES = ['src', 'drivers'].flatMap((top) =>
  readdirSync(join(ROOT, top), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join(top, name)),
);

function roomOf(file: string): string {
  if (file.startsWith('drivers/')) return 'drivers';
  const [, second = ''] = file.split('/');
  return second.endsWith('.ts') ? file : `src/${second}`;
}

function importsOf(file: string): string[] {
  const text = readFileSync(join(ROOT, file), 'utf8');
  const found = text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g);
  return [...found].map(([, path = '']) => relative('.', normalize(join(dirname(file), path))).replace(/\.js$/, '.ts'));
}

describe('the house', () => {
  it('has only rooms that this test knows', () => {
    const unknown = new Set(FILES.map(roomOf).filter((room) => !(room in ROOMS) && !TOP.has(room)));
    expect([...unknown]).toEqual([]);
  });

  it('imports one way', () => {
    const wrong: string[] = [];
    for (const file of FILES.filter((name) => !TOP.has(name))) {
      const room = roomOf(file);
      for (const imported of importsOf(file)) {
        const target = roomOf(imported);
        if (target !== room && ROOMS[room]?.includes(target) !== true) wrong.push(`${file} imports ${imported}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  it('keeps drivers apart', () => {
    const shared = 'drivers/trees/';
    const wrong: string[] = [];
    for (const file of FILES.filter((name) => /^drivers\/[^/]+\//.test(name))) {
      const own = dirname(file);
      for (const imported of importsOf(file)) {
        if (imported.startsWith(shared) || imported.startsWith(`${own}/`)) continue;
        if (/^drivers\/[^/]+\//.test(imported)) wrong.push(`${file} → ${imported}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  it('packs every thread that the programs start', () => {
    const threads = FILES.flatMap((file) =>
      [...readFileSync(join(ROOT, file), 'utf8').matchAll(/new Worker\(\s*new URL\('([^']+)'/g)].map(
        ([, name]) => name,
      ),
    );
    expect(threads).toContain('thread.js');
    const packed = fileURLToPath(new URL('../../src/bin/', import.meta.url));
    expect(threads.filter((name) => !existsSync(join(packed, String(name))))).toEqual([]);
  });

  it('knows SQL in metadata/ only', () => {
    const knowing = FILES.filter((file) => readFileSync(join(ROOT, file), 'utf8').includes("from 'better-sqlite3'"));
    expect(new Set(knowing.map(roomOf))).toEqual(new Set(['src/metadata']));
  });
});
