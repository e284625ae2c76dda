/**
 * Attributes that implied directories take from the layers below, kept beside the layer: its tar does not tell them, and
 * without them it could not be known whether what is on disk is right.
 */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { InheritedDirectory } from './sink.js';
import type { LayerTree } from './layer-tree.js';
import { fromBuffer, toBuffer, type ByteString } from '../core/bytes.js';
import { sha256 } from '../core/digest.js';
import { isErrno, LayerdError } from '../core/errors.js';

/** Where the stored layer in `directory` keeps what it inherited; nothing is there where it inherited nothing. */
export function inheritedFile(directory: string): string {
  return join(directory, 'inherited');
}

/** Writes the file, or replaces it. Its bytes are durable then; its name is when the caller syncs the directory. */
export function writeInherited(path: string, directories: readonly InheritedDirectory[]): void {
  const part = `${path}.new`;
  const fd = openSync(part, 'w', 0o600);
  try {
    writeFileSync(fd, encodeInherited(directories));
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(part, path);
}

/** The file: a line with the digest of the rest, then JSON; bytes stand as base64. */
function encodeInherited(directories: readonly InheritedDirectory[]): Buffer {
  const json = Buffer.from(`${JSON.stringify(directories.map(toJson))}\n`);
  return Buffer.concat([Buffer.from(`${sha256(json)}\n`), json]);
}

/** What the file holds; null where the layer inherited nothing. Throws LAYER_DAMAGED. */
export function readInherited(path: string): { bytes: Buffer; directories: InheritedDirectory[] } | null {
  let bytes;
  try {
    bytes = readFileSync(path);
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return null;
    throw thrown;
  }
  const line = bytes.indexOf('\n') + 1;
  const json = bytes.subarray(line);
  if (line === 0 || bytes.subarray(0, line - 1).toString() !== sha256(json)) throw damaged(path);
  return { bytes, directories: (JSON.parse(json.toString()) as JsonDirectory[]).map(fromJson) };
}

/** Gives the implied directories of a tree what they inherit. */
export function applyInherited(tree: LayerTree, directories: readonly InheritedDirectory[]): void {
  for (const { path, mode, uid, gid, mtime, xattrs } of directories) {
    const node = tree.lookup(path);
    if (node?.implied !== true) {
      throw new LayerdError('INVALID_ARGUMENT', 'only a directory that the layer implies can inherit attributes', {
        details: { path },
      });
    }
    Object.assign(node, { mode, uid, gid, mtime, xattrs, implied: false });
  }
}

interface JsonDirectory {
  path: string;
  mode: number;
  uid: number;
  gid: number;
  mtime: { sec: number; nsec: number };
  xattrs: [name: string, value: string][] | null;
}

function toJson({ path, xattrs, ...rest }: InheritedDirectory): JsonDirectory {
  const pairs = xattrs === null ? null : [...xattrs].sort(([a], [b]) => (a < b ? -1 : 1));
  return {
    ...rest,
    path: base64(toBuffer(path)),
    xattrs: pairs?.map(([name, value]) => [base64(toBuffer(name)), base64(value)]) ?? null,
  };
}

function fromJson({ path, xattrs, ...rest }: JsonDirectory): InheritedDirectory {
  const pairs = xattrs?.map(([name, value]): [ByteString, Buffer] => [fromBase64(name), Buffer.from(value, 'base64')]);
  return { ...rest, path: fromBase64(path), xattrs: pairs === undefined ? null : new Map(pairs) };
}

/** What comes from another thread is a plain Uint8Array, whatever its type says. */
function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64');
}

function fromBase64(text: string): ByteString {
  return fromBuffer(Buffer.from(text, 'base64'));
}

function damaged(path: string): LayerdError {
  return new LayerdError('LAYER_DAMAGED', `${path} is damaged: it does not match its digest`, {
    details: { path },
    hint: 'Load the image again: what is damaged is replaced in place.',
  });
}
