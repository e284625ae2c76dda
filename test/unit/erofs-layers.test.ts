/** Layers of the erofs driver: stored, mounted, shared, released, checked, mended. */
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  openSync,
  closeSync,
  cpSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import type { LayerFault, StoredLayer } from '../../drivers/driver.js';
import { layerFiles } from '../../drivers/erofs/layer-files.js';
import { ErofsLayers } from '../../drivers/erofs/layers.js';
import type { ErofsOptions } from '../../drivers/erofs/mounts.js';
import { probeErofs } from '../../drivers/erofs/probe.js';
import { decodeSeal, encodeSeal, INDEX_VERSION, SEAL_BYTES } from '../../drivers/erofs/seal.js';
import { ingest } from '../../src/content/ingest.js';
import { bytesOf, type ByteString } from '../../src/core/bytes.js';
import { sha256 } from '../../src/core/digest.js';
import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import { bytesInCache, dropFromCache } from '../../src/disk/cache.js';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { ADVICE, fadvise } from '../../src/linux/sync.js';
import { describeTree } from '../reference/tree.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import {
  filesOf,
  fsck,
  needsErofs,
  needsFsckErofs,
  readsDirectly,
  Scratch,
  store,
  tarOf,
  useDisk,
} from './erofs-fixture.js';

const TAR = tarOf([
  { type: 'directory', path: 'dir/', mode: 0o755 },
  { type: 'file', path: 'dir/file', content: Buffer.from('content of a file') },
  { type: 'file', path: 'implied/file', content: Buffer.from('below a directory that the tar does not list') },
]);

async function stored(scratch: Scratch, dir = 'layer', tar = TAR): Promise<StoredLayer> {
  writeFileSync(scratch.at('a.tar'), tar);
  return store(scratch, scratch.at('a.tar'), dir);
}

function open(scratch: Scratch, directio: ErofsOptions['directio'] = 'auto'): ErofsLayers {
  return new ErofsLayers(scratch.places, { directio });
}

function mountCount(scratch: Scratch): number {
  return mountsBelow(scratch.places.layerMounts).length;
}

/** Readahead of every EROFS mount, in KiB. */
function readaheads(): Map<string, string> {
  const names = readdirSync('/sys/class/bdi').filter((name) => name.startsWith('erofs-'));
  return new Map(names.map((name) => [name, readFileSync(`/sys/class/bdi/${name}/read_ahead_kb`, 'utf8').trim()]));
}

async function* sourceOf(bytes: Buffer) {
  yield bytes;
}

function overwrite(path: string, at: number, bytes: string): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, bytes, at);
  closeSync(fd);
}

const ATTRIBUTES = { mode: 0o2750, uid: 70_000, gid: 5, mtime: { sec: 1, nsec: 2 }, xattrs: null };

/** Gives an index other bytes that mean the same, as another version of the writer might have: its volume has a new name. */
function rewrite(index: string, version: number): void {
  overwrite(index, 1024 + 64, 'renamed');
  const image = readFileSync(index).subarray(0, -SEAL_BYTES);
  writeFileSync(index, Buffer.concat([image, encodeSeal({ version, digest: sha256(image) })]));
}

describeWith('a layer', [needsRoot(), needsErofs()], () => {
  it('is three files, whatever it holds', async () => {
    using scratch = new Scratch();
    const layer = await stored(scratch);
    expect(layer).toMatchObject({ diffId: sha256(TAR), size: TAR.length });
    expect(readdirSync(scratch.places.layer('layer')).sort()).toEqual(['catalog', 'index', 'tar']);
    expect(readFileSync(filesOf(scratch, layer).tar).equals(TAR)).toBe(true);
    const chunks: Buffer[] = [];
    for await (const chunk of open(scratch).tar(layer)) chunks.push(Buffer.from(chunk));
    expect(Buffer.concat(chunks).equals(TAR)).toBe(true);
  });

  it('leaves nothing behind when it is refused', async () => {
    using scratch = new Scratch();
    const wrong = ingest(sourceOf(TAR), open(scratch).begin('layer'), { diffId: sha256('other') });
    await expect(wrong).rejects.toMatchObject({ code: 'DIFF_ID_MISMATCH' });
    expect(readdirSync(scratch.places.layers)).toEqual([]);
    const xattrs = new Map([
      ['user.a' as ByteString, Buffer.alloc(40_000)],
      ['user.b' as ByteString, Buffer.alloc(40_000)],
    ]);
    const large = tarOf([{ type: 'file', path: 'large', xattrs }]);
    await expect(ingest(sourceOf(large), open(scratch).begin('layer'), {})).rejects.toMatchObject({
      code: 'LAYER_LIMIT',
    });
    expect(readdirSync(scratch.places.layers)).toEqual([]);
  });

  it('is mounted once, found again, and gone after release', async () => {
    using scratch = new Scratch();
    const layer = await stored(scratch);
    const lower = open(scratch).lower(layer);
    expect(lower).toBe(join(scratch.places.layerMount('layer'), 'd'));
    expect(readFileSync(join(lower, 'dir/file'), 'utf8')).toBe('content of a file');
    const [mount] = mountsBelow(scratch.places.layerMounts);
    expect(mount?.fsType).toBe('erofs');
    expect(mount?.options).toEqual(expect.arrayContaining(['ro', 'nosuid', 'nodev', 'noexec']));
    const restarted = open(scratch);
    expect(restarted.lower(layer)).toBe(lower);
    expect(mountCount(scratch)).toBe(1);
    restarted.release(layer);
    expect(existsSync(lower)).toBe(false);
    expect(existsSync(scratch.places.layerMount('layer'))).toBe(false);
    restarted.release(layer);
    expect(restarted.lower(layer)).toBe(lower);
    expect(mountCount(scratch)).toBe(1);
  });

  it('is not mounted twice by threads that come at once', async () => {
    using scratch = new Scratch();
    const layer = await stored(scratch);
    const thread = new URL('erofs-mount-thread.js', import.meta.url);
    const { root, run } = scratch.places;
    const workers = Array.from({ length: 4 }, () => new Worker(thread, { workerData: { root, run, layer } }));
    await Promise.all(workers.map((worker) => once(worker, 'exit')));
    expect(mountCount(scratch)).toBe(1);
    open(scratch).release(layer);
    expect(mountCount(scratch)).toBe(0);
  });

  it('is read ahead as far as the disk below it', async () => {
    using scratch = new Scratch();
    useDisk(scratch);
    const layer = await stored(scratch, 'layer', tarOf([{ path: 'large', content: Buffer.alloc(1 << 20) }]));
    const device = statSync(scratch.places.root).dev;
    writeFileSync(`/sys/dev/block/7:${device & 0xff}/bdi/read_ahead_kb`, '2048');
    const before = readaheads();
    open(scratch).lower(layer);
    const made = [...readaheads()].filter(([name]) => !before.has(name)); // other tests mount at the same time
    expect(made.map(([, kib]) => kib)).toContain('2048');
  });

  it('in use cannot be released, and says who holds it', async () => {
    using scratch = new Scratch();
    const layer = await stored(scratch);
    const lower = open(scratch).lower(layer);
    const holder = spawn('sleep', ['60'], { cwd: lower });
    await once(holder, 'spawn');
    expect(() => open(scratch).release(layer)).toThrow(
      expect.objectContaining({ code: 'MOUNT_BUSY', message: expect.stringContaining('sleep') as unknown }),
    );
    expect(existsSync(lower)).toBe(true);
    holder.kill();
    await once(holder, 'exit');
    open(scratch).release(layer);
    expect(mountCount(scratch)).toBe(0);
  });

  it('does not take what somebody else mounted in its place', async () => {
    using scratch = new Scratch();
    const layer = await stored(scratch);
    const target = scratch.places.layerMount('layer');
    execFileSync('mkdir', ['-p', target]);
    execFileSync('mount', ['-t', 'tmpfs', 'none', target]);
    expect(() => open(scratch).lower(layer)).toThrow(expect.objectContaining({ code: 'MOUNT_FAILED' }));
  });
});

const LARGE = randomBytes(8 * 1024 * 1024);
const OF_LARGE = tarOf([{ path: 'file', content: LARGE }]);

describeWith('directio', [needsRoot(), needsErofs()], () => {
  /** Mounts the layer, reads a file of it, and releases it: whether that went around the page cache of the tar. */
  function wasDirect(scratch: Scratch, layer: StoredLayer, directio: ErofsOptions['directio'] = 'auto'): boolean {
    const root = open(scratch, directio).lower(layer);
    const file = readFileSync(join(root, 'file'));
    expect(file.equals(LARGE.subarray(0, file.length))).toBe(true);
    const direct = readsDirectly(root);
    open(scratch).release(layer);
    return direct;
  }

  function dropHead(path: string, bytes: number): void {
    const fd = openSync(path, 'r');
    fadvise(fd, 0, bytes, ADVICE.dontNeed);
    closeSync(fd);
  }

  it('by itself is for large files that are not in the page cache when they are mounted', async () => {
    using scratch = new Scratch();
    useDisk(scratch);
    const layer = await stored(scratch, 'layer', OF_LARGE);
    const { tar } = filesOf(scratch, layer);
    expect(wasDirect(scratch, layer)).toBe(false); // it was stored just now
    dropHead(tar, LARGE.length / 4);
    expect(wasDirect(scratch, layer)).toBe(false);
    dropHead(tar, (LARGE.length / 4) * 3);
    expect(wasDirect(scratch, layer)).toBe(true);
    dropFromCache(tar);
    expect(wasDirect(scratch, layer)).toBe(true);
    expect(bytesInCache(tar)).toBe(0);
  });

  it('by itself leaves a mount that is up as it is', async () => {
    using scratch = new Scratch();
    useDisk(scratch);
    const layer = await stored(scratch, 'layer', OF_LARGE);
    open(scratch).lower(layer);
    dropFromCache(filesOf(scratch, layer).tar);
    expect(wasDirect(scratch, layer)).toBe(false);
  });

  it('by itself is not for small files', async () => {
    using scratch = new Scratch();
    useDisk(scratch);
    const small = Array.from({ length: 128 }, (_, i) => ({ path: `file ${i}`, content: LARGE.subarray(0, 65_536) }));
    const layer = await stored(scratch, 'layer', tarOf([{ path: 'file', content: LARGE }, ...small]));
    dropFromCache(filesOf(scratch, layer).tar);
    expect(wasDirect(scratch, layer)).toBe(false);
  });

  it('by itself is not for disks that cannot read what starts at 512 bytes', async () => {
    using scratch = new Scratch();
    useDisk(scratch, { sectorBytes: 4096 });
    const layer = await stored(scratch, 'layer', OF_LARGE);
    dropFromCache(filesOf(scratch, layer).tar);
    expect(wasDirect(scratch, layer)).toBe(false);
  });

  it('on or off does not ask', async () => {
    using scratch = new Scratch();
    useDisk(scratch);
    const layer = await stored(scratch, 'layer', OF_LARGE);
    expect(wasDirect(scratch, layer, 'on')).toBe(true);
    dropFromCache(filesOf(scratch, layer).tar);
    expect(wasDirect(scratch, layer, 'off')).toBe(false);
  });
});

describeWith('inherited attributes', [needsRoot(), needsErofs(), needsFsckErofs(), needsProgram('python3')], () => {
  it('are those of the implied directories from then on', async () => {
    using scratch = new Scratch();
    const layer = await stored(scratch);
    const plain = await stored(scratch, 'plain');
    const layers = open(scratch);
    const mtime = { sec: 1_234_567_890, nsec: 987_654_321 };
    const xattrs = new Map([[bytesOf('user.from-below'), Buffer.from([0, 255])]]);
    await layers.inherit(layer, [{ path: bytesOf('implied'), mode: 0o2750, uid: 70_000, gid: 5, mtime, xattrs }]);
    expect(fsck(filesOf(scratch, layer))).toBe('');
    const shown = async (which: StoredLayer) => (await describeTree(layers.lower(which))).get('implied');
    expect(await shown(layer)).toMatchObject({
      mode: '2750',
      uid: 70_000,
      gid: 5,
      mtime: '1234567890987654321',
      xattrs: { 'user.from-below': '00ff' },
    });
    expect(await shown(plain)).toMatchObject({ mode: '0755', uid: 0, gid: 0, mtime: '0', xattrs: {} });
    expect(await layers.verify(layer, { quick: false })).toEqual([]);
    expect(readFileSync(filesOf(scratch, layer).index).subarray(1024 + 48, 1024 + 64)).not.toEqual(
      readFileSync(filesOf(scratch, plain).index).subarray(1024 + 48, 1024 + 64),
    );
    await expect(
      layers.inherit(plain, [{ path: bytesOf('dir'), mode: 0, uid: 0, gid: 0, mtime, xattrs: null }]),
    ).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});

describeWith('a damaged layer', [needsRoot(), needsErofs()], () => {
  const damages: { what: string; damage: (layer: string) => void; quick: boolean; fault: Partial<LayerFault> }[] = [
    {
      what: 'a changed byte of a file',
      damage: (at) => overwrite(join(at, 'tar'), TAR.indexOf('content'), 'C'),
      quick: false,
      fault: { code: 'LAYER_CORRUPT', path: 'tar', repairable: false },
    },
    {
      what: 'a tar that ends early',
      damage: (at) => truncateSync(join(at, 'tar'), 1024),
      quick: true,
      fault: { code: 'LAYER_CORRUPT', path: 'tar', repairable: false },
    },
    {
      what: 'a lost tar',
      damage: (at) => rmSync(join(at, 'tar')),
      quick: true,
      fault: { code: 'LAYER_MISSING', path: 'tar', repairable: false },
    },
    {
      what: 'a lost index',
      damage: (at) => rmSync(join(at, 'index')),
      quick: true,
      fault: { code: 'INDEX_CORRUPT', path: 'index', repairable: true },
    },
    {
      what: 'an index that ends early',
      damage: (at) => truncateSync(join(at, 'index'), statSync(join(at, 'index')).size - 512),
      quick: true,
      fault: { code: 'INDEX_CORRUPT', path: 'index', repairable: true },
    },
    {
      what: 'a changed byte of the index',
      damage: (at) => overwrite(join(at, 'index'), statSync(join(at, 'index')).size - SEAL_BYTES - 100, 'X'),
      quick: false,
      fault: { code: 'INDEX_CORRUPT', path: 'index', repairable: true },
    },
    {
      what: 'a changed byte of the seal',
      damage: (at) => overwrite(join(at, 'index'), statSync(join(at, 'index')).size - SEAL_BYTES + 30, 'X'),
      quick: true,
      fault: { code: 'INDEX_CORRUPT', path: 'index', repairable: true },
    },
    {
      what: 'a lost catalog',
      damage: (at) => rmSync(join(at, 'catalog')),
      quick: true,
      fault: { code: 'CATALOG_CORRUPT', path: 'catalog', repairable: true },
    },
    {
      what: 'a changed byte of the catalog',
      damage: (at) => overwrite(join(at, 'catalog'), statSync(join(at, 'catalog')).size - 5, 'XXXX'),
      quick: false,
      fault: { code: 'CATALOG_CORRUPT', path: 'catalog', repairable: true },
    },
  ];

  it.each(damages)('is found out by $what', async ({ damage, quick, fault }) => {
    using scratch = new Scratch();
    const layer = await stored(scratch);
    const layers = open(scratch);
    expect(await layers.verify(layer, { quick: false })).toEqual([]);
    const before = readFileSync(filesOf(scratch, layer).index);
    damage(scratch.places.layer('layer'));
    expect(await layers.verify(layer, { quick: false })).toEqual([expect.objectContaining(fault)]);
    expect(await layers.verify(layer, { quick: true })).toHaveLength(quick ? 1 : 0);
    const left = await layers.repair(layer);
    expect(left).toHaveLength(fault.repairable === true ? 0 : 1);
    if (fault.repairable !== true) return;
    expect(await layers.verify(layer, { quick: false })).toEqual([]);
    expect(readFileSync(filesOf(scratch, layer).index).equals(before)).toBe(true);
  });

  it.each([INDEX_VERSION - 1, INDEX_VERSION + 1])(
    'is none that has an index of another writer (%i)',
    async (version) => {
      using scratch = new Scratch();
      const layer = await stored(scratch);
      const other = await stored(scratch, 'other');
      await open(scratch).inherit(other, [{ path: bytesOf('implied'), ...ATTRIBUTES }]);
      const { index } = filesOf(scratch, layer);
      const { index: ofOther } = filesOf(scratch, other);
      for (const path of [index, ofOther]) rewrite(path, version);
      expect(fsck(filesOf(scratch, layer))).toBe('');
      const layers = open(scratch);
      for (const quick of [true, false]) expect(await layers.verify(layer, { quick })).toEqual([]);
      expect(await layers.repair(layer)).toEqual([]);
      expect(readFileSync(join(layers.lower(layer), 'dir/file'), 'utf8')).toBe('content of a file');
      layers.release(layer);

      const fault = { code: 'INDEX_CORRUPT', path: 'index', repairable: true };
      overwrite(index, statSync(index).size - SEAL_BYTES - 100, 'X');
      expect(await layers.verify(layer, { quick: false })).toEqual([expect.objectContaining(fault)]);
      cpSync(ofOther, index);
      expect(await layers.verify(layer, { quick: false })).toEqual([expect.objectContaining(fault)]);
      expect(await layers.repair(layer)).toEqual([]);
      expect(decodeSeal(readFileSync(index).subarray(-SEAL_BYTES))?.version).toBe(INDEX_VERSION);
      expect(await layers.verify(layer, { quick: false })).toEqual([]);
    },
  );

  it('mounts all the same when only its index is lost, cut off, or damaged anywhere in it', async () => {
    using scratch = new Scratch();
    const layer = await stored(scratch);
    const { index } = filesOf(scratch, layer);
    const before = readFileSync(index);
    const harms = [
      () => rmSync(index),
      () => truncateSync(index, 100),
      // the superblock, an inode or a name, the seal
      ...[1024 + 44, 2048, before.length - SEAL_BYTES - 100, before.length - 40].map(
        (at) => () => overwrite(index, at, 'X'),
      ),
    ];
    for (const damage of harms) {
      damage();
      expect(existsSync(index) && readFileSync(index).equals(before)).toBe(false);
      expect(readFileSync(join(open(scratch).lower(layer), 'dir/file'), 'utf8')).toBe('content of a file');
      expect(readFileSync(index).equals(before)).toBe(true);
      open(scratch).release(layer);
    }
  });

  it('without its tar says so', async () => {
    using scratch = new Scratch();
    const layer = await stored(scratch);
    rmSync(layerFiles(scratch.places.layer('layer')).index);
    rmSync(layerFiles(scratch.places.layer('layer')).tar);
    expect(() => open(scratch).lower(layer)).toThrow(expect.objectContaining({ code: 'LAYER_DAMAGED' }));
    await expect(open(scratch).tar(layer)[Symbol.asyncIterator]().next()).rejects.toMatchObject({
      code: 'LAYER_DAMAGED',
    });
  });
});

describeWith('the probe', [needsRoot(), needsErofs()], () => {
  it('mounts a layer and leaves nothing behind', () => {
    using scratch = new Scratch();
    for (const directio of ['on', 'off', 'auto'] as const) {
      const options = { ...DEFAULT_ENGINE_CONFIG.driverOptions, erofs: { directio } };
      expect(probeErofs(scratch.places, options)).toMatchObject({ available: true });
    }
    expect(readdirSync(scratch.places.snapshots)).toEqual([]);
    expect(mountsBelow(scratch.path)).toEqual([]);
  });

  it('finds out that a disk cannot do directio, which auto does without', () => {
    using scratch = new Scratch();
    useDisk(scratch, { sectorBytes: 4096 });
    const probe = (directio: ErofsOptions['directio']): boolean =>
      probeErofs(scratch.places, { ...DEFAULT_ENGINE_CONFIG.driverOptions, erofs: { directio } }).available;
    expect([probe('on'), probe('auto')]).toEqual([false, true]);
  });

  it('says in plain words why it cannot', () => {
    using scratch = new Scratch();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'ro', 'none', scratch.directory('root')]);
    const { available, reason } = probeErofs(scratch.places, DEFAULT_ENGINE_CONFIG.driverOptions);
    expect(available).toBe(false);
    expect(reason).toMatch(/^Linux .*read-only/);
  });
});
