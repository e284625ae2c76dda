/** What the tests of the tar codec share: a scan that keeps everything, and headers made by hand. */
import type { ByteString } from '../../src/core/bytes.js';
import { bytesOf } from '../../src/core/bytes.js';
import type { TarEntry, TarLimits, TarSummary } from '../../src/tar/entry.js';
import { padding } from '../../src/tar/entry.js';
import { TarScanner } from '../../src/tar/scanner.js';
import type { EntryToWrite } from '../../src/tar/writer.js';

export interface Scanned {
  entries: TarEntry[];
  /** The stored payload of each entry. */
  payloads: Buffer[];
  raw: Buffer;
  /** raw() and data() in the order they came: the input. */
  all: Buffer;
  summary: TarSummary;
}

/** Scans a whole archive, in chunks of these sizes over and over (by default in one), checking the order of calls. */
export function scan(tar: Buffer, chunks: readonly number[] = [tar.length], limits?: Partial<TarLimits>): Scanned {
  const entries: TarEntry[] = [];
  const payloads: Buffer[][] = [];
  const raw: Buffer[] = [];
  const all: Buffer[] = [];
  let open: Buffer[] | null = null;
  const scanner = new TarScanner(
    {
      entry(entry) {
        if (open !== null) throw new Error('entry() before entryEnd()');
        open = [];
        entries.push(entry);
        payloads.push(open);
      },
      data(chunk) {
        if (open === null) throw new Error('data() outside of an entry');
        if (chunk.length === 0) throw new Error('data() without bytes');
        const copy = Buffer.from(chunk);
        open.push(copy);
        all.push(copy);
      },
      entryEnd() {
        if (open === null) throw new Error('entryEnd() without entry()');
        open = null;
      },
      raw(chunk) {
        if (open !== null) throw new Error('raw() inside an entry');
        const copy = Buffer.from(chunk);
        raw.push(copy);
        all.push(copy);
      },
    },
    limits,
  );
  for (const chunk of chunksOf(tar, chunks)) {
    // a chunk of its own, spoilt afterwards: nothing may lean on the input
    const copy = Buffer.from(chunk);
    scanner.write(copy);
    copy.fill(0xee);
  }
  const summary = scanner.finish();
  return {
    entries,
    payloads: payloads.map((parts) => Buffer.concat(parts)),
    raw: Buffer.concat(raw),
    all: Buffer.concat(all),
    summary,
  };
}

function* chunksOf(tar: Buffer, sizes: readonly number[]): Generator<Buffer> {
  let pos = 0;
  for (let i = 0; pos < tar.length; i++) {
    const size = Math.max(1, sizes[i % sizes.length] ?? 1);
    yield tar.subarray(pos, pos + size);
    pos += size;
  }
}

/** An entry to write, with what is not given left plain. */
export function entryToWrite(given: Partial<EntryToWrite> = {}): EntryToWrite {
  return {
    type: 'file',
    path: bytesOf('file'),
    linkPath: bytesOf(''),
    mode: 0o644,
    uid: 0,
    gid: 0,
    size: 0,
    mtime: { sec: 0, nsec: 0 },
    devMajor: 0,
    devMinor: 0,
    xattrs: null,
    ...given,
  };
}

/** Fields of a header block as text or bytes to stand there, whatever they are; the checksum is made to fit. */
export interface Fields {
  name?: string;
  mode?: string | Buffer;
  uid?: string | Buffer;
  gid?: string | Buffer;
  size?: number | string | Buffer;
  mtime?: string | Buffer;
  flag?: string;
  linkName?: string;
  magic?: string;
  devMajor?: string | Buffer;
  devMinor?: string | Buffer;
  /** Bytes at any other offset. */
  at?: Record<number, string | Buffer>;
  /** The checksum field itself, where it is to be wrong or odd. */
  checksum?: string;
}

/** A ustar header block made by hand. */
export function block(fields: Fields = {}): Buffer {
  const header = Buffer.alloc(512);
  const put = (at: number, value: string | Buffer): void => {
    header.set(typeof value === 'string' ? Buffer.from(value, 'latin1') : value, at);
  };
  put(0, fields.name ?? 'file');
  put(100, fields.mode ?? '0000644\0');
  put(108, fields.uid ?? '0000000\0');
  put(116, fields.gid ?? '0000000\0');
  const size = fields.size ?? 0;
  put(124, typeof size === 'number' ? `${size.toString(8).padStart(11, '0')}\0` : size);
  put(136, fields.mtime ?? '00000000000\0');
  put(156, fields.flag ?? '0');
  put(157, fields.linkName ?? '');
  put(257, fields.magic ?? 'ustar\x0000');
  put(329, fields.devMajor ?? '');
  put(337, fields.devMinor ?? '');
  for (const [at, value] of Object.entries(fields.at ?? {})) put(Number(at), value);
  put(148, '        ');
  const sum = header.reduce((total, byte) => total + byte, 0);
  put(148, fields.checksum ?? `${sum.toString(8).padStart(6, '0')}\0 `);
  return header;
}

/** Bytes with the zeros behind them that fill the last block. */
export function padded(bytes: Buffer | string): Buffer {
  const payload = Buffer.from(bytes);
  return Buffer.concat([payload, Buffer.alloc(padding(payload.length))]);
}

/** A header of the given flag with a body: PAX (x, g) or GNU long names (K, L). */
export function extension(flag: string, body: Buffer | string, fields: Fields = {}): Buffer {
  const bytes = Buffer.from(body);
  return Buffer.concat([block({ name: 'extension', flag, size: bytes.length, ...fields }), padded(bytes)]);
}

/** PAX records with the lengths they need; values are text, or bytes. */
export function records(...pairs: (readonly [key: string, value: string | Buffer])[]): Buffer {
  return Buffer.concat(
    pairs.map(([key, value]) => {
      const tail = Buffer.concat([Buffer.from(` ${key}=`), Buffer.from(value), Buffer.from('\n')]);
      let length = tail.length;
      while (String(length).length + tail.length !== length) length = String(length).length + tail.length;
      return Buffer.concat([Buffer.from(String(length)), tail]);
    }),
  );
}

export const END = Buffer.alloc(1024);

/** Blocks one after the other, and the end marker. */
export function archive(...parts: Buffer[]): Buffer {
  return Buffer.concat([...parts, END]);
}

/** The one entry of an archive made of these parts. */
export function only(...parts: Buffer[]): TarEntry {
  const { entries } = scan(archive(...parts));
  const [entry] = entries;
  if (entry === undefined || entries.length !== 1) throw new Error(`${entries.length} entries`);
  return entry;
}

export function latin1(text: string): ByteString {
  return text as ByteString;
}
