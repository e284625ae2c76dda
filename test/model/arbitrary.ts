import * as fc from 'fast-check';
import { bytesOf, type ByteString } from '../../src/core/bytes.js';
import { acceptedEntries } from './merge-model.js';
import { entrySpec, type EntrySpec } from './spec.js';

/** Few and short, so that entries meet; the odd ones are what breaks programs that take names for text. */
const NAMES = ['a', 'b', 'c', 'd'].map(bytesOf);
const ODD_NAMES = [
  '\xff\xfe' as ByteString,
  '\xc3' as ByteString,
  ...['ä', ' ', 'new\nline', '-rf', 'x:y,z', 'back\\slash', '.hidden', '.wh', 'wh.a', '%s', '"', 'n'.repeat(255)].map(
    bytesOf,
  ),
];

const name = fc.oneof({ arbitrary: fc.constantFrom(...NAMES), weight: 9 }, fc.constantFrom(...ODD_NAMES));

/** One to three components, so that a directory is met again as a parent, a file, a link. */
const components = fc.array(name, { minLength: 1, maxLength: 3 });
const prefix = fc.oneof({ arbitrary: fc.constant(''), weight: 4 }, fc.constantFrom('./', '/', 'a/../'));

const time = fc.record({
  sec: fc.oneof(fc.integer({ min: -1000, max: 2_000_000_000 }), fc.integer({ min: 0, max: 4_000_000_000 })),
  nsec: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 999_999_999 })),
});
const owner = fc.constantFrom(0, 1, 1000, 65534, 100_000, 2 ** 32 - 2);
const attributes = fc.record({
  mode: fc.oneof(fc.constantFrom(0o644, 0o755, 0o4755, 0o2755, 0o1777, 0), fc.integer({ min: 0, max: 0o7777 })),
  uid: owner,
  gid: owner,
  mtime: time,
});

const value = fc.oneof(
  fc.constantFrom(Buffer.alloc(0), Buffer.from([0, 0xff, 0x0a]), Buffer.alloc(200, 'v')),
  fc.uint8Array({ maxLength: 20 }).map((bytes) => Buffer.from(bytes)),
);
/** A capability as the kernel takes it: VFS_CAP_REVISION_2, effective, CAP_NET_RAW permitted. */
const capability = Buffer.from('0100000200200000000000000000000000000000', 'hex');

function xattrsOf(...names: string[]) {
  const one = fc.tuple(fc.constantFrom(...names.map(bytesOf)), value);
  return fc.oneof(
    { arbitrary: fc.constant(null), weight: 3 },
    fc.array(one, { minLength: 1, maxLength: 3 }).map((pairs) => new Map(pairs)),
  );
}

/** Overlay's own must not have an effect; users' attributes go onto files and directories only (xattr(7)). */
const xattrs = xattrsOf('user.a', 'user.b', 'trusted.c', 'trusted.overlay.opaque', 'user.overlay.redirect');
const xattrsOfSpecials = xattrsOf('trusted.c', 'trusted.d');
const fileXattrs = fc
  .tuple(xattrs, fc.boolean())
  .map(([some, capable]) =>
    capable ? new Map([...(some ?? []), [bytesOf('security.capability'), capability]]) : some,
  );

const size = fc.oneof(fc.nat({ max: 40 }), fc.constantFrom(0, 511, 512, 513, 4096, 70_000));
const content = fc.tuple(size, fc.integer({ min: 1, max: 255 })).map(([length, fill]) => Buffer.alloc(length, fill));

const file = fc.record({ type: fc.constant('file' as const), content, xattrs: fileXattrs });
const directory = fc.record({ type: fc.constant('directory' as const), xattrs });
const linkTarget = fc
  .tuple(fc.constantFrom('', '/', '../', '../../', './'), components, fc.constantFrom('', '/', '/..'))
  .map(([start, path, end]) => (start + path.join('/') + end) as ByteString);
const symlink = fc.record({ type: fc.constant('symlink' as const), linkPath: linkTarget, xattrs: xattrsOfSpecials });
const device = fc
  .tuple(
    fc.constantFrom('char' as const, 'block' as const),
    fc.constantFrom([0, 0], [1, 3], [8, 1], [259, 300_000], [4095, 1_048_575]),
    xattrsOfSpecials,
  )
  .map(([type, [devMajor = 0, devMinor = 0], some]) => ({ type, devMajor, devMinor, xattrs: some }));
const fifo = fc.record({ type: fc.constant('fifo' as const), xattrs: xattrsOfSpecials });
const hardlink = fc.record({
  type: fc.constant('hardlink' as const),
  linkPath: fc.tuple(prefix, components).map(([start, path]) => (start + path.join('/')) as ByteString),
});

const kind = fc.oneof(
  { arbitrary: file, weight: 6 },
  { arbitrary: directory, weight: 6 },
  { arbitrary: symlink, weight: 2 },
  { arbitrary: hardlink, weight: 4 },
  { arbitrary: fifo, weight: 1 },
  { arbitrary: device, weight: 1 },
);

const ordinary = fc.tuple(prefix, components, kind, attributes).map(([start, path, of, more]) => {
  const end = of.type === 'directory' ? '/' : '';
  return entrySpec((start + path.join('/') + end) as ByteString, { ...more, ...of });
});
const whiteout = fc.tuple(fc.array(name, { maxLength: 2 }), name).map(([path, gone]) => {
  return entrySpec([...path, `.wh.${gone}`].join('/') as ByteString);
});
const opaque = fc
  .array(name, { maxLength: 2 })
  .map((path) => entrySpec([...path, '.wh..wh..opq'].join('/') as ByteString));
const reserved = fc.constantFrom('.wh..wh.plnk/1.2', 'a/.wh..wh.aufs').map((path) => entrySpec(bytesOf(path)));
const root = attributes.map((more) => entrySpec(bytesOf('./'), { ...more, type: 'directory' }));

const entry = fc.oneof(
  { arbitrary: ordinary, weight: 16 },
  { arbitrary: whiteout, weight: 4 },
  { arbitrary: opaque, weight: 2 },
  { arbitrary: reserved, weight: 1 },
  { arbitrary: root, weight: 1 },
);

/** Targets that no earlier entry has make few links: half of them get one that is there. */
function withLinkTargets(entries: readonly (readonly [EntrySpec, number])[]): EntrySpec[] {
  return entries.map(([spec, pick]) => {
    const target = entries[pick]?.[0];
    if (spec.type !== 'hardlink' || target === undefined || target.type === 'directory') return spec;
    return { ...spec, linkPath: target.path };
  });
}

/** Entries in an order in which no tool would write them; some have to be refused. */
export function arbitraryEntries(): fc.Arbitrary<EntrySpec[]> {
  return fc.array(fc.tuple(entry, fc.nat({ max: 8 })), { maxLength: 14 }).map(withLinkTargets);
}

/** A stack of layers, bottom first, each of which every driver has to take. */
export function arbitraryStack(maxLayers = 4): fc.Arbitrary<EntrySpec[][]> {
  return fc.array(arbitraryEntries().map(acceptedEntries), { minLength: 1, maxLength: maxLayers });
}
