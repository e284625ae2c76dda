/**
 * Hostile layers, end to end: through the engine, every driver and the kernel's own mounts. What is refused is refused with
 * an error that names the entry and leaves nothing; what is accepted stays inside the layer and is not interpreted.
 */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sha256 } from '../../src/core/digest.js';
import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import { LayerdError } from '../../src/core/errors.js';
import { TESTED_DRIVERS, TestStore } from '../e2e/store.js';
import { describeWith, needsRoot } from '../support.js';
import { descriptor, layoutMembers, named, tarOf, testImage, type TestLayer } from '../unit/image-synthetic.js';
import { archive, block, extension, padded, records } from '../unit/tar-kit.js';

const LAYER_BYTES = 64 * 1024 * 1024;
const REF = 'localhost/hostile:1';
/** What the tests look for where nothing may be written. */
const OUTSIDE = mkdtempSync(join(tmpdir(), 'layerd-outside-'));

const HUGE = Buffer.concat([Buffer.from([0x80, 0, 0, 0, 0x7f]), Buffer.alloc(7, 0xff)]);
const NEGATIVE = Buffer.alloc(12, 0xff);

function file(name: string, text = 'hostile'): Buffer {
  return Buffer.concat([block({ name, size: text.length }), padded(text)]);
}

function withXattr(name: string, value: string, entry: Buffer): Buffer {
  return Buffer.concat([extension('x', records([`SCHILY.xattr.${name}`, value])), entry]);
}

function pax(key: string, value: string, entry: Buffer): Buffer {
  return Buffer.concat([extension('x', records([key, value])), entry]);
}

/** What it is, the tar, and what the error must name. */
const REFUSED: [what: string, tar: Buffer, names: string | null][] = [
  ['..', archive(file('../outside')), 'outside'],
  ['.. further in', archive(file('a/b/../../../outside')), 'outside'],
  ['.. in a PAX path', archive(pax('path', 'a/../../outside', file('plain'))), 'outside'],
  ['a hard link out of it', archive(block({ name: 'link', flag: '1', linkName: '../outside' })), 'link'],
  ['a hard link to a file of the host', archive(block({ name: 'link', flag: '1', linkName: '/etc/passwd' })), 'link'],
  ['a hard link to itself', archive(block({ name: 'link', flag: '1', linkName: 'link' })), 'link'],
  [
    'hard links in a circle',
    archive(block({ name: 'a', flag: '1', linkName: 'b' }), block({ name: 'b', flag: '1', linkName: 'a' })),
    'a',
  ],
  ['.wh. alone', archive(file('dir/.wh.', '')), '.wh.'],
  ['a whiteout of ..', archive(file('.wh...', '')), '.wh.'],
  [
    'symbolic links in a circle on the way',
    archive(
      block({ name: 'a', flag: '2', linkName: 'b' }),
      block({ name: 'b', flag: '2', linkName: 'a' }),
      file('a/x'),
    ),
    'a',
  ],
  ['a negative size', archive(block({ name: 'negative', size: NEGATIVE })), 'negative'],
  ['a base-256 size beyond all', archive(block({ name: 'huge', size: HUGE })), 'entry 1'],
  ['a PAX size of 8 EiB', archive(pax('size', '9223372036854775808', block({ name: 'eib' }))), null],
  ['a PAX record whose length lies', archive(extension('x', '99 path=x\n'), file('lies')), null],
  ['a name with NUL', archive(pax('path', 'nul\0byte', file('plain'))), null],
  ['an overlong name', archive(pax('path', 'n'.repeat(256), file('plain'))), 'nnn'],
  ['a checksum that is wrong', archive(block({ name: 'sum', checksum: '000000\0 ' })), null],
  ['an end inside an entry', block({ name: 'cut', size: 5000 }), 'cut'],
  ['one zero block and then more', Buffer.concat([file('a'), Buffer.alloc(512), file('b')]), null],
  ['garbage', Buffer.alloc(2048, 0x41), null],
  [
    'a bomb',
    archive(Buffer.concat([block({ name: 'bomb', size: 2 * LAYER_BYTES }), Buffer.alloc(2 * LAYER_BYTES)])),
    null,
  ],
  [
    'a sparse map beyond the limit',
    archive(
      Buffer.concat([
        extension(
          'x',
          records(
            ['GNU.sparse.major', '0'],
            ['GNU.sparse.minor', '1'],
            ['GNU.sparse.size', '9223372036854775807'],
            ['GNU.sparse.map', '9223372036854775806,1'],
            ['GNU.sparse.numblocks', '1'],
          ),
        ),
        block({ name: 'sparse', size: 2 }),
        padded('xx'),
      ]),
    ),
    'sparse',
  ],
];

/** Each is accepted; what it must look like through the kernel's mount, upon a layer with `dir/below` and `gone`. */
const CONTAINED: [what: string, tar: Buffer, look: (root: string) => void][] = [
  [
    'absolute names are inside',
    archive(file('/absolute')),
    (root) => expect(readFileSync(join(root, 'absolute'), 'utf8')).toBe('hostile'),
  ],
  [
    'writing through a symbolic link stays inside',
    archive(block({ name: 'out', flag: '2', linkName: OUTSIDE }), file('out/through')),
    (root) => expect(readFileSync(join(root, OUTSIDE, 'through'), 'utf8')).toBe('hostile'),
  ],
  [
    'trusted.overlay.opaque hides nothing',
    archive(withXattr('trusted.overlay.opaque', 'y', block({ name: 'dir/', flag: '5', mode: '0000755\0' }))),
    (root) => expect(readdirSync(join(root, 'dir'))).toEqual(['below']),
  ],
  [
    'trusted.overlay.redirect leads nowhere',
    archive(withXattr('trusted.overlay.redirect', '/dir', block({ name: 'other/', flag: '5', mode: '0000755\0' }))),
    (root) => expect(readdirSync(join(root, 'other'))).toEqual([]),
  ],
  [
    'trusted.overlay.metacopy takes no content from below',
    archive(withXattr('trusted.overlay.metacopy', '', file('gone', 'mine'))),
    (root) => expect(readFileSync(join(root, 'gone'), 'utf8')).toBe('mine'),
  ],
  [
    'user.overlay.opaque and user.overlay.whiteout hide nothing',
    archive(
      withXattr('user.overlay.opaque', 'y', block({ name: 'dir/', flag: '5', mode: '0000755\0' })),
      withXattr('user.overlay.whiteout', 'y', file('dir/more')),
    ),
    (root) => expect(readdirSync(join(root, 'dir')).sort()).toEqual(['below', 'more']),
  ],
  [
    'a real 0/0 device is no whiteout',
    archive(block({ name: 'gone', flag: '3', devMajor: '0000000\0', devMinor: '0000000\0' })),
    (root) => expect(lstatSync(join(root, 'gone')).isFile()).toBe(true),
  ],
  [
    'a whiteout of what is not there',
    archive(file('.wh.nothing', '')),
    (root) => expect(existsSync(join(root, 'nothing'))).toBe(false),
  ],
  [
    'a header that repeats: the last one counts',
    archive(file('twice', 'one'), file('twice', 'two')),
    (root) => expect(readFileSync(join(root, 'twice'), 'utf8')).toBe('two'),
  ],
  [
    'entries after the end are none',
    Buffer.concat([archive(file('before')), file('after')]),
    (root) => expect(existsSync(join(root, 'after'))).toBe(false),
  ],
];

function layer(tar: Buffer, gzip: boolean): TestLayer {
  const blob = gzip ? gzipSync(tar) : tar;
  const mediaType = `application/vnd.oci.image.layer.v1.tar${gzip ? '+gzip' : ''}`;
  return { tar, diffId: sha256(tar), blob, digest: sha256(blob), mediaType };
}

const BELOW = layer(
  tarOf([
    { path: 'dir/below', bytes: Buffer.from('below') },
    { path: 'gone', bytes: Buffer.from('below') },
  ]),
  false,
);

describeWith('hostile layers', [needsRoot()], () => {
  afterAll(() => rmSync(OUTSIDE, { recursive: true, force: true }));

  describe.each(TESTED_DRIVERS)('%s', (driver) => {
    let store: TestStore;
    beforeAll(async () => {
      const limits = { ...DEFAULT_ENGINE_CONFIG.limits, layerBytes: LAYER_BYTES };
      store = await TestStore.open({ driver, limits });
    });
    afterAll(() => store.remove());

    async function load(tar: Buffer): Promise<void> {
      const image = testImage([BELOW, layer(tar, true)]);
      const path = join(store.home, 'image.tar');
      writeFileSync(path, tarOf(layoutMembers([image], [descriptor(image.manifest, named(REF))])));
      await store.load(path);
    }

    it.each(REFUSED)('refuse %s', async (_what, tar, names) => {
      const error = await load(tar).then(
        () => null,
        (thrown: unknown) => thrown,
      );
      expect(error).toBeInstanceOf(LayerdError);
      const { code, message } = error as LayerdError;
      expect(code).toMatch(/^(TAR_|LAYER_LIMIT|COMPRESSION_|ARCHIVE_|NAME_)/);
      if (names !== null) expect(message).toContain(names);
      expect(readdirSync(OUTSIDE)).toEqual([]);
      await store.collect();
      expect([...store.engine.layers()]).toEqual([]);
      expect(await store.problems()).toEqual([]);
    });

    it.each(CONTAINED)('%s', async (_what, tar, look) => {
      await load(tar);
      const root = await store.container(REF, 'looks');
      look(root);
      mkdirSync(join(root, 'written'));
      expect(readdirSync(OUTSIDE)).toEqual([]);
      expect(await store.problems()).toEqual([]);
      await store.removeAll();
    });
  });
});
