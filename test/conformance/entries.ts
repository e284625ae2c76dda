/** Short words for the entries of layers. */
import { bytesOf, type ByteString } from '../../src/core/bytes.js';
import { entrySpec, type EntrySpec } from '../model/spec.js';

type More = Partial<EntrySpec>;

/** A name as it stands, or as text. */
function pathOf(path: string | Buffer): ByteString {
  return typeof path === 'string' ? bytesOf(path) : (path.toString('latin1') as ByteString);
}

export function file(path: string | Buffer, content: string | Buffer = '', more: More = {}): EntrySpec {
  return entrySpec(pathOf(path), { content: Buffer.from(content), ...more });
}

export function dir(path: string | Buffer, more: More = {}): EntrySpec {
  return entrySpec(`${pathOf(path)}/` as ByteString, { type: 'directory', ...more });
}

export function symlink(path: string, target: string, more: More = {}): EntrySpec {
  return entrySpec(pathOf(path), { type: 'symlink', linkPath: pathOf(target), ...more });
}

export function link(path: string, target: string, more: More = {}): EntrySpec {
  return entrySpec(pathOf(path), { type: 'hardlink', linkPath: pathOf(target), ...more });
}

export function fifo(path: string, more: More = {}): EntrySpec {
  return entrySpec(pathOf(path), { type: 'fifo', ...more });
}

export function device(path: string, type: 'char' | 'block', devMajor: number, devMinor: number): EntrySpec {
  return entrySpec(pathOf(path), { type, devMajor, devMinor, mode: 0o620 });
}

export function whiteout(path: string): EntrySpec {
  const slash = path.lastIndexOf('/') + 1;
  return entrySpec(pathOf(`${path.slice(0, slash)}.wh.${path.slice(slash)}`));
}

/** Marks the directory opaque; '' is the root. */
export function opaque(path: string): EntrySpec {
  return entrySpec(pathOf(`${path === '' ? '' : `${path}/`}.wh..wh..opq`));
}

export function xattrs(values: Record<string, string | Buffer>): More {
  return { xattrs: new Map(Object.entries(values).map(([name, value]) => [bytesOf(name), Buffer.from(value)])) };
}
