/** Random trees and sparse files: what the kernel shows through an index is what went in. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import type { StoredLayer } from '../../drivers/driver.js';
import { MergedStacks } from '../../drivers/erofs/merged.js';
import { scanTarFile, writeIndexFile } from '../../drivers/erofs/index-file.js';
import { writeIndex } from '../../drivers/erofs/index-writer.js';
import { layerFiles, type LayerFiles } from '../../drivers/erofs/layer-files.js';
import { LayerNode } from '../../src/content/layer-tree.js';
import type { ByteString } from '../../src/core/bytes.js';
import { sha256 } from '../../src/core/digest.js';
import { entrySpec, layerTar, type EntrySpec } from '../model/spec.js';
import { listModel, listTar } from '../conformance/listing.js';
import { arbitraryStack } from '../model/arbitrary.js';
import { mergeModel } from '../model/merge-model.js';
import { compareTrees, describeTree, showDifferences } from '../reference/tree.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { filesOf, fsck, fsckMerged, needsErofs, needsFsckErofs, Scratch, store } from '../unit/erofs-fixture.js';
import { runs } from './runs.js';

const NAME_CODES = fc.integer({ min: 1, max: 255 }).filter((code) => code !== 0x2f);

function byteString(minLength: number, maxLength: number): fc.Arbitrary<ByteString> {
  const codes = fc.array(NAME_CODES, { minLength, maxLength, size: 'max' });
  return codes.map((list) => String.fromCharCode(...list) as ByteString);
}

/** Lengths around what fits behind an inode, into a block, and not. */
const linkTarget = fc.oneof(byteString(1, 30), byteString(400, 520), byteString(900, 1030), byteString(4000, 4095));
const xattrs = fc.option(
  fc
    .array(
      fc.tuple(
        fc.constantFrom('trusted.', 'security.'),
        byteString(1, 60),
        fc.oneof({ arbitrary: fc.nat({ max: 40 }), weight: 3 }, fc.nat({ max: 3000 })),
      ),
      { minLength: 1, maxLength: 5 },
    )
    .map(
      (list) => new Map(list.map(([prefix, rest, size]) => [(prefix + rest) as ByteString, Buffer.alloc(size, size)])),
    ),
  { nil: null, freq: 1 },
);
const kind: fc.Arbitrary<Partial<EntrySpec>> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.nat({ max: 1600 }).map((size) => ({ type: 'file' as const, content: Buffer.alloc(size, size) })),
  },
  { weight: 3, arbitrary: fc.constant<Partial<EntrySpec>>({ type: 'directory' }) },
  { weight: 2, arbitrary: linkTarget.map((linkPath) => ({ type: 'symlink' as const, linkPath, mode: 0o777 })) },
  {
    weight: 1,
    arbitrary: fc.nat({ max: 0xfffff }).map((devMinor) => ({ type: 'block' as const, devMajor: 4095, devMinor })),
  },
  { weight: 1, arbitrary: fc.constant<Partial<EntrySpec>>({ type: 'fifo' }) },
  { weight: 1, arbitrary: fc.constant<Partial<EntrySpec>>({ type: 'hardlink' }) },
);
const entry = fc.record({
  kind,
  name: fc.oneof({ arbitrary: byteString(1, 20), weight: 3 }, byteString(200, 255)),
  /** Which of the directories, or of the files for a hard link, of those before it. */
  pick: fc.nat(),
  attributes: fc.record({
    mode: fc.integer({ min: 0, max: 0o7777 }),
    uid: fc.integer({ min: 0, max: 0xffff_fffe }),
    gid: fc.integer({ min: 0, max: 0xffff_fffe }),
    mtime: fc.record({ sec: fc.integer({ min: -(2 ** 31), max: 2 ** 33 }), nsec: fc.nat({ max: 999_999_999 }) }),
    xattrs,
  }),
});

/** Each entry into one of the directories before it, under a name that is new there. */
function placed(entries: readonly (typeof entry extends fc.Arbitrary<infer T> ? T : never)[]): EntrySpec[] {
  const directories = [''];
  const taken = new Set<string>();
  const specs: EntrySpec[] = [];
  for (const { kind: what, name, pick, attributes } of entries) {
    const path = `${directories[pick % directories.length]}${name}` as ByteString;
    const targets = specs.filter(({ type }) => type !== 'directory' && type !== 'hardlink');
    const target = targets[pick % targets.length];
    if (name === '.' || name === '..' || name.startsWith('.wh.') || taken.has(path)) continue;
    if (what.type === 'hardlink' && target === undefined) continue;
    taken.add(path);
    if (what.type === 'directory') directories.push(`${path}/`);
    const linkPath = what.type === 'hardlink' && target !== undefined ? { linkPath: target.path } : {};
    specs.push(entrySpec(path, { ...attributes, ...what, ...linkPath }));
  }
  return specs;
}

const needs = [needsRoot(), needsErofs(), needsFsckErofs(), needsProgram('python3')];

describeWith('random trees', needs, () => {
  it('come out as they went in', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(entry, { maxLength: 60, size: 'max' }).map(placed), async (specs) => {
        using scratch = new Scratch();
        const tar = layerTar(specs);
        const files = layerFiles(scratch.directory('layer'));
        writeFileSync(files.tar, tar);
        const layer = { files, diffId: sha256(tar), size: tar.length, tree: scanTarFile(files.tar) };
        writeIndexFile(layer, files.index);
        expect(fsck(files, '--extract')).toBe('');
        const shown = await describeTree(scratch.mount(files));
        shown.delete('.'); // no entry lists it
        expect(showDifferences(compareTrees(shown, listTar(tar)))).toBe('');
      }),
      { numRuns: runs(15) },
    );
  });
});

describeWith('random stacks', needs, () => {
  it('are one tree in a merged index', async () => {
    await fc.assert(
      fc.asyncProperty(arbitraryStack(), async (contents) => {
        using scratch = new Scratch();
        const stack: StoredLayer[] = [];
        for (const [i, content] of contents.entries()) {
          writeFileSync(scratch.at('a.tar'), layerTar(content));
          stack.push(await store(scratch, scratch.at('a.tar'), `layer${i}`));
        }
        const merged = new MergedStacks(scratch.places, { directio: 'auto' });
        const index = join(scratch.places.tree(await merged.ensure(stack)), 'index');
        const tars = stack.map((layer) => filesOf(scratch, layer).tar);
        expect(fsckMerged(index, tars)).toBe('');
        const shown = await describeTree(merged.lower(stack));
        expect(showDifferences(compareTrees(shown, listModel(mergeModel(contents))))).toBe('');
      }),
      { numRuns: runs(20) },
    );
  });
});

/** Segments in rising order, their gaps and lengths now aligned, now not, and what the file has behind the last. */
const segments = fc.record({
  pieces: fc.array(
    fc.record({
      gap: fc.oneof(fc.constantFrom(0, 512, 4096, 1 << 20), fc.nat({ max: 10_000 })),
      length: fc.oneof(fc.constantFrom(512, 4096, 65_536), fc.integer({ min: 1, max: 20_000 })),
    }),
    { maxLength: 12 },
  ),
  behind: fc.oneof(fc.constantFrom(0, 512), fc.nat({ max: 100_000 })),
});

describeWith('random sparse files', needs, () => {
  it('read as their segments say', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(segments, { minLength: 1, maxLength: 8 }), async (sparseFiles) => {
        using scratch = new Scratch();
        const files = layerFiles(scratch.directory('layer'));
        const contents = writeSparseLayer(files, sparseFiles);
        expect(fsck(files)).toBe('');
        const shown = await describeTree(scratch.mount(files));
        for (const [i, content] of contents.entries()) {
          const found = shown.get(`file ${i}`);
          expect([found?.size, found?.sha256]).toEqual([content.length, sha256(content).slice('sha256:'.length)]);
        }
      }),
      { numRuns: runs(20) },
    );
  });
});

/** A tar of nothing but segments, and an index of files made of them; returns what the files must hold. */
function writeSparseLayer(
  files: LayerFiles,
  sparseFiles: readonly (typeof segments extends fc.Arbitrary<infer T> ? T : never)[],
): Buffer[] {
  const root = new LayerNode('directory', 0);
  const stored: Buffer[] = [];
  let dataOffset = 0;
  const contents = sparseFiles.map(({ pieces, behind }, i) => {
    const node = new LayerNode('file', i);
    const parts: Buffer[] = [];
    const sparse = pieces.map(({ gap, length }, at) => {
      const data = Buffer.alloc(length, `${i}.${at} `);
      const offset = parts.reduce((sum, part) => sum + part.length, gap);
      parts.push(Buffer.alloc(gap), data);
      stored.push(data);
      return { offset, length };
    });
    const content = Buffer.concat([...parts, Buffer.alloc(behind)]);
    const storedSize = sparse.reduce((sum, { length }) => sum + length, 0);
    Object.assign(node, { sparse, size: content.length, dataOffset, storedSize });
    stored.push(Buffer.alloc((512 - (storedSize % 512)) % 512));
    dataOffset += Math.ceil(storedSize / 512) * 512;
    root.children?.set(`file ${i}` as ByteString, node);
    return content;
  });
  const tar = Buffer.concat(stored);
  writeFileSync(files.tar, tar);
  const image: Buffer[] = [];
  const readTar = (_: number, offset: number, into: Buffer) => void tar.copy(into, 0, offset);
  writeIndex({ root, uuid: Buffer.alloc(16, 1), tarBytes: [tar.length], tarOf: () => 0, readTar }, (piece) => {
    image.push(Buffer.from(piece));
  });
  writeFileSync(files.index, Buffer.concat(image));
  return contents;
}
