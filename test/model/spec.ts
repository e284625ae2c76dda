import type { ByteString } from '../../src/core/bytes.js';
import { encodeEntry, endOfArchive, padding } from '../../src/tar/writer.js';
import type { TarEntryType, TarTime } from '../../src/tar/entry.js';

/** One entry of a layer tar, with its content: what a test says a layer shall be made of. */
export interface EntrySpec {
  type: TarEntryType;
  path: ByteString;
  linkPath: ByteString;
  mode: number;
  uid: number;
  gid: number;
  mtime: TarTime;
  devMajor: number;
  devMinor: number;
  xattrs: ReadonlyMap<ByteString, Buffer> | null;
  content: Buffer;
}

/** A regular file unless `more` says otherwise: 0644 of root, of the time 1,000,000,000, empty. */
export function entrySpec(path: ByteString, more: Partial<EntrySpec> = {}): EntrySpec {
  return {
    type: 'file',
    path,
    linkPath: '' as ByteString,
    mode: more.type === 'directory' ? 0o755 : 0o644,
    uid: 0,
    gid: 0,
    mtime: { sec: 1_000_000_000, nsec: 0 },
    devMajor: 0,
    devMinor: 0,
    xattrs: null,
    content: Buffer.alloc(0),
    ...more,
  };
}

/** The layer as an uncompressed tar. */
export function layerTar(layer: readonly EntrySpec[]): Buffer {
  const parts = layer.flatMap((entry) => {
    const size = entry.type === 'file' ? entry.content.length : 0;
    const header = encodeEntry({ ...entry, size });
    return size === 0 ? [header] : [header, entry.content, Buffer.alloc(padding(size))];
  });
  return Buffer.concat([...parts, endOfArchive()]);
}
