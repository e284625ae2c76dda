import { constants } from 'node:fs';
import type { ByteString } from '../core/bytes.js';
import { libc } from './libc.js';
import { failed, scratch } from './system-error.js';
import { kindOfMode, type FileKind } from './stat.js';

/** One name of a directory, `.` and `..` left out. */
export interface DirectoryEntry {
  name: ByteString;
  /** 'unknown' where the file system does not tell without a look at the inode. */
  kind: FileKind | 'unknown';
}

const buffer = scratch(256 * 1024);

/** Offsets in struct linux_dirent64 (getdents64(2)). */
const RECORD_LENGTH = 16;
const TYPE = 18;
const NAME = 19;

/**
 * The next entries of an open directory in the file system's order, as many as one getdents64(2) gives (thousands);
 * none at its end.
 */
export function nextEntries(fd: number): DirectoryEntry[] {
  for (;;) {
    const length = libc().getdents64(fd, buffer, buffer.length);
    if (length < 0) throw failed('getdents64');
    if (length === 0) return [];
    const entries = decode(length);
    // a call can yield `.` and `..` alone
    if (entries.length > 0) return entries;
  }
}

/** Lets {@link nextEntries} start over. */
export function rewind(fd: number): void {
  if (libc().lseek(fd, 0, 0) < 0) throw failed('lseek');
}

/** All entries of an open directory, from its start, in the file system's order; ends early where there are more than `most`. */
export function readDirectory(fd: number, most = Number.POSITIVE_INFINITY): DirectoryEntry[] {
  rewind(fd);
  let all = nextEntries(fd);
  for (let more = all; more.length > 0 && all.length <= most;) {
    more = nextEntries(fd);
    if (more.length > 0) all = all.concat(more);
  }
  return all;
}

function decode(length: number): DirectoryEntry[] {
  const entries: DirectoryEntry[] = [];
  for (let at = 0; at < length; at += buffer.readUInt16LE(at + RECORD_LENGTH)) {
    const start = at + NAME;
    const name = buffer.toString('latin1', start, buffer.indexOf(0, start)) as ByteString;
    if (name !== '.' && name !== '..') entries.push({ name, kind: kindOfType(buffer.readUInt8(at + TYPE)) });
  }
  return entries;
}

/** d_type is the type bits of the mode shifted by 12; 0 is unknown. */
function kindOfType(type: number): FileKind | 'unknown' {
  return type === 0 ? 'unknown' : kindOfMode((type << 12) & constants.S_IFMT);
}
