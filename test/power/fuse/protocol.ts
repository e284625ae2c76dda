/** The part of the kernel's FUSE protocol that one file in one directory needs. Source: include/uapi/linux/fuse.h. */

export const OPCODE = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  fsync: 20,
  flush: 25,
  init: 26,
  opendir: 27,
  releasedir: 29,
  interrupt: 36,
  batchForget: 42,
} as const;

export const ROOT_NODE = 1n;
export const FILE_NODE = 2n;

/** Most bytes of one read or write. */
export const TRANSFER_BYTES = 1024 * 1024;
/** What a read of /dev/fuse must have room for: a write with its headers. */
export const REQUEST_BYTES = TRANSFER_BYTES + 4096;

const HEADER_BYTES = 40;
const ANSWER_BYTES = 16;
/** Offset, size and data of struct fuse_read_in and fuse_write_in, behind the header. */
const OFFSET_AT = HEADER_BYTES + 8;
const SIZE_AT = HEADER_BYTES + 16;
const DATA_AT = HEADER_BYTES + 40;

export interface Request {
  opcode: number;
  unique: bigint;
  node: bigint;
  /** All of it, with its header. */
  bytes: Buffer;
}

export function parseRequest(bytes: Buffer): Request {
  return { opcode: bytes.readUInt32LE(4), unique: bytes.readBigUInt64LE(8), node: bytes.readBigUInt64LE(16), bytes };
}

/** The range that a read or write is about. */
export function rangeOf({ bytes }: Request): { offset: number; size: number } {
  return { offset: Number(bytes.readBigUInt64LE(OFFSET_AT)), size: bytes.readUInt32LE(SIZE_AT) };
}

/** A copy of what is to be written. */
export function dataOf(request: Request): Buffer {
  return Buffer.from(request.bytes.subarray(DATA_AT, DATA_AT + rangeOf(request).size));
}

/** The name that is looked up. */
export function nameOf({ bytes }: Request): string {
  return bytes.toString('latin1', HEADER_BYTES, bytes.length - 1);
}

/** struct fuse_out_header before the body; `errno` 0 for success. */
export function answer(unique: bigint, errno: number, body: Buffer = Buffer.alloc(0)): Buffer[] {
  const header = Buffer.alloc(ANSWER_BYTES);
  header.writeUInt32LE(ANSWER_BYTES + body.length, 0);
  header.writeInt32LE(-errno, 4);
  header.writeBigUInt64LE(unique, 8);
  return [header, body];
}

/** struct fuse_init_out: protocol 7.31, requests of up to {@link TRANSFER_BYTES}. */
export function initBody(): Buffer {
  const ASYNC_READ = 1;
  const BIG_WRITES = 1 << 5;
  const MAX_PAGES = 1 << 22;
  const body = Buffer.alloc(64);
  for (const [at, value] of [7, 31, TRANSFER_BYTES, ASYNC_READ | BIG_WRITES | MAX_PAGES].entries()) {
    body.writeUInt32LE(value, at * 4);
  }
  body.writeUInt16LE(64, 16); // requests in the background
  body.writeUInt16LE(48, 18); // of which so many are congestion
  body.writeUInt32LE(TRANSFER_BYTES, 20);
  body.writeUInt32LE(1, 24); // times are in nanoseconds
  body.writeUInt16LE(TRANSFER_BYTES / 4096, 28);
  return body;
}

/** How long the kernel may believe what it was told, in seconds: nothing changes. */
const VALID_S = 3600n;

/** struct fuse_attr_out. */
export function attrBody(node: bigint, size: number): Buffer {
  const head = Buffer.alloc(16);
  head.writeBigUInt64LE(VALID_S, 0);
  return Buffer.concat([head, attributes(node, size)]);
}

/** struct fuse_entry_out. */
export function entryBody(node: bigint, size: number): Buffer {
  const head = Buffer.alloc(40);
  head.writeBigUInt64LE(node, 0);
  head.writeBigUInt64LE(VALID_S, 16);
  head.writeBigUInt64LE(VALID_S, 24);
  return Buffer.concat([head, attributes(node, size)]);
}

/** struct fuse_attr. */
function attributes(node: bigint, size: number): Buffer {
  const S_IFDIR = 0o040000;
  const S_IFREG = 0o100000;
  const attr = Buffer.alloc(88);
  const isRoot = node === ROOT_NODE;
  attr.writeBigUInt64LE(node, 0);
  attr.writeBigUInt64LE(BigInt(isRoot ? 0 : size), 8);
  attr.writeBigUInt64LE(BigInt(isRoot ? 0 : size / 512), 16);
  attr.writeUInt32LE(isRoot ? S_IFDIR | 0o700 : S_IFREG | 0o600, 60);
  attr.writeUInt32LE(isRoot ? 2 : 1, 64);
  attr.writeUInt32LE(4096, 80);
  return attr;
}

/** struct fuse_open_out. `direct`: every read and write comes here, past the kernel's page cache. */
export function openBody(direct: boolean): Buffer {
  const body = Buffer.alloc(16);
  body.writeUInt32LE(direct ? 1 : 0, 8);
  return body;
}

/** struct fuse_write_out. */
export function writeBody(size: number): Buffer {
  const body = Buffer.alloc(8);
  body.writeUInt32LE(size, 0);
  return body;
}

/** struct fuse_statfs_out. */
export function statfsBody(size: number): Buffer {
  const body = Buffer.alloc(80);
  body.writeBigUInt64LE(BigInt(size / 4096), 0);
  body.writeUInt32LE(4096, 40);
  body.writeUInt32LE(255, 44);
  body.writeUInt32LE(4096, 48);
  return body;
}
