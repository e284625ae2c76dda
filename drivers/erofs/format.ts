/**
 * The EROFS on-disk format, as much of it as an index needs: little-endian records written into a buffer. Source: the
 * kernel's Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h. No policy here: what goes where is decided in
 * layout.ts.
 */

/** Block size of every index. Tar payloads start on 512 bytes, so each can be mapped where it lies. */
export const BLOCK_BYTES = 512;
const BLOCK_BITS = 9;

/** Inodes are addressed in slots: nid × 32 = byte address (the metadata area starts at block 0). */
export const SLOT_BYTES = 32;
/** All inodes are of the extended form: the compact one has no time of its own. */
export const INODE_BYTES = 64;
export const DIRENT_BYTES = 12;
export const CHUNK_ENTRY_BYTES = 8;
export const NAME_BYTES_MAX = 255;
/** Blocks have 32-bit addresses; the last value marks a hole. */
export const BLOCK_ADDRESS_MAX = 0xffff_fffe;
/** The largest chunk of a chunk-based file is 512 bytes shifted by this. */
export const CHUNK_BITS_MAX = 31;

const SUPERBLOCK_AT = 1024;
const DEVICE_SLOT_BYTES = 128;

const MAGIC = 0xe0f5e1e2;
// Bit 0 (checksum of the superblock) stays off: with blocks of 512 bytes fsck.erofs up to 1.8 runs past its buffer.
const COMPAT_MTIME = 0x2;
const INCOMPAT_CHUNKED_FILE = 0x4;
const INCOMPAT_DEVICE_TABLE = 0x8;

/** Where the content of an inode lies. */
export const DATA_LAYOUT = {
  /** In a run of blocks. */
  plain: 0,
  /** In a run of blocks, but for the last, partial one, which follows the inode. */
  inline: 2,
  /** In chunks, each with an address of its own. */
  chunked: 4,
} as const;
export type DataLayout = (typeof DATA_LAYOUT)[keyof typeof DATA_LAYOUT];

/** file_type of a directory entry. */
export const FILE_TYPE = { file: 1, directory: 2, char: 3, block: 4, fifo: 5, symlink: 7 } as const;
/** The type bits of i_mode (inode(7)). */
export const MODE_TYPE = {
  file: 0o100000,
  directory: 0o040000,
  char: 0o020000,
  block: 0o060000,
  fifo: 0o010000,
  symlink: 0o120000,
} as const;
export type InodeType = keyof typeof MODE_TYPE;

export interface Superblock {
  rootNid: number;
  inodes: number;
  blocks: number;
  uuid: Uint8Array;
  volumeName: string;
  /** Sizes of the files beside the image that its chunks may point to. */
  deviceBlocks: readonly number[];
}

/** Bytes that superblock and device table take, in whole blocks from the start of the image. */
export function headBytes(devices: number): number {
  return roundUp(SUPERBLOCK_AT + DEVICE_SLOT_BYTES * (1 + devices), BLOCK_BYTES);
}

/** The head of the image: {@link headBytes} bytes. */
export function encodeHead(sb: Superblock): Buffer {
  const head = Buffer.alloc(headBytes(sb.deviceBlocks.length));
  const at = SUPERBLOCK_AT;
  head.writeUInt32LE(MAGIC, at);
  head.writeUInt32LE(COMPAT_MTIME, at + 8);
  head.writeUInt8(BLOCK_BITS, at + 12);
  head.writeUInt16LE(sb.rootNid, at + 14);
  writeU64(head, sb.inodes, at + 16);
  head.writeUInt32LE(sb.blocks, at + 36);
  head.set(sb.uuid.subarray(0, 16), at + 48);
  head.write(sb.volumeName.slice(0, 15), at + 64, 'latin1');
  head.writeUInt32LE(INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE, at + 80);
  head.writeUInt16LE(sb.deviceBlocks.length, at + 86);
  head.writeUInt16LE(SUPERBLOCK_AT / DEVICE_SLOT_BYTES + 1, at + 88);
  for (const [i, blocks] of sb.deviceBlocks.entries()) {
    head.writeUInt32LE(blocks, at + DEVICE_SLOT_BYTES * (1 + i) + 64);
  }
  return head;
}

export interface InodeRecord {
  layout: DataLayout;
  /** i_xattr_icount, see xattrs.ts. */
  xattrCount: number;
  /** Type and permissions. */
  mode: number;
  size: number;
  /** First block, device number or chunk format, by type and layout. */
  union: number;
  /** 1, 2, … in the order of the image. */
  number: number;
  uid: number;
  gid: number;
  mtime: { sec: number; nsec: number };
  links: number;
}

/** Writes an extended inode; the 64 bytes at `at` are zero. */
export function writeInode(into: Buffer, at: number, inode: InodeRecord): void {
  into.writeUInt16LE(1 | (inode.layout << 1), at);
  into.writeUInt16LE(inode.xattrCount, at + 2);
  into.writeUInt16LE(inode.mode, at + 4);
  writeU64(into, inode.size, at + 8);
  into.writeUInt32LE(inode.union, at + 16);
  into.writeUInt32LE(inode.number, at + 20);
  into.writeUInt32LE(inode.uid, at + 24);
  into.writeUInt32LE(inode.gid, at + 28);
  writeU64(into, inode.mtime.sec, at + 32);
  into.writeUInt32LE(inode.mtime.nsec, at + 40);
  into.writeUInt32LE(inode.links, at + 44);
}

export function writeDirent(into: Buffer, at: number, nid: number, nameOffset: number, type: number): void {
  writeU64(into, nid, at);
  into.writeUInt16LE(nameOffset, at + 8);
  into.writeUInt8(type, at + 10);
}

/** i_u of a chunk-based inode whose chunks are 512 << `bits` bytes and have 8-byte entries. */
export function chunkFormat(bits: number): number {
  return 0x20 | bits;
}

/** The block address of a chunk that is a hole. */
export const HOLE = 0xffff_ffff;

/** One entry of a chunk table. Device 0 is the image itself, 1 the first of the files beside it. */
export function writeChunkEntry(into: Buffer, at: number, device: number, block: number): void {
  into.writeUInt16LE(device, at + 2);
  into.writeUInt32LE(block, at + 4);
}

/** A device number as the kernel's new_encode_dev has it: 12 bits of major, 20 of minor. */
export function encodeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
}

export function roundUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}

/** An integer of up to 53 bits and a sign, as two's complement. */
function writeU64(into: Buffer, value: number, at: number): void {
  const high = Math.floor(value / 0x1_0000_0000);
  into.writeUInt32LE(value - high * 0x1_0000_0000, at);
  into.writeUInt32LE(high >>> 0, at + 4);
}

/** Whether these first bytes of a file are the head of an image of so many bytes. */
export function isHeadOf(first: Buffer, imageBytes: number): boolean {
  if (first.length < SUPERBLOCK_AT + BLOCK_BYTES || first.readUInt32LE(SUPERBLOCK_AT) !== MAGIC) return false;
  return first.readUInt32LE(SUPERBLOCK_AT + 36) * BLOCK_BYTES === imageBytes;
}

/** How many inodes the image has that has this head. */
export function inodesIn(head: Buffer): number {
  return Number(head.readBigUInt64LE(SUPERBLOCK_AT + 16));
}

/** The UUID of the image that has this head. */
export function uuidIn(head: Buffer): Buffer {
  return head.subarray(SUPERBLOCK_AT + 48, SUPERBLOCK_AT + 64);
}
